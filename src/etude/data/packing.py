"""Preparation of packs: from the files of a collection, or by a source that has frames of its own."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from etude.audio.formats import DecodeError
from etude.audio.frontend import FrontEnd
from etude.audio.plausibility import SuspectSoundWarning
from etude.data import pack_writer
from etude.data import workers as runners
from etude.data.collection import Collection, LeftOut, Reader
from etude.data.pack import FORMAT, MANIFEST, Pack, PackOptions, digest
from etude.data.pack_writer import JournalEntry, PackWriter
from etude.data.readers import read_sound
from etude.errors import DataError, UserError
from etude.files import os_errors, ownership
from etude.files.atomic import move, remove_folder
from etude.files.journal import file_stamp
from etude.files.lock import Lock
from etude.files.progress import track

if TYPE_CHECKING:
    import pandas as pd


log = logging.getLogger(__name__)
SHOWN = 10  # suspect clips that the log names
OTHER_PACKS = "name another folder with data.packs=<folder>"


class PackSource(Protocol):
    """Data source that opens or makes its own pack, because its frames do not come from the files of a collection."""

    def pack(self, front: FrontEnd, rules: PackOptions) -> Pack:
        """Return the pack of the source."""


def open_pack(source: Collection | PackSource, front: FrontEnd, rules: PackOptions) -> Pack:
    """Return the pack of a data source, prepared first where it is missing or out of date.

    Args:
        source: The data source.
        front: Front end of the frames.
        rules: Options of the preparation.

    Raises:
        DataError: The source cannot be packed.
        UserError: The front end does not fit the source.
    """
    return prepare_pack(source, front, rules) if isinstance(source, Collection) else source.pack(front, rules)


def prepare_pack(collection: Collection, front: FrontEnd, rules: PackOptions) -> Pack:
    """The pack of a collection, from disk when it is there and still true, else made now.

    Files are known by size and time of change (or by content, when only the time differs): clips that an earlier pack
    or an interrupted draft holds are taken from there. Changed labels change only the table.

    Args:
        collection: What to pack.
        front: How frames are made.
        rules: Where to, and what to leave out.

    Returns:
        The opened pack. Files that give no frames are left out and listed in its skipped.csv with the reason.

    Raises:
        DataError: Too many files give no frames.
        UserError: The front end takes images, and the collection holds sound.
    """
    if collection.reader is read_sound and not front.reads_sound:
        raise UserError(
            f"feature=image: takes images, and {collection.name} holds sound; choose another feature, "
            "such as feature=mel"
        )
    key = json.dumps({**front.to_dict(), **rules.identity}, sort_keys=True)
    folder = rules.packs / f"{collection.name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    origin = {"front": front.to_dict(), **rules.identity, **about(collection)}
    left_out = collection.left_out
    table = collection.table.reset_index(drop=True)
    if locate := collection.locate:
        table = table.assign(path=[str(locate(Path(path), front)) for path in table["path"]])
    files = [JournalEntry(clip, *file_stamp(Path(path))) for clip, path in zip(table["id"], table["path"], strict=True)]
    made = [entry for entry, _ in _known(folder, rules.retry).values()]
    if made and _same(made, files) and _manifest(folder).get("origin") == origin:
        with suppress(DataError):  # complete, and read without a lock, so that the folder may be read-only
            return Pack(folder)
    with os_errors.explained(folder, OTHER_PACKS, f"data.packs={rules.packs}"), lock(folder, rules):
        pack_writer.recover(folder)
        known = _known(folder, rules.retry)
        made = [entry for entry, _ in known.values()]
        if made and _same(made, files) and _manifest(folder).get("origin") == origin:
            with suppress(DataError):  # its index is lost or garbled: described anew below
                return Pack(folder)
        kept = len(made) == len(files) and all(map(_still, made, files, table["path"]))
        if made and kept and all(frames is None or digest(frames) == one.content for one, frames in known.values()):
            _refresh(folder, made, files, table.drop(columns="path"), origin, left_out)
            return Pack(folder)
        return _make(replace(collection, table=table), front, rules, folder, files, known, origin)


def about(collection: Collection) -> dict[str, Any]:
    """What a pack says of its collection, and a hash of its table without the paths."""
    said = {name: getattr(collection, name) for name in ("name", "title", "targets", "card", "note", "extra")}
    table = collection.table.drop(columns="path").to_csv(index=False)
    found = {"collection": json.loads(json.dumps(said)), "table": hashlib.sha256(table.encode()).hexdigest()}
    if collection.left_out:  # so that skipped.csv is written anew when something else is left out
        items = json.dumps([(item.item, item.reason) for item in collection.left_out])
        found["left_out"] = hashlib.sha256(items.encode()).hexdigest()
    return found


Known = dict[str, tuple[JournalEntry, np.ndarray | None]]


def _make(
    collection: Collection,
    front: FrontEnd,
    rules: PackOptions,
    folder: Path,
    files: list[JournalEntry],
    known: Known,
    origin: dict[str, Any],
) -> Pack:
    part = folder.with_name(f".{folder.name}.part")
    pack_writer.check_replaceable(folder)
    begun = pack_writer.journal(part)
    again = rules.retry and not all(entry.frames for entry in begun)
    stale = sorted(folder.parent.glob(f".{glob.escape(folder.name)}.stale*"))
    if again or not _same(begun, files[: len(begun)]):  # changed meanwhile: take from the draft what still holds
        stale.append(folder.with_name(f".{folder.name}.stale{len(stale)}"))
        move(part, stale[-1])
    for old in stale:
        known |= _known(old, rules.retry)
    table = collection.table
    with PackWriter(part) as unfinished:
        done = len(unfinished.entries)
        if done:
            log.info("%s: going on after %d of %d clips", collection.name, done, len(files))
        wanted = list(zip(files, table["path"], strict=True))[done:]
        reused = [_reusable(known, file, path) for file, path in wanted]
        # frames that are ready have no length in seconds before they are read, and take no memory beyond their file
        reader = partial(read_sound, longest=rules.longest) if collection.reader is read_sound else collection.reader
        jobs = [(reader, file, path, front, rules.shortest)
                for (file, path), old in zip(wanted, reused, strict=True) if old is None]  # fmt: skip
        fresh = iter(runners.run(_clip, jobs, rules.workers, rules.ray))
        results: Iterator[tuple[JournalEntry, np.ndarray | None]] = (
            next(fresh) if old is None else old for old in reused
        )
        reasons = [entry.reason for entry in unfinished.entries if not entry.frames]
        lost = [f"{item.item}: {item.reason}" for item in collection.left_out if item.clip]
        _allow(collection.name, unfinished, reasons, lost, len(files), rules.max_skipped)
        for entry, frames in track(results, len(wanted), f"Frames of {collection.name}", "clips"):
            unfinished.append(entry, frames)
            if not entry.frames:
                reasons.append(entry.reason)
                _allow(collection.name, unfinished, reasons, lost, len(files), rules.max_skipped)
        if len(reasons) == len(unfinished.entries):
            remove_folder(part)
            raise DataError(f"{collection.name}: no clip gives frames; for example {reasons[0]}")
        pack = unfinished.finish(folder, table.drop(columns="path"), {"origin": origin}, collection.left_out)
    for old in stale:
        remove_folder(old)
    if missing := pack.manifest["skipped"]:
        log.warning("%d clips are skipped; %s says why", missing, folder / pack_writer.SKIPPED)
    elif collection.left_out:
        log.info("%s lists what is left out", folder / pack_writer.SKIPPED)
    _log_suspects([f"{entry.id}: {entry.suspect}" for entry in unfinished.entries if entry.suspect], folder)
    return pack


def _log_suspects(suspects: list[str], folder: Path) -> None:
    """Warn of clips that are used and may not be music."""
    if suspects:
        log.warning(
            "%d clips are used, although they may not be music; %s lists them",
            len(suspects),
            folder / pack_writer.SUSPECT,
        )
    for suspect in suspects[:SHOWN]:
        log.warning("%s", suspect)
    if len(suspects) > SHOWN:
        log.warning("... and %d more", len(suspects) - SHOWN)


def _allow(name: str, unfinished: PackWriter, reasons: list[str], lost: list[str], count: int, share: float) -> None:
    """Refuse a collection of which too much is skipped, also by earlier calls, or lost before a file could be read."""
    if len(reasons) + len(lost) > share * (count + len(lost)):
        if len(reasons) == len(unfinished.entries):
            remove_folder(unfinished.folder)
        raise DataError(
            f"{name}: {len(reasons) + len(lost)} clips of {count + len(lost)} already give no frames, more than "
            f"data.max_skipped={share:g} allows; for example {[*reasons, *lost][0]}; repair or remove them, or allow "
            f"more with data.max_skipped=<share>"
        )


def _clip(job: tuple[Reader, JournalEntry, str, FrontEnd, float]) -> tuple[JournalEntry, np.ndarray | None]:
    """Frames of one file, float16, or the reason why there are none."""
    reader, file, path, front, shortest = job
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise DecodeError(f"{path}: is not a regular file")  # opening a named pipe would wait for a writer
        entry = replace(file, sha256=_sha(path) if file.size >= 0 else "")
        with np.errstate(over="ignore"), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", SuspectSoundWarning)
            frames = reader(Path(path), front, shortest).astype(np.float16)
        for other in (one for one in caught if not issubclass(one.category, SuspectSoundWarning)):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        suspects = (str(one.message) for one in caught if issubclass(one.category, SuspectSoundWarning))
        suspect = "; ".join(each.removeprefix(f"{path}: ") for each in suspects)
        if not np.isfinite(frames).all():
            raise DecodeError(f"{path}: gives frames that are not finite")
        entry = replace(entry, frames=len(frames), bins=frames.shape[1], content=digest(frames), suspect=suspect)
        return entry, frames
    except DecodeError as error:
        return replace(file, reason=str(error)), None
    except OSError as error:
        return replace(file, reason=f"{path}: cannot be read ({error.strerror or error})"), None


def _sha(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _same(entries: list[JournalEntry], files: list[JournalEntry]) -> bool:
    """Whether a journal is of these very files."""
    return [(e.id, e.size, e.modified) for e in entries] == [(f.id, f.size, f.modified) for f in files]


def _still(entry: JournalEntry, file: JournalEntry, path: str) -> bool:
    """Whether a file is what it was: same size and time, or same size and content."""
    if (entry.id, entry.size) != (file.id, file.size):
        return False
    return entry.modified == file.modified or (bool(entry.sha256) and entry.sha256 == _sha(path))


def _reusable(known: Known, file: JournalEntry, path: str) -> tuple[JournalEntry, np.ndarray | None] | None:
    """A clip that was packed before, under the present time of its file."""
    entry, frames = known.get(file.id, (None, None))
    if entry is None or not _still(entry, file, path) or (frames is not None and digest(frames) != entry.content):
        return None
    return replace(entry, modified=file.modified), frames


def _known(folder: Path, retry: bool) -> Known:
    """What a pack or a draft holds, by id; only what is whole, and what was skipped unless that is tried again."""
    return {entry.id: (entry, frames) for entry, frames in pack_writer.read(folder, pack_writer.journal(folder))
            if frames is not None or not (entry.frames or retry)}  # fmt: skip


def lock(folder: Path, rules: PackOptions) -> Lock:
    """Take the lock of a pack, which the caller releases; of two processes that want it, one waits.

    Raises:
        UserError: The folder of packs cannot be written, or is only to be read.
    """
    if rules.read_only:
        raise DataError(
            f"data.packs={rules.packs}: has no pack that is up to date, and none is made there because a stored config "
            "named the folder; name one with data.packs=<folder>"
        )
    with os_errors.explained(folder.parent, OTHER_PACKS, f"data.packs={folder.parent}"):
        ownership.open_folder(folder.parent)
        held = Lock(folder.with_name(f".{folder.name}.lock"), str(folder))
        held.acquire(wait=True)
    return held


def _refresh(
    folder: Path,
    entries: list[JournalEntry],
    files: list[JournalEntry],
    table: pd.DataFrame,
    origin: dict[str, Any],
    left_out: tuple[LeftOut, ...],
) -> None:
    """New labels, or new times of unchanged files: the frames stay, what describes them is written anew."""
    now = [replace(entry, modified=file.modified) for entry, file in zip(entries, files, strict=True)]
    pack_writer.rewrite(folder, now)
    pack_writer.describe(folder, now, table, {"origin": origin}, left_out)


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else {}
