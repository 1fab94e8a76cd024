"""Signs that samples are not music, although they can be decoded: level, constant values, clipping, random bytes.

A header says how bytes are to be read and not that they are sound: anything behind a valid header decodes. A clip with
such a sign is used, because noise and distortion are music too, and the user is warned.
"""

from __future__ import annotations

import numpy as np

QUIET = 1e-3  # -60 dB of full scale
LOUD = 4.0  # 12 dB over full scale: no codec overshoots by that much
FULL = 0.999  # of full scale; what is above counts as clipped
CLIPPED = 0.5  # share of samples; of distorted electronic music it is up to a quarter
LAGS = 4  # samples; of noise that was recorded or encoded, neighbours are alike because the highest octave is filtered
ALIKE = 0.02  # correlation of neighbours below which samples are independent of each other
NOISE = 0.2  # RMS from which independent samples are suspicious; of random bytes it is 0.3 to 0.6
ONE_SIDED = 0.01  # share of samples below zero, or above; bytes of a text are all on one side
FEWEST = 4000  # samples that statistics need


class SuspectSoundWarning(UserWarning):
    """A file that can be decoded, and that may not be music."""


class SoundStatistics:
    """Running statistics of a sound that comes in blocks.

    Attributes:
        count: Samples so far.
        peak: Largest absolute value.
    """

    def __init__(self) -> None:
        self.count, self.peak = 0, 0.0
        self._low, self._high = np.inf, -np.inf
        self._clipped, self._positive, self._negative, self._sum = 0, 0, 0, 0.0
        self._products = np.zeros(1 + LAGS)

    def add(self, block: np.ndarray) -> None:
        """Add samples (N,) that are finite, at the rate of the file."""
        if not len(block):
            return
        low, high = float(block.min()), float(block.max())
        self._low, self._high = min(self._low, low), max(self._high, high)
        self.peak = max(self.peak, -low, high)
        self.count += len(block)
        if high >= FULL or low <= -FULL:
            self._clipped += int(np.count_nonzero(np.abs(block) >= FULL))
        self._positive += int(np.count_nonzero(block > 0))
        self._negative += int(np.count_nonzero(block < 0))
        self._sum += float(block.sum(dtype=np.float64))
        for lag in range(1 + LAGS):
            self._products[lag] += float(np.dot(block[lag:], block[: max(0, len(block) - lag)]))

    def findings(self) -> list[str]:
        """Return what is unusual, as ends of a sentence about the file."""
        if not self.count:
            return []
        if self._high - self._low < QUIET / 10:
            return [f"holds a constant value of {self._high:.3g} and no sound"]
        found = []
        if self.peak > LOUD:
            found.append(f"reaches {self.peak:.3g} times full scale: its samples may not be scaled to [-1, 1]")
        elif (share := self._clipped / self.count) > CLIPPED:
            found.append(f"has {100 * share:.0f} % of its samples at full scale")
        if self.peak < QUIET:
            found.append(f"is almost silent: its peak is {20 * np.log10(self.peak):.0f} dB of full scale")
        one_sided = min(self._positive, self._negative) < ONE_SIDED * (self._positive + self._negative)
        if one_sided and self._positive + self._negative >= FEWEST:
            found.append("has nearly all samples on one side of zero: it may be text or other data")
        elif self.count >= FEWEST and self._is_white_noise():
            found.append("is white noise near full scale: it may be random or compressed data")
        return found

    def _is_white_noise(self) -> bool:
        """Return whether samples are as large as random bytes, and as independent of each other."""
        mean, power = self._sum / self.count, self._products / self.count
        variance = power[0] - mean**2
        if variance < NOISE**2:
            return False
        return bool(np.abs((power[1:] - mean**2) / variance).max() < ALIKE)
