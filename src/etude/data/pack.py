"""Frames on disk: one memory-mapped float16 file for all clips, a table of where each begins, and a manifest.

A crop of a clip is one contiguous read. float16 holds dB values to within 0.04 dB, which is below what 16-bit audio
carries at that level, at half the memory of float32.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.data.collection import DataError

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
FRAMES, INDEX, MANIFEST = "frames.f16", "index.parquet", "manifest.json"


class Pack:
    """An opened pack.

    Args:
        folder: Where `write` put it.

    Attributes:
        index: The table of clips, with `start` and `frames` (both in frames) of each in the map.
        manifest: Format, front end, fingerprint of the source, counts and the hash of the frames.
        starts, lengths: Where each clip begins in the map and how many frames it has, (N,) each.
        frames: All frames (sum of T, F), float16, memory-mapped read-only.

    Raises:
        DataError: The folder is not a pack, or its files do not belong together.
    """

    def __init__(self, folder: Path) -> None:
        import pandas as pd

        self.folder = folder
        try:
            self.manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            self.index: pd.DataFrame = pd.read_parquet(folder / INDEX)
            self.starts, self.lengths = self.index["start"].to_numpy(), self.index["frames"].to_numpy()
            shape = (int(self.lengths.sum()), int(self.manifest["bins"]))
            self.frames = np.memmap(folder / FRAMES, dtype=np.float16, mode="r").reshape(shape)
        except (OSError, KeyError, ValueError) as error:
            raise DataError(
                f"{folder}: is not a whole pack ({error}); delete the folder and it is made again"
            ) from error

    def clip(self, row: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """Frames of one clip, (length, F) float16, from `start` frames after its beginning; shorter at its end."""
        first, frames = int(self.starts[row]), int(self.lengths[row])
        stop = frames if length is None else min(start + length, frames)
        return self.frames[first + start : first + stop]

    def verify(self) -> None:
        """Raise DataError when the frames are not, byte for byte, those that were written."""
        if digest(self.folder / FRAMES) != self.manifest["sha256"]:
            raise DataError(
                f"{self.folder / FRAMES}: was changed after it was written; delete the folder to make it again"
            )


def write(
    folder: Path,
    table: pd.DataFrame,
    clips: Iterable[np.ndarray],
    manifest: dict[str, Any],
    texts: dict[str, str] | None = None,
) -> Pack:
    """Write a pack so that it is there whole or not at all.

    Args:
        folder: Where it will be. What stands there is replaced.
        table: One row per clip, in the order of `clips`.
        clips: Frames (T, F) of each clip.
        manifest: What to keep beside the counts and the hash.
        texts: Further files to put beside, by name.

    Returns:
        The pack, opened.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent))
    try:
        counts, bins = [], 0
        with (draft / FRAMES).open("wb") as file:
            for clip in clips:
                np.ascontiguousarray(clip, dtype=np.float16).tofile(file)
                counts.append(len(clip))
                bins = clip.shape[1]
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        table.reset_index(drop=True).assign(start=starts, frames=counts).to_parquet(draft / INDEX)
        for name, text in (texts or {}).items():
            (draft / name).write_text(text, encoding="utf-8")
        manifest = {"format": FORMAT, **manifest, "bins": bins, "clips": len(counts), "sha256": digest(draft / FRAMES)}
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")
        _replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Pack(folder)


def _replace(draft: Path, folder: Path) -> None:
    """Rename `draft` to `folder`; a pack that another process put there first is moved aside and goes."""
    if folder.exists():
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent))
        folder.rename(aside / "old")
        shutil.rmtree(aside, ignore_errors=True)
    draft.rename(folder)


def digest(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
