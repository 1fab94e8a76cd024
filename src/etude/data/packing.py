"""Preparation of packs from the files of a collection."""

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

from etude.audio.clip_statistics import SuspectSoundWarning
from etude.audio.formats import DecodeError
from etude.audio.frontend import FrontEnd
from etude.data import pack_writer, workers
from etude.data.audio_files import SkippedItem, read_precomputed, read_sound
from etude.data.collection import Collection, Reader
from etude.data.pack import FORMAT, MANIFEST, Pack, PackOptions, frames_hash
from etude.data.pack_writer import JournalEntry, PackWriter
from etude.errors import DataError, UserError
from etude.files import os_errors, ownership
from etude.files.atomic import move, remove_folder
from etude.files.journal import Lock, file_hash, file_stamp
from etude.system.streams import track

if TYPE_CHECKING:
    import pandas as pd


log = logging.getLogger(__name__)
SHOWN = 10  # suspect clips that the log names
OTHER_PACKS = "set another folder with data.packs=<folder>"


class PackSource(Protocol):
    """Data source that provides its own pack, because its frames do not come from files of a collection."""

    def pack(self, front: FrontEnd, options: PackOptions) -> Pack:
        """Return the pack of the source."""


def open_pack(source: Collection | PackSource, front: FrontEnd, options: PackOptions) -> Pack:
    """Return the pack of a data source, and prepare it first if it is missing or outdated.

    Args:
        source: The data source.
        front: Front end of the frames.
        options: Options of the preparation.

    Raises:
        DataError: The pack of the source cannot be prepared.
        UserError: The front end does not support the source.
    """
    return prepare_pack(source, front, options) if isinstance(source, Collection) else source.pack(front, options)


def prepare_pack(collection: Collection, front: FrontEnd, options: PackOptions) -> Pack:
    """Return the pack of a collection, and prepare it first if it is missing or outdated.

    A file counts as unchanged if its size and modification time are the same, or if its size and content are the same.
    The frames of unchanged files are reused from an earlier pack or an interrupted draft. Changed labels change only
    the table.

    Args:
        collection: Collection of clips.
        front: Front end that computes the frames.
        options: Folder of packs, and limits of clips.

    Returns:
        The opened pack. Files without frames are skipped and listed in its skipped.csv with the reason.

    Raises:
        DataError: Too many files are skipped.
        UserError: The front end requires images, and the collection contains audio.
    """
    if collection.reader is read_sound and not front.reads_sound:
        raise UserError(
            f"feature=image: requires images, but {collection.name} contains audio; use another feature, "
            "such as feature=mel"
        )
    key = json.dumps({**front.to_dict(), **options.identity}, sort_keys=True)
    folder = options.packs / f"{collection.name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    origin = {"front": front.to_dict(), **options.identity, **describe_collection(collection)}
    skipped_items = collection.skipped_items
    table = collection.table.reset_index(drop=True)
    if locate := collection.locate:
        table = table.assign(path=[str(locate(Path(path), front)) for path in table["path"]])
    files = [JournalEntry(clip, *file_stamp(Path(path))) for clip, path in zip(table["id"], table["path"], strict=True)]
    packed = [entry for entry, _ in _read_packed(folder, options.retry).values()]
    if packed and _same_files(packed, files) and _is_current(folder, origin, options):
        with suppress(DataError):  # a complete pack is read without a lock, because its folder may be read-only
            return Pack(folder)
    with os_errors.explain_errors(folder, OTHER_PACKS, f"data.packs={options.packs}"), lock_pack(folder, options):
        pack_writer.recover_pack(folder)
        clips = _read_packed(folder, options.retry)
        packed = [entry for entry, _ in clips.values()]
        if packed and _same_files(packed, files) and _is_current(folder, origin, options):
            with suppress(DataError):  # a missing or damaged index is written again below
                return Pack(folder)
        unchanged = len(packed) == len(files) and all(map(_is_unchanged, packed, files, table["path"]))
        if packed and unchanged and all(_is_intact(entry, frames) for entry, frames in clips.values()):
            hash_files = collection.reader is not read_precomputed
            _update_index(folder, packed, files, table.drop(columns="path"), origin, skipped_items, hash_files)
            return Pack(folder)
        return _write_new_pack(replace(collection, table=table), front, options, folder, files, clips, origin)


def describe_collection(collection: Collection) -> dict[str, Any]:
    """Return the description of a collection for the manifest, with a hash of the table except its paths."""
    names = ("name", "title", "targets", "card", "note", "extra", "id_space")
    description = {name: getattr(collection, name) for name in names}
    table = collection.table.drop(columns="path").to_csv(index=False)
    origin = {"collection": json.loads(json.dumps(description)), "table": hashlib.sha256(table.encode()).hexdigest()}
    if collection.skipped_items:  # so that skipped.csv is written again when the skipped items change
        items = json.dumps([(item.item, item.reason) for item in collection.skipped_items])
        origin["left_out"] = hashlib.sha256(items.encode()).hexdigest()
    return origin


PackedClips = dict[str, tuple[JournalEntry, np.ndarray | None]]


def _write_new_pack(
    collection: Collection,
    front: FrontEnd,
    options: PackOptions,
    folder: Path,
    files: list[JournalEntry],
    clips: PackedClips,
    origin: dict[str, Any],
) -> Pack:
    """Write a pack, with frames of unchanged files from earlier packs and drafts."""
    draft = folder.with_name(f".{folder.name}.part")
    pack_writer.check_replaceable(folder)
    drafted = pack_writer.read_journal(draft)
    retry_skipped = options.retry and not all(entry.frames for entry in drafted)
    stale = sorted(folder.parent.glob(f".{glob.escape(folder.name)}.stale*"))
    # after a change of files, only the valid clips of the draft are reused
    if retry_skipped or not _same_files(drafted, files[: len(drafted)]):
        stale.append(folder.with_name(f".{folder.name}.stale{len(stale)}"))
        move(draft, stale[-1])
    for old in stale:
        clips |= _read_packed(old, options.retry)
    table = collection.table
    with PackWriter(draft) as writer:
        done = len(writer.entries)
        if done:
            log.info("%s: resuming after %d of %d clips", collection.name, done, len(files))
        remaining = list(zip(files, table["path"], strict=True))[done:]
        reused = [_find_unchanged(clips, file, path) for file, path in remaining]
        # precomputed frames have no length in seconds before they are read, and take no memory beyond their file
        reader = partial(read_sound, longest=options.longest) if collection.reader is read_sound else collection.reader
        jobs = [(reader, file, path, front, options.shortest)
                for (file, path), old in zip(remaining, reused, strict=True) if old is None]  # fmt: skip
        computed = iter(workers.map_jobs(_compute_frames, jobs, options.workers, options.ray))
        results: Iterator[tuple[JournalEntry, np.ndarray | None]] = (
            next(computed) if old is None else old for old in reused
        )
        reasons = [entry.reason for entry in writer.entries if not entry.frames]
        missing = [f"{item.item}: {item.reason}" for item in collection.skipped_items if item.clip]
        note = f"; {collection.missing_note}" if collection.missing_note else ""
        _check_skipped(collection, writer, reasons, missing, len(files), options.max_skipped)
        for entry, frames in track(results, len(remaining), f"Frames of {collection.name}", "clips"):
            writer.append(entry, frames)
            if not entry.frames:
                reasons.append(entry.reason)
                _check_skipped(collection, writer, reasons, missing, len(files), options.max_skipped)
        if len(reasons) == len(writer.entries):
            remove_folder(draft)
            raise DataError(f"{collection.name}: all clips were skipped; for example {reasons[0]}{note}")
        hash_files = collection.reader is not read_precomputed
        table = table.drop(columns="path")
        pack = writer.finish(folder, table, {"origin": origin}, collection.skipped_items, hash_files)
    for old in stale:
        remove_folder(old)
    if skipped := pack.manifest["skipped"]:
        count_text = "1 clip was" if skipped == 1 else f"{skipped} clips were"
        log.warning("%s skipped; the reasons are in %s%s", count_text, folder / pack_writer.SKIPPED, note)
    elif collection.skipped_items:
        log.info("skipped items are listed in %s", folder / pack_writer.SKIPPED)
    _log_suspects([f"{entry.id}: {entry.suspect}" for entry in writer.entries if entry.suspect], folder)
    return pack


def _log_suspects(suspects: list[str], folder: Path) -> None:
    """Log a warning for clips that are used but may not be music."""
    if suspects:
        log.warning(
            "%d clips are used although they may not be music; they are listed in %s",
            len(suspects),
            folder / pack_writer.SUSPECT,
        )
    for suspect in suspects[:SHOWN]:
        log.warning("%s", suspect)
    if len(suspects) > SHOWN:
        log.warning("... and %d more", len(suspects) - SHOWN)


def _check_skipped(
    collection: Collection, writer: PackWriter, reasons: list[str], missing: list[str], count: int, share: float
) -> None:
    """Check the share of skipped clips, including clips that earlier calls skipped and table rows without a file.

    Raises:
        DataError: The share is larger than allowed.
    """
    if len(reasons) + len(missing) > share * (count + len(missing)):
        if len(reasons) == len(writer.entries):
            remove_folder(writer.folder)
        note = f"{collection.missing_note}; " if collection.missing_note else ""
        paths = collection.table.get("path", ())
        if absent := sum(not Path(str(path)).exists() for path in paths):
            note += f"{absent} of the {count} files do not exist; "
        raise DataError(
            f"{collection.name}: {len(reasons) + len(missing)} of {count + len(missing)} clips were skipped, more than "
            f"data.max_skipped={share:g} allows; for example {[*reasons, *missing][0]}; {note}repair or remove these "
            "files, or increase data.max_skipped"
        )


def _compute_frames(job: tuple[Reader, JournalEntry, str, FrontEnd, float]) -> tuple[JournalEntry, np.ndarray | None]:
    """Return the frames of a file, float16, or the reason for skipping it."""
    reader, file, path, front, shortest = job
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise DecodeError(f"{path}: is not a regular file")  # opening a named pipe would wait for a writer
        entry = replace(file, sha256=file_hash(Path(path)) if file.size >= 0 else "")
        with np.errstate(over="ignore"), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", SuspectSoundWarning)
            frames = reader(Path(path), front, shortest).astype(np.float16)
        for other in (item for item in caught if not issubclass(item.category, SuspectSoundWarning)):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        findings = (str(item.message) for item in caught if issubclass(item.category, SuspectSoundWarning))
        suspect = "; ".join(finding.removeprefix(f"{path}: ") for finding in findings)
        if not np.isfinite(frames).all():
            raise DecodeError(f"{path}: has frames that are not finite")
        entry = replace(entry, frames=len(frames), bins=frames.shape[1], content=frames_hash(frames), suspect=suspect)
        return entry, frames
    except DecodeError as error:
        return replace(file, reason=str(error)), None
    except OSError as error:
        return replace(file, reason=f"{path}: cannot be read ({error.strerror or error})"), None


def _same_files(entries: list[JournalEntry], files: list[JournalEntry]) -> bool:
    """Return whether entries have the ids, sizes and modification times of the files."""
    return [(e.id, e.size, e.modified) for e in entries] == [(f.id, f.size, f.modified) for f in files]


def _is_unchanged(entry: JournalEntry, file: JournalEntry, path: str) -> bool:
    """Return whether a file has the same size and modification time, or the same size and content."""
    if (entry.id, entry.size) != (file.id, file.size):
        return False
    return entry.modified == file.modified or (bool(entry.sha256) and entry.sha256 == file_hash(Path(path)))


def _is_intact(entry: JournalEntry, frames: np.ndarray | None) -> bool:
    """Return whether the frames of a clip match the hash in its entry."""
    return frames is None or frames_hash(frames) == entry.content


def _find_unchanged(clips: PackedClips, file: JournalEntry, path: str) -> tuple[JournalEntry, np.ndarray | None] | None:
    """Return the packed clip of an unchanged file, with the file's current modification time."""
    entry, frames = clips.get(file.id, (None, None))
    if entry is None or not _is_unchanged(entry, file, path) or not _is_intact(entry, frames):
        return None
    return replace(entry, modified=file.modified), frames


def _read_packed(folder: Path, retry: bool) -> PackedClips:
    """Return the complete clips of a pack or draft by id, and the skipped clips unless they are tried again."""
    entries = pack_writer.read_journal(folder)
    return {entry.id: (entry, frames) for entry, frames in pack_writer.read_frames(folder, entries)
            if frames is not None or not (entry.frames or retry)}  # fmt: skip


def lock_pack(folder: Path, options: PackOptions) -> Lock:
    """Acquire the lock of a pack, which the caller releases.

    The call waits while another process holds the lock.

    Raises:
        UserError: The folder of packs cannot be written or is read-only.
    """
    if options.read_only:
        raise DataError(
            f"data.packs={options.packs}: the pack is missing or outdated; data.packs comes from the config of a "
            "saved run, so nothing is written there; set another folder with data.packs=<folder>"
        )
    with os_errors.explain_errors(folder.parent, OTHER_PACKS, f"data.packs={folder.parent}"):
        ownership.open_folder(folder.parent)
        acquired = Lock(folder.with_name(f".{folder.name}.lock"), str(folder))
        acquired.acquire(wait=True)
    return acquired


def _update_index(
    folder: Path,
    entries: list[JournalEntry],
    files: list[JournalEntry],
    table: pd.DataFrame,
    origin: dict[str, Any],
    skipped_items: tuple[SkippedItem, ...],
    hash_files: bool,
) -> None:
    """Write new labels, or new modification times of unchanged files, and keep the frames."""
    updated = [replace(entry, modified=file.modified) for entry, file in zip(entries, files, strict=True)]
    pack_writer.rewrite_journal(folder, updated)
    pack_writer.write_index(folder, updated, table, {"origin": origin}, skipped_items, hash_files)


def _is_current(folder: Path, origin: dict[str, Any], options: PackOptions) -> bool:
    """Return whether the manifest describes this collection.

    A pack of an earlier version has no id space. It is read as it is if it cannot be written.
    """
    stored = _read_manifest(folder).get("origin")
    if options.read_only and isinstance(stored, dict) and isinstance(stored.get("collection"), dict):
        stored = {**stored, "collection": {"id_space": origin["collection"]["id_space"], **stored["collection"]}}
    return bool(stored == origin)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else {}
