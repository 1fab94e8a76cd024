"""Crash-safe writing of packs, clip by clip, with a journal.

After its frames, a clip gets one line in the journal; a line that is there is a clip that is done. Killed at any moment
and opened again, a draft drops what stands behind the last whole line and goes on, so it ends with the same bytes.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.data.collection import LeftOut
from etude.data.pack import FORMAT, FRAMES, INDEX, MANIFEST, Pack, combined, digest
from etude.errors import DataError
from etude.files import ownership
from etude.files.atomic import move, open_file, remove_folder, replacing, write_bytes, write_text
from etude.files.journal import Journal, read_lines, write_whole

if TYPE_CHECKING:
    import pandas as pd


JOURNAL, SKIPPED, SUSPECT = "journal.jsonl", "skipped.csv", "suspect.csv"
ITEM = np.dtype(np.float16).itemsize


@dataclass(frozen=True)
class JournalEntry:
    """A line of the journal.

    Args:
        id: The clip.
        size: Of its file, in bytes; -1 when there is none.
        modified: Of its file, in nanoseconds since 1970.
        sha256: Of its file.
        frames: How many it gave, T; 0 when it is skipped.
        bins: Width of a frame, F.
        content: Hash of the frames.
        reason: Why it is skipped.
        suspect: Why it may not be music, although it is used.
    """

    id: str
    size: int
    modified: int
    sha256: str = ""
    frames: int = 0
    bins: int = 0
    content: str = ""
    reason: str = ""
    suspect: str = ""

    @property
    def bytes(self) -> int:
        """Size of its frames in the map."""
        return self.frames * self.bins * ITEM


def journal(folder: Path) -> list[JournalEntry]:
    """The whole lines of a folder's journal; none where there is no journal."""
    entries = []
    try:
        for _, line in read_lines(folder / JOURNAL):
            entries.append(JournalEntry(**json.loads(line)))
    except (OSError, ValueError, TypeError):
        pass  # what stands behind the first broken line is made again
    return entries


class PackWriter:
    """Opens or begins a draft; a context manager, which keeps what is done whatever ends it.

    Args:
        folder: Where the draft is.

    Attributes:
        entries: What is done, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ownership.open_folder(folder)
        self.entries = self._sound(journal(folder))
        self._frames, self._journal = open_file(folder / FRAMES, "ab", buffering=0), Journal(folder / JOURNAL)
        self._frames.truncate(sum(entry.bytes for entry in self.entries))
        self._journal.truncate(sum(len(_line(entry)) for entry in self.entries))

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frames.close()
        self._journal.close()

    def append(self, entry: JournalEntry, frames: np.ndarray | None) -> None:
        """Add a clip: its frames (T, F) float16, or none when it is skipped; then its line."""
        if frames is not None:
            write_whole(self._frames, np.ascontiguousarray(frames).data.cast("B"))
        self._journal.append(_line(entry))
        self.entries.append(entry)

    def finish(
        self, target: Path, table: pd.DataFrame, manifest: dict[str, Any], left_out: Sequence[LeftOut] = ()
    ) -> Pack:
        """Make the draft a pack.

        Args:
            target: Where the pack will be. What stands there is replaced.
            table: One row per entry, in the same order.
            manifest: What to keep beside format, counts and hash.
            left_out: What the source of the clips does not use; listed with the clips that gave no frames.

        Returns:
            The pack, opened.
        """
        self._frames.close()
        self._journal.close()
        describe(self.folder, self.entries, table, manifest, left_out)
        replace(self.folder, target)
        return Pack(target)

    def _sound(self, entries: list[JournalEntry]) -> list[JournalEntry]:
        """The entries up to the first whose frames are not what its line says, as after a power failure."""
        for place, (entry, frames) in enumerate(read(self.folder, entries)):
            if entry.frames and (frames is None or digest(frames) != entry.content):
                return entries[:place]
        return entries


def write(folder: Path, table: pd.DataFrame, clips: Iterable[np.ndarray], manifest: dict[str, Any]) -> Pack:
    """A pack of frames that are at hand.

    Args:
        folder: Where it will be. What stands there is replaced.
        table: One row per clip, in the order of `clips`, with `id`.
        clips: Frames (T, F) of each clip.
        manifest: What to keep beside format, counts and hash.

    Returns:
        The pack, opened.
    """
    remove_folder(part := folder.with_name(f".{folder.name}.part"))
    try:
        with PackWriter(part) as draft:
            for clip, frames in zip(table["id"], (np.ascontiguousarray(c, np.float16) for c in clips), strict=True):
                entry = JournalEntry(str(clip), -1, 0, "", len(frames), frames.shape[1], digest(frames))
                draft.append(entry, frames)
            return draft.finish(folder, table, manifest)
    finally:
        remove_folder(part)


def read(folder: Path, entries: list[JournalEntry]) -> Iterator[tuple[JournalEntry, np.ndarray | None]]:
    """Entries with their frames (T, F) float16 from a folder's map; None for a clip that is skipped or is not there."""
    path, start = folder / FRAMES, 0
    whole = np.memmap(path, np.uint8, "r") if path.is_file() and path.stat().st_size else np.empty(0, np.uint8)
    for entry in entries:
        stop = start + entry.bytes
        there = entry.frames and stop <= len(whole)
        yield entry, whole[start:stop].view(np.float16).reshape(entry.frames, entry.bins) if there else None
        start = stop


def rewrite(folder: Path, entries: list[JournalEntry]) -> None:
    """Replace a folder's journal."""
    write_bytes(folder / JOURNAL, b"".join(map(_line, entries)))


def describe(
    folder: Path,
    entries: list[JournalEntry],
    table: pd.DataFrame,
    manifest: dict[str, Any],
    left_out: Sequence[LeftOut] = (),
) -> None:
    """Write what belongs to frames and journal: the list of the skipped, the index, and last the manifest.

    The list has a row for each clip that gave no frames, and for each item of `left_out`.
    """
    import pandas as pd

    kept = [entry for entry in entries if entry.frames]
    skipped = [(entry.id, entry.reason) for entry in entries if not entry.frames]
    listed = [*skipped, *((item.item, item.reason) for item in left_out)]
    write_text(folder / SKIPPED, pd.DataFrame(listed, columns=["id", "reason"]).to_csv(index=False))
    if suspect := [(entry.id, entry.suspect) for entry in kept if entry.suspect]:
        write_text(folder / SUSPECT, pd.DataFrame(suspect, columns=["id", "reason"]).to_csv(index=False))
    counts = np.array([entry.frames for entry in kept], dtype=np.int64)
    index = table[[entry.frames > 0 for entry in entries]].reset_index(drop=True)
    index = index.assign(start=np.cumsum(counts) - counts, frames=counts, content=[entry.content for entry in kept])
    with replacing(folder / INDEX) as draft:
        index.to_parquet(draft, write_page_checksum=True)
    whole = hashlib.sha256((folder / INDEX).read_bytes()).hexdigest()
    counted: dict[str, Any] = {
        "index": whole,
        "bins": kept[0].bins if kept else 0,
        "clips": len(kept),
        "skipped": len(skipped),
    }
    if left_out:
        counted["left_out"] = len(left_out)
    manifest = {"format": FORMAT, **manifest, **counted, "sha256": combined(index["content"])}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False))


def replace(draft: Path, target: Path) -> None:
    """Rename `draft` to `target`; what was there goes. `recover` mends what an interruption between the two leaves.

    Raises:
        DataError: The target is not a pack that Étude wrote, or holds other files.
    """
    check_replaceable(target)
    aside = _aside(target)
    if target.exists():
        move(target, aside)
    move(draft, target)
    remove_folder(aside)


def check_replaceable(target: Path) -> None:
    """Refuse to replace a folder that is a link or holds anything but the files of a pack that Étude wrote.

    Raises:
        DataError: It is or does.
    """
    if target.is_symlink():
        raise DataError(f"{target}: is a symbolic link, and its pack is out of date; remove the link to make it again")
    if target.is_dir() and (others := _others(target)):
        raise DataError(
            f"{target}: the pack is out of date, and the folder holds other files "
            f"({', '.join(others[:3])}); move them away"
        )


def _others(target: Path) -> list[str]:
    """Return what a pack's folder holds besides the pack: files of the user, or those of a run that was put there."""
    names = {FRAMES, JOURNAL, SKIPPED, SUSPECT, INDEX, MANIFEST, ownership.LIST}
    besides = {entry.name for entry in target.iterdir() if not entry.name.endswith(ownership.DRAFT)} - names
    return sorted({*ownership.foreign(target), *besides})


def recover(target: Path) -> None:
    """Put back, or take away, what an interrupted `replace` left aside."""
    aside = _aside(target)
    for folder in (target, aside, *target.parent.glob(f".{glob.escape(target.name)}.*")):
        if folder.is_dir():
            ownership.check_names(folder, ())  # its own list counts, and not that of the folder of packs
    if aside.is_dir() and not target.exists():
        move(aside, target)
    remove_folder(aside)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _line(entry: JournalEntry) -> bytes:
    return (json.dumps({k: v for k, v in asdict(entry).items() if v not in ("", 0)} | {"size": entry.size,
            "modified": entry.modified}, ensure_ascii=False) + "\n").encode()  # fmt: skip
