"""Packs of frames, and the options of their preparation.

A pack is one memory-mapped float16 file for all clips, a table with the start of each clip, and a manifest.

A crop of a clip is read in one contiguous block. float16 needs half the memory of float32. It stores dB values to
within 0.04 dB, which is below the resolution of 16-bit audio at that level.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.errors import DataError, UserError
from etude.files.journal import file_hash

if TYPE_CHECKING:
    import pandas as pd


FORMAT = 2
FRAMES, INDEX, MANIFEST = "frames.f16", "index.parquet", "manifest.json"
LONGEST = 3600.0  # seconds; computing the frames of one hour takes about a gigabyte in each process


@dataclass(frozen=True)
class PackOptions:
    """Options of the preparation of a pack.

    Args:
        packs: Folder of packs. Each front end has its own pack there.
        shortest: Minimum length of a clip in seconds. Shorter clips are skipped.
        max_skipped: Largest accepted share of skipped clips. A collection with a larger share is refused.
        workers: Number of processes. None means one per core.
        ray: Address of a Ray cluster, or `local`. None uses processes of this machine.
        retry: Try skipped files again, even if they are unchanged.
        read_only: Refuse to create or change a pack. A complete and current pack can be read.
        longest: Maximum length of an audio file in seconds. Longer files are skipped, and decoding stops there. None
            sets no limit.
    """

    packs: Path = Path("outputs/packs")
    shortest: float = 0.0
    max_skipped: float = 0.1
    workers: int | None = None
    ray: str | None = None
    retry: bool = False
    read_only: bool = False
    longest: float | None = LONGEST

    def __post_init__(self) -> None:
        if self.longest is not None and not self.longest > max(self.shortest, 0.0):
            raise UserError(
                f"data.max_seconds={self.longest:g}: must be greater than data.min_seconds={self.shortest:g}, or null"
            )

    @property
    def identity(self) -> dict[str, float | None]:
        """Options that determine which clips a pack contains. `longest` is omitted if it has its default value."""
        limit = {} if self.longest == LONGEST else {"longest": self.longest}
        return {"shortest": self.shortest, **limit}


class Pack:
    """Reader of a pack.

    Args:
        folder: Folder of the pack.

    Attributes:
        index: The table of clips. `start` and `frames` are the first frame and the number of frames of a clip in the
            memory-mapped file. `content` is the hash of these frames, which is equal for clips with the same audio.
        manifest: Format, front end, description of the collection, counts, and the hash of all frames.
        starts: First frame of each clip in the memory-mapped file (N,).
        lengths: Number of frames of each clip (N,).
        frames: All frames (sum of T, F), float16, memory-mapped read-only.

    Raises:
        DataError: The folder is not a pack, or its files are inconsistent.
    """

    def __init__(self, folder: Path) -> None:
        import pandas as pd

        self.folder = folder
        try:
            self.manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            self.index: pd.DataFrame = pd.read_parquet(folder / INDEX, page_checksum_verification=True)
            self.starts, self.lengths = self.index["start"].to_numpy(), self.index["frames"].to_numpy()
            shape = (int(self.lengths.sum()), int(self.manifest["bins"]))
            self.frames = np.memmap(folder / FRAMES, dtype=np.float16, mode="r").reshape(shape)
            if self.manifest["sha256"] != combined_hash(self.index["content"]):
                raise ValueError("the table does not match the manifest")
            if self.manifest.get("index") not in (None, file_hash(folder / INDEX)):
                raise ValueError(f"{INDEX} was changed after it was written")
            if self._frames_modified():
                self.verify()
                with suppress(OSError):  # so that the next process skips the check
                    os.utime(folder / MANIFEST)
        except DataError:
            raise
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{folder}: is not a complete pack ({error}); delete the folder to prepare it again"
            ) from error

    def clip(self, row: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """Return the frames of a clip (length, F), float16, from `start`, or fewer if the clip ends earlier."""
        first, frames = int(self.starts[row]), int(self.lengths[row])
        stop = frames if length is None else min(start + length, frames)
        return self.frames[first + start : first + stop]

    def _frames_modified(self) -> bool:
        """Return whether the frames were modified after the manifest, which is written last."""
        frames, manifest = ((self.folder / name).stat().st_mtime_ns for name in (FRAMES, MANIFEST))
        return frames > manifest

    def verify(self) -> None:
        """Compare the frames of each clip with their hash.

        Raises:
            DataError: The frames of a clip were changed.
        """
        for row, content in enumerate(self.index["content"]):
            if frames_hash(self.clip(row)) != content:
                raise DataError(
                    f"{self.folder / FRAMES}: clip {self.index['id'][row]!r} was changed after it was written; delete "
                    "the folder to prepare it again"
                )


def frames_hash(frames: np.ndarray) -> str:
    """Return the SHA-256 of the frames of a clip (T, F), float16, and of their number of bins."""
    return hashlib.sha256(frames.shape[1].to_bytes(4, "little") + np.ascontiguousarray(frames).tobytes()).hexdigest()


def combined_hash(contents: Iterable[str]) -> str:
    """Return one hash of the hashes of all clips, in order."""
    return hashlib.sha256("\n".join(contents).encode()).hexdigest()
