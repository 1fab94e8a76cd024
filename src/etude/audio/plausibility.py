"""Detection of decodable samples that may not be music, by level, constant values, clipping and randomness.

After a valid header, any bytes can be decoded, even if they are not audio. A suspicious clip is still used, because
noise and distortion can be music, but a warning is issued.
"""

from __future__ import annotations

import numpy as np

QUIET = 1e-3  # -60 dB of full scale
LOUD = 4.0  # 12 dB above full scale; no codec overshoots by that much
FULL = 0.999  # a sample with at least this absolute value counts as clipped
CLIPPED = 0.5  # a larger share of clipped samples is suspicious; distorted electronic music has up to 0.25
LAGS = 4  # samples; neighbours of recorded or encoded noise correlate, because its highest octave is filtered
ALIKE = 0.02  # samples with a lower correlation of neighbours count as independent of each other
NOISE = 0.2  # independent samples with at least this RMS are suspicious; random bytes have 0.3 to 0.6
ONE_SIDED = 0.01  # share of samples with the rarer sign; bytes of text have one sign
N_MIN = 4000  # minimum number of samples for statistics


class SuspectSoundWarning(UserWarning):
    """Warning about a file that can be decoded but may not be music."""


class SoundStatistics:
    """Running statistics of samples that are decoded in blocks.

    Attributes:
        count: Number of samples.
        peak: Largest absolute value.
    """

    def __init__(self) -> None:
        self.count, self.peak = 0, 0.0
        self._low, self._high = np.inf, -np.inf
        self._clipped, self._positive, self._negative, self._sum = 0, 0, 0, 0.0
        self._products = np.zeros(1 + LAGS)

    def add(self, block: np.ndarray) -> None:
        """Add finite samples (N,) at the sample rate of the file."""
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
        """Return descriptions of unusual properties, each without its subject, the file."""
        if not self.count:
            return []
        if self._high - self._low < QUIET / 10:
            return [f"contains only the constant value {self._high:.3g}"]
        messages = []
        if self.peak > LOUD:
            messages.append(f"reaches {self.peak:.3g} times full scale: its samples may not be scaled to [-1, 1]")
        elif (share := self._clipped / self.count) > CLIPPED:
            messages.append(f"has {100 * share:.0f} % of its samples at full scale")
        if self.peak < QUIET:
            messages.append(f"is almost silent: its peak is {20 * np.log10(self.peak):.0f} dB of full scale")
        one_sided = min(self._positive, self._negative) < ONE_SIDED * (self._positive + self._negative)
        if one_sided and self._positive + self._negative >= N_MIN:
            messages.append("has nearly all samples on one side of zero: it may be text or other data")
        elif self.count >= N_MIN and self._is_white_noise():
            messages.append("is white noise near full scale: it may be random or compressed data")
        return messages

    def _is_white_noise(self) -> bool:
        """Return whether samples have the level and independence of random bytes."""
        mean, power = self._sum / self.count, self._products / self.count
        variance = power[0] - mean**2
        if variance < NOISE**2:
            return False
        return bool(np.abs((power[1:] - mean**2) / variance).max() < ALIKE)
