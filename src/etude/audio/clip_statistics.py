"""Statistics of a clip: of its frames, as the input of baselines, and of its samples, which may not be music.

The statistics of frames are the input of the baseline that accompanies each score. They are computed from the default
log-mel and chroma frames, whatever front end the network has. All values are rounded to float16, as in packs, so that
statistics from audio files and statistics from the frames of a pack are equal.

After a valid header, any bytes can be decoded, even if they are not audio. `SoundStatistics` detects such clips by
level, constant values, clipping and randomness. A suspicious clip is still used, because noise and distortion can be
music, but a warning is issued.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.audio.log_mel import LogMelChroma

PERCENTILES = (10, 50, 90)
TEMPI = np.geomspace(30.0, 480.0, 49)  # BPM; 12 steps per octave
TEMPO_FFT = 8192  # length of the transform of the onset strength, in frames
QUIET = 1e-3  # -60 dB of full scale
LOUD = 4.0  # 12 dB above full scale; no codec overshoots by that much
FULL = 0.999  # a sample with at least this absolute value counts as clipped
CLIPPED = 0.5  # a larger share of clipped samples is suspicious; distorted electronic music has up to 0.25
LAGS = 4  # samples; neighbours of recorded or encoded noise correlate, because its highest octave is filtered
ALIKE = 0.02  # samples with a lower correlation of neighbours count as independent of each other
NOISE = 0.2  # independent samples with at least this RMS are suspicious; random bytes have 0.3 to 0.6
ONE_SIDED = 0.01  # share of samples with the rarer sign; bytes of text have one sign
N_MIN = 4000  # minimum number of samples for statistics


def mel_statistics(frames: np.ndarray) -> np.ndarray:
    """Compute mean and standard deviation of each mel band over time, by which similar clips are found.

    Args:
        frames: Mel spectrum (T, F), in dB, with T of at least 1.

    Returns:
        Means and then standard deviations (2 F,), float64, in dB.
    """
    frames = frames.astype(np.float64)
    return np.concatenate([frames.mean(0), frames.std(0)])


def frame_statistics(frames: np.ndarray) -> np.ndarray:
    """Compute statistics of each bin over time.

    Args:
        frames: Frames (T, F).

    Returns:
        Mean, standard deviation, mean absolute change from one frame to the next, and the percentiles 10, 50 and 90 of
        each bin, (6 F,), float16. The change is 0 for a single frame.

    Raises:
        ValueError: The frames are not of shape (T, F) with T of at least 1.
    """
    if frames.ndim != 2 or not len(frames):
        raise ValueError(f"frames {frames.shape} must be (T, F) with T of at least 1")
    bins = np.ascontiguousarray(frames.astype(np.float16).T, dtype=np.float32)  # (F, T)
    change = np.abs(np.diff(bins, axis=1)).mean(1, dtype=np.float64) if len(frames) > 1 else np.zeros(len(bins))
    ordered = np.sort(bins, axis=1)  # faster than np.percentile
    position = np.array(PERCENTILES) / 100 * (len(frames) - 1)
    low = position.astype(int)
    high = np.minimum(low + 1, len(frames) - 1)
    percentiles = ordered[:, low] + (ordered[:, high] - ordered[:, low]) * (position - low)
    mean, deviation = bins.mean(1, dtype=np.float64), bins.std(1, dtype=np.float64)
    return np.concatenate([mean, deviation, change, *percentiles.T]).astype(np.float16)


def rhythm_statistics(mel: np.ndarray, frames_per_second: float) -> np.ndarray:
    """Compute the periodicity of the onset strength at 49 tempi from 30 to 480 BPM.

    The onset strength is the mean increase of all mel bands. Its magnitude spectrum is relative to its mean. Only the
    first 8,192 frames are used.

    Args:
        mel: Mel bands (T, F), in dB.
        frames_per_second: Frame rate, in Hz.

    Returns:
        Natural logarithm of the spectrum (49,), float16.
    """
    mel = mel.astype(np.float16).astype(np.float32)
    onset = np.maximum(np.diff(mel, axis=0), 0).mean(1, dtype=np.float64)[:TEMPO_FFT]
    if not len(onset):
        return np.zeros(len(TEMPI), np.float16)
    spectrum = np.abs(np.fft.rfft((onset - onset.mean()) * np.hanning(len(onset)), TEMPO_FFT))
    values = np.interp(TEMPI / 60, np.fft.rfftfreq(TEMPO_FFT, 1 / frames_per_second), spectrum)
    return np.log(values / (spectrum.mean() + 1e-9) + 1e-3).astype(np.float16)


@dataclass(frozen=True)
class StatisticsFront(FrontEnd):
    """Front end whose only frame contains the statistics of a clip's default log-mel and chroma frames.

    A pack of this front end is small and needs one decoding of each file.

    Args:
        version: Version of the statistics. A change of their definition increases it, so that packs are written again.
    """

    n_chroma: int = 12
    version: int = 1

    @property
    def bins(self) -> int:
        """Number of statistics, P."""
        return 6 * (self.n_mels + self.n_chroma) + len(TEMPI)

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Compute the statistics (1, P) from samples (N,) at `rate`."""
        return self.from_frames(default_front_end().frames(audio))[None].astype(np.float32)

    def from_frames(self, frames: np.ndarray) -> np.ndarray:
        """Compute the statistics (P,), float16, from default frames (T, F)."""
        rhythm = rhythm_statistics(frames[:, : self.n_mels], self.frames_per_second)
        return np.concatenate([frame_statistics(frames), rhythm])


@lru_cache(maxsize=1)
def default_front_end() -> LogMelChroma:
    """Return the front end of conf/feature/front/default.yaml."""
    return LogMelChroma()


class SuspectSoundWarning(UserWarning):
    """Warning about a file that can be decoded but may not be music."""


class SoundStatistics:
    """Running statistics of samples that are decoded in blocks.

    Attributes:
        rate: Sample rate of the file, in Hz. The decoder sets it before it adds samples.
        count: Number of samples.
        peak: Largest absolute value.
    """

    rate = 0

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


PROPERTIES = {
    "level": ("RMS level", "peak"),  # dB of full scale
    "bandwidth": ("bandwidth", "cut-off"),  # kHz
    "length": ("length",),  # s
    "silence": ("silence",),  # share of time
}
"""Properties of a file by group, in the order of their columns."""
WINDOW = 2048  # samples
FLOOR = 1e-10  # power; -100 dB of full scale
SILENT_POWER = 1e-6  # -60 dB of full scale
STEP_POWER = 2.0**-30 / 12  # power of the rounding to 16 bits


class SoundProperties(SoundStatistics):
    """Statistics of samples by which a label may be told without hearing the music, such as a codec's low-pass."""

    def __init__(self) -> None:
        super().__init__()
        self._rest = np.zeros(0, np.float32)
        self._spectrum, self._square, self._windows, self._silent = np.zeros(WINDOW // 2 + 1), 0.0, 0, 0

    def add(self, block: np.ndarray) -> None:
        """Add finite samples (N,) at the sample rate of the file."""
        super().add(block)
        self._square += float(np.square(block, dtype=np.float64).sum())
        samples = np.concatenate([self._rest, block])
        windows = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
        self._rest = samples[windows.size :]
        for start in range(0, len(windows), 256):  # bounds the memory
            part = windows[start : start + 256]
            self._spectrum += (np.abs(np.fft.rfft(part * np.hanning(WINDOW))) ** 2).sum(0)
            self._silent += int(np.count_nonzero(np.square(part, dtype=np.float64).mean(1) < SILENT_POWER))
            self._windows += len(part)

    def values(self) -> np.ndarray:
        """Return the properties (6,), in the order and units of PROPERTIES.

        The bandwidth is the frequency below which 99 % of the energy lies. The cut-off is the highest frequency with a
        power of at least -90 dB of the strongest frequency, and of 10 dB above the noise of 16 bits. Both are 0 for a
        file with less than 2,048 samples.
        """
        level = 10 * np.log10(max(self._square / max(1, self.count), FLOOR))
        peak = 20 * np.log10(max(self.peak, FLOOR**0.5))
        hertz, windows = np.fft.rfftfreq(WINDOW, 1 / max(1, self.rate)), max(1, self._windows)
        spectrum = self._spectrum / windows
        noise = STEP_POWER * float(np.square(np.hanning(WINDOW)).sum())
        present = np.flatnonzero(spectrum > max(1e-9 * spectrum.max(), 10 * noise))
        total = np.cumsum(spectrum)
        bandwidth = hertz[np.searchsorted(total, 0.99 * total[-1])] if total[-1] > 0 else 0.0
        cut_off = hertz[present[-1]] if len(present) else 0.0
        length = self.count / max(1, self.rate)
        return np.array([level, peak, bandwidth / 1000, cut_off / 1000, length, self._silent / windows], np.float32)


@dataclass(frozen=True)
class PropertiesFront(FrontEnd):
    """Front end whose only frame contains the properties of a file. `data.audio_files.read_properties` computes them.

    Args:
        version: Version of the properties. A change of their definition increases it.
    """

    version: int = 1

    @property
    def bins(self) -> int:
        """Number of properties."""
        return sum(map(len, PROPERTIES.values()))
