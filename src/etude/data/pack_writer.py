"""Crash-safe writing of packs, clip by clip, with a journal.

A clip gets a line in the journal after its frames are written. A draft that was interrupted at any moment resumes after
the last complete line. The finished pack then has the same bytes as a pack that was written without interruption.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.data.audio_files import SkippedItem
from etude.data.pack import FORMAT, FRAMES, INDEX, MANIFEST, Pack, combined_hash, frames_hash
from etude.errors import DataError
from etude.files import ownership
from etude.files.atomic import move, open_file, remove_folder, replacing, write_bytes, write_text
from etude.files.journal import Journal, file_hash, read_lines, write_all

if TYPE_CHECKING:
    import pandas as pd


JOURNAL, SKIPPED, SUSPECT = "journal.jsonl", "skipped.csv", "suspect.csv"
ITEM = np.dtype(np.float16).itemsize


@dataclass(frozen=True)
class JournalEntry:
    """Line of the journal.

    Args:
        id: Id of the clip.
        size: Size of its file in bytes; -1 if the file is missing.
        modified: Modification time of its file, in nanoseconds since 1970.
        sha256: Hash of its file.
        frames: Number of frames, T; 0 if the clip is skipped.
        bins: Width of a frame, F.
        content: Hash of the frames.
        reason: Reason for skipping the clip.
        suspect: Reason why a used clip may not be music.
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
        """Size of the frames in bytes."""
        return self.frames * self.bins * ITEM


def read_journal(folder: Path) -> list[JournalEntry]:
    """Return the complete lines of a folder's journal, or an empty list if there is no journal."""
    entries = []
    try:
        for _, line in read_lines(folder / JOURNAL):
            entries.append(JournalEntry(**json.loads(line)))
    except (OSError, ValueError, TypeError):
        pass  # clips after the first broken line are computed again
    return entries


class PackWriter:
    """Writer of a new or resumed draft of a pack.

    It is a context manager that keeps finished clips after any error.

    Args:
        folder: Folder of the draft.

    Attributes:
        entries: Journal entries of the finished clips, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ownership.open_folder(folder)
        self.entries = self._intact(read_journal(folder))
        self._frames, self._journal = open_file(folder / FRAMES, "ab", buffering=0), Journal(folder / JOURNAL)
        self._frames.truncate(sum(entry.bytes for entry in self.entries))
        self._journal.truncate(sum(len(_journal_line(entry)) for entry in self.entries))

    def __enter__(self) -> PackWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frames.close()
        self._journal.close()

    def append(self, entry: JournalEntry, frames: np.ndarray | None) -> None:
        """Append the frames (T, F), float16, of a clip, or None for a skipped clip, and then its journal line."""
        if frames is not None:
            write_all(self._frames, np.ascontiguousarray(frames).data.cast("B"))
        self._journal.append(_journal_line(entry))
        self.entries.append(entry)

    def finish(
        self,
        target: Path,
        table: pd.DataFrame,
        manifest: dict[str, Any],
        skipped_items: Sequence[SkippedItem] = (),
        hash_files: bool = False,
    ) -> Pack:
        """Complete the draft and move it to its folder.

        Args:
            target: Folder of the pack. An existing pack is replaced.
            table: One row per entry, in the same order.
            manifest: Further keys of the manifest, beside format, counts and hash.
            skipped_items: Items that the source skipped; they are listed with the skipped clips.
            hash_files: Whether a clip is recognised by its file, not by its frames.

        Returns:
            The pack, opened.
        """
        self._frames.close()
        self._journal.close()
        write_index(self.folder, self.entries, table, manifest, skipped_items, hash_files)
        replace_pack(self.folder, target)
        return Pack(target)

    def _intact(self, entries: list[JournalEntry]) -> list[JournalEntry]:
        """Return the entries before the first one with damaged frames, such as after a power failure."""
        for index, (entry, frames) in enumerate(read_frames(self.folder, entries)):
            if entry.frames and (frames is None or frames_hash(frames) != entry.content):
                return entries[:index]
        return entries


def write_pack(folder: Path, table: pd.DataFrame, clips: Iterable[np.ndarray], manifest: dict[str, Any]) -> Pack:
    """Write a pack of given frames.

    Args:
        folder: Folder of the pack. An existing pack is replaced.
        table: One row per clip, in the order of `clips`, with `id`.
        clips: Frames (T, F) of each clip.
        manifest: Further keys of the manifest, beside format, counts and hash.

    Returns:
        The pack, opened.
    """
    remove_folder(draft := folder.with_name(f".{folder.name}.part"))
    try:
        with PackWriter(draft) as writer:
            for clip, frames in zip(table["id"], (np.ascontiguousarray(c, np.float16) for c in clips), strict=True):
                entry = JournalEntry(str(clip), -1, 0, "", len(frames), frames.shape[1], frames_hash(frames))
                writer.append(entry, frames)
            return writer.finish(folder, table, manifest)
    finally:
        remove_folder(draft)


def read_frames(folder: Path, entries: list[JournalEntry]) -> Iterator[tuple[JournalEntry, np.ndarray | None]]:
    """Yield entries with their frames (T, F), float16, or None for a clip that is skipped or missing."""
    path, start = folder / FRAMES, 0
    data = np.memmap(path, np.uint8, "r") if path.is_file() and path.stat().st_size else np.empty(0, np.uint8)
    for entry in entries:
        stop = start + entry.bytes
        complete = entry.frames and stop <= len(data)
        yield entry, data[start:stop].view(np.float16).reshape(entry.frames, entry.bins) if complete else None
        start = stop


def rewrite_journal(folder: Path, entries: list[JournalEntry]) -> None:
    """Replace a folder's journal."""
    write_bytes(folder / JOURNAL, b"".join(map(_journal_line, entries)))


def write_index(
    folder: Path,
    entries: list[JournalEntry],
    table: pd.DataFrame,
    manifest: dict[str, Any],
    skipped_items: Sequence[SkippedItem] = (),
    hash_files: bool = False,
) -> None:
    """Write the list of skipped items, the index, and last the manifest.

    The list has a row for each clip without frames and for each item of `skipped_items`. The index has the column
    `sound_hash`, by which a clip is recognised in another pack: the hash of its file, or of its frames if
    `hash_files` is false because they do not depend on a front end.
    """
    import pandas as pd

    kept = [entry for entry in entries if entry.frames]
    skipped = [(entry.id, entry.reason) for entry in entries if not entry.frames]
    listed = [*skipped, *((item.item, item.reason) for item in skipped_items)]
    write_text(folder / SKIPPED, pd.DataFrame(listed, columns=["id", "reason"]).to_csv(index=False))
    if suspect := [(entry.id, entry.suspect) for entry in kept if entry.suspect]:
        write_text(folder / SUSPECT, pd.DataFrame(suspect, columns=["id", "reason"]).to_csv(index=False))
    counts = np.array([entry.frames for entry in kept], dtype=np.int64)
    index = table[[entry.frames > 0 for entry in entries]].reset_index(drop=True)
    sounds = [entry.sha256 if hash_files else entry.content for entry in kept]
    index = index.assign(
        start=np.cumsum(counts) - counts, frames=counts, content=[entry.content for entry in kept], sound_hash=sounds
    )
    with replacing(folder / INDEX) as draft:
        index.to_parquet(draft, write_page_checksum=True)
    index_hash = file_hash(folder / INDEX)
    counts_by_key: dict[str, Any] = {
        "index": index_hash,
        "bins": kept[0].bins if kept else 0,
        "clips": len(kept),
        "skipped": len(skipped),
    }
    if skipped_items:
        counts_by_key["left_out"] = len(skipped_items)
    manifest = {"format": FORMAT, **manifest, **counts_by_key, "sha256": combined_hash(index["content"])}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False))


def replace_pack(draft: Path, target: Path) -> None:
    """Rename a draft to the folder of its pack and remove the old pack.

    `recover_pack` repairs the folder after an interruption.

    Raises:
        DataError: The target is not a pack that Étude wrote, or contains other files.
    """
    check_replaceable(target)
    backup = _backup_folder(target)
    if target.exists():
        move(target, backup)
    move(draft, target)
    remove_folder(backup)


def check_replaceable(target: Path) -> None:
    """Check that a folder contains only files of a pack that Étude wrote.

    Raises:
        DataError: The folder is a link or contains other files.
    """
    if target.is_symlink():
        raise DataError(f"{target}: is a symbolic link to an outdated pack; remove the link to prepare the pack again")
    if target.is_dir() and (others := _foreign_files(target)):
        raise DataError(
            f"{target}: the pack is outdated and the folder contains other files "
            f"({', '.join(others[:3])}); move them to another folder"
        )


def _foreign_files(target: Path) -> list[str]:
    """Return the files in a pack's folder that do not belong to the pack, such as files of the user or of a run."""
    names = {FRAMES, JOURNAL, SKIPPED, SUSPECT, INDEX, MANIFEST, ownership.LIST_NAME}
    other_names = {entry.name for entry in target.iterdir() if not entry.name.endswith(ownership.DRAFT_SUFFIX)} - names
    return sorted({*ownership.foreign_paths(target), *other_names})


def recover_pack(target: Path) -> None:
    """Restore or remove the old pack after an interrupted `replace_pack`."""
    backup = _backup_folder(target)
    for folder in (target, backup, *target.parent.glob(f".{glob.escape(target.name)}.*")):
        if folder.is_dir():
            ownership.check_names(folder, ())  # checks the file list of this folder, not of the folder of packs
    if backup.is_dir() and not target.exists():
        move(backup, target)
    remove_folder(backup)


def _backup_folder(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _journal_line(entry: JournalEntry) -> bytes:
    return (json.dumps({k: v for k, v in asdict(entry).items() if v not in ("", 0)} | {"size": entry.size,
            "modified": entry.modified}, ensure_ascii=False) + "\n").encode()  # fmt: skip


def read_skipped(pack: Any) -> list[tuple[str, str]]:
    """Return ids and reasons of skipped clips, also of a pack that consists of several packs."""
    import pandas as pd

    if not hasattr(pack, "folder"):
        return [row for member in pack.packs for row in read_skipped(member)]
    path = pack.folder / SKIPPED
    table = pd.read_csv(path, dtype=str, keep_default_na=False) if path.is_file() else pd.DataFrame()
    return [(str(row["id"]), str(row["reason"])) for _, row in table.iterrows()]
