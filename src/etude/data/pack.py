"""Packs of frames, and the options by which they are prepared.

A pack is one memory-mapped float16 file for all clips, a table of where each begins, and a manifest.

A crop of a clip is one contiguous read. float16 holds dB values to within 0.04 dB, which is below what 16-bit audio
carries at that level, at half the memory of float32.
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

if TYPE_CHECKING:
    import pandas as pd


FORMAT = 2
FRAMES, INDEX, MANIFEST = "frames.f16", "index.parquet", "manifest.json"
LONGEST = 3600.0  # seconds; of an hour the frames of a process take about a gigabyte while they are made


@dataclass(frozen=True)
class PackOptions:
    """What is packed, and by whom.

    Args:
        packs: Folder of packs. Each front end has one of its own beside the others.
        shortest: Clips below this length are skipped, in seconds.
        max_skipped: Share of clips that may be skipped. More is a mistake, not a collection.
        workers: Processes; none means one per core.
        ray: Address of a Ray cluster, or `local`; none uses processes of this machine.
        retry: Try again what was skipped, although its files are what they were.
        read_only: Refuse to make or change a pack; one that is complete and up to date is read.
        longest: Sound files above this length are skipped, in seconds; none accepts any. They are decoded no further.
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
        """Values that decide which clips a pack has; the usual `longest` is left out, as in packs without a limit."""
        limit = {} if self.longest == LONGEST else {"longest": self.longest}
        return {"shortest": self.shortest, **limit}


class Pack:
    """An opened pack.

    Args:
        folder: Where it is.

    Attributes:
        index: The table of clips, with `start` and `frames` (both in frames) of each in the map, and `content`, the
            hash of its frames: equal for the same sound under two ids.
        manifest: Format, front end, what the collection says of itself, counts, and the hash of all frames.
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
            self.index: pd.DataFrame = pd.read_parquet(folder / INDEX, page_checksum_verification=True)
            self.starts, self.lengths = self.index["start"].to_numpy(), self.index["frames"].to_numpy()
            shape = (int(self.lengths.sum()), int(self.manifest["bins"]))
            self.frames = np.memmap(folder / FRAMES, dtype=np.float16, mode="r").reshape(shape)
            if self.manifest["sha256"] != combined(self.index["content"]):
                raise ValueError("its table is not the one that was written with its manifest")
            if self.manifest.get("index") not in (None, hashlib.sha256((folder / INDEX).read_bytes()).hexdigest()):
                raise ValueError(f"{INDEX} was changed after it was written")
            if self._touched():
                self.verify()
                with suppress(OSError):  # the next process need not look again
                    os.utime(folder / MANIFEST)
        except DataError:
            raise
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{folder}: is not a whole pack ({error}); delete the folder and it is made again"
            ) from error

    def clip(self, row: int, start: int = 0, length: int | None = None) -> np.ndarray:
        """Frames of one clip, (length, F) float16, from `start` frames after its beginning; shorter at its end."""
        first, frames = int(self.starts[row]), int(self.lengths[row])
        stop = frames if length is None else min(start + length, frames)
        return self.frames[first + start : first + stop]

    def _touched(self) -> bool:
        """Return whether the frames were written after the manifest, which is the last file of a pack."""
        frames, manifest = ((self.folder / name).stat().st_mtime_ns for name in (FRAMES, MANIFEST))
        return frames > manifest

    def verify(self) -> None:
        """Raise DataError when the frames of a clip are not, byte for byte, those that were written."""
        for row, content in enumerate(self.index["content"]):
            if digest(self.clip(row)) != content:
                raise DataError(
                    f"{self.folder / FRAMES}: clip {self.index['id'][row]!r} was changed after it was written; delete "
                    "the folder to make it again"
                )


def digest(frames: np.ndarray) -> str:
    """SHA-256 of the frames of a clip, (T, F) float16, and of their number of bins."""
    return hashlib.sha256(frames.shape[1].to_bytes(4, "little") + np.ascontiguousarray(frames).tobytes()).hexdigest()


def combined(contents: Iterable[str]) -> str:
    """One hash from those of all clips, in order."""
    return hashlib.sha256("\n".join(contents).encode()).hexdigest()
