"""Front end of several networks, which packs the frames of their own front ends into one array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


BASE, DIGITS = 1024, 3  # of a number of frames; digits below 2048 are exact in float16, the type of packs


@dataclass(frozen=True)
class JointFrontEnd(FrontEnd):
    """Front end that computes the frames of several front ends.

    Audio is decoded once at the highest sample rate, and soxr resamples it for front ends with a lower rate. Each front
    end has some columns of the packed frames (R, W). Its values, frame after frame, fill these columns row by row. The
    last column contains the number of frames of each front end.

    A row has the duration of a frame of the reference, the first front end with the highest rate. `rate`, `n_fft` and
    `hop_length` are those of the reference.

    Args:
        fronts: Front ends of the networks.
        columns: First column that a network uses, and the column after the last, for each front end.
        rate, n_fft, hop_length, n_mels, n_chroma, sync: Not used.

    Raises:
        UserError: A front end does not read sound, or all front ends with the highest rate are beat-synchronous.
    """

    fronts: Sequence[FrontEnd] = ()
    columns: Sequence[Sequence[int]] = ()
    supports_beats: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if any(not front.reads_sound for front in self.fronts):
            raise UserError("a front end of images cannot be combined with another front end")
        rate = max(front.rate for front in self.fronts)
        if not any(front.rate == rate and front.sync == "none" for front in self.fronts):
            raise UserError(f"beat-synchronous frames at {rate} Hz cannot be combined with frames of a lower rate")
        object.__setattr__(self, "rate", rate)
        reference = self.displayed()
        values: dict[str, Any] = {"n_fft": reference.n_fft, "hop_length": reference.hop_length}
        values |= {"fronts": tuple(self.fronts), "columns": tuple((first, last) for first, last in self.columns)}
        values["revision"] = sum(front.revision for front in self.fronts)  # increases with that of any of them
        for name, value in values.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "n_mels", sum(self.widths) + 1)

    def displayed(self) -> FrontEnd:
        """Return the front end of the spectrograms on pages, the reference."""
        return next(front for front in self.fronts if front.rate == self.rate and front.sync == "none")

    @property
    def sizes(self) -> list[int]:
        """Number of bins of each front end that its network uses."""
        return [last - first for first, last in self.columns]

    @property
    def widths(self) -> list[int]:
        """Number of columns of each front end in the packed frames."""
        ratios = (front.frames_per_second / self.frames_per_second for front in self.fronts)
        return [ceil(size * ratio) for size, ratio in zip(self.sizes, ratios, strict=True)]

    @property
    def decibel(self) -> np.ndarray:
        """Zeros (W,), because the columns are not bins."""
        return np.zeros(self.bins, np.float32)

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Compute packed frames (R, W), float32, from samples (N,), float32, at `rate`."""
        views = [
            front.view(resample(audio, self.rate, front.rate), (first, last))
            for front, (first, last) in zip(self.fronts, self.columns, strict=True)
        ]
        rows = [ceil(view.size / width) for view, width in zip(views, self.widths, strict=True)]
        n_rows = max(*rows, DIGITS * len(views))
        blocks = []
        for view, width in zip(views, self.widths, strict=True):
            block = np.zeros(n_rows * width, np.float32)
            block[: view.size] = view.reshape(-1)
            blocks.append(block.reshape(n_rows, width))
        counts = np.zeros((n_rows, 1), np.float32)
        for i, view in enumerate(views):
            for digit in range(DIGITS):
                counts[DIGITS * i + digit] = len(view) // BASE**digit % BASE
        return np.concatenate([*blocks, counts], axis=1)

    def unpack(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the frames (B, T, F) of each front end, and their numbers (B,), from packed frames (B, R, W)."""
        unpacked, start = [], 0
        for i, (size, width) in enumerate(zip(self.sizes, self.widths, strict=True)):
            digits = x[:, DIGITS * i : DIGITS * (i + 1), -1].round().long()
            lengths = sum(digits[:, digit] * BASE**digit for digit in range(1, DIGITS)) + digits[:, 0]
            count = int(lengths.max())
            values = x[:, :, start : start + width].reshape(len(x), -1)
            unpacked.append((values[:, : count * size].reshape(len(x), count, size), lengths))
            start += width
        return unpacked

    def to_dict(self) -> dict[str, object]:
        """Return the parameters and `_target_` as plain values."""
        return {
            "_target_": f"{type(self).__module__}.{type(self).__qualname__}",
            "fronts": [front.to_dict() for front in self.fronts],
            "columns": [[*columns] for columns in self.columns],
        }


def resample(audio: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Change the sample rate of samples (N,), as in decoding."""
    if rate == new_rate:
        return audio
    import soxr

    return soxr.resample(audio, rate, new_rate)
