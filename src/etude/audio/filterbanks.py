"""Filter banks of mel bands (librosa, Kaldi) and pitch classes over the bins of a spectrum.

Tests check that librosa's filter banks are reproduced exactly. librosa itself is not called, because its import takes
two seconds of CPU time in each process.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


LINEAR, CORNER, STEP = 200 / 3, 1000.0, np.log(6.4) / 27  # Hz per mel up to CORNER Hz, and log ratio per mel above
AMIN = 1e-10  # power below this is -100 dB, as in librosa.power_to_db
# centre (in octaves above 27.5 Hz) and standard deviation (in octaves) of the weight of frequencies in pitch classes
CENTRE, WIDTH = 5.0, 2.0


def mel_frequencies(count: int, fmin: float, fmax: float, htk: bool = False) -> np.ndarray:
    """Return frequencies (count,) in Hz, evenly spaced on a mel scale.

    The scale is Slaney's ("Auditory toolbox", 1998), or HTK's with `htk`.
    """
    if htk:
        low, high = (2595.0 * np.log10(1.0 + edge / 700.0) for edge in (fmin, fmax))
        return 700.0 * (10.0 ** (np.linspace(low, high, count) / 2595.0) - 1.0)
    low, high = (
        CORNER / LINEAR + np.log(edge / CORNER) / STEP if edge >= CORNER else edge / LINEAR for edge in (fmin, fmax)
    )
    mels = np.linspace(low, high, count)
    return np.where(mels < CORNER / LINEAR, LINEAR * mels, CORNER * np.exp(STEP * (mels - CORNER / LINEAR)))


def band_centres(count: int, fmin: float, fmax: float, htk: bool) -> np.ndarray:
    """Return the frequency at the centre of each of `count` mel bands (count,), in Hz, on Slaney's or HTK's scale."""
    return mel_frequencies(count + 2, fmin, fmax, htk)[1:-1]


def mel_filters(rate: int, n_fft: int, n_mels: int = 128, fmin: float = 0.0, fmax: float | None = None) -> np.ndarray:
    """Return triangular filters of equal area (n_mels, 1 + n_fft / 2), float32, from `fmin` to `fmax` Hz.

    The default `fmax` is half the rate.
    """
    corners = mel_frequencies(n_mels + 2, fmin, rate / 2 if fmax is None else fmax)
    ramps, widths = corners[:, None] - np.fft.rfftfreq(n_fft, 1 / rate), np.diff(corners)[:, None]
    heights = np.maximum(0, np.minimum(-ramps[:-2] / widths[:-1], ramps[2:] / widths[1:])).astype(np.float32)
    return (heights * (2 / (corners[2:] - corners[:-2]))[:, None]).astype(np.float32)


def chroma_filters(rate: int, n_fft: int, n_chroma: int = 12, tuning: float = 0.0) -> np.ndarray:
    """Return Gaussian filters of pitch classes on log frequency (n_chroma, 1 + n_fft / 2), float32, beginning with C.

    Source: Ellis, 2007, "Chroma feature analysis and synthesis".

    Args:
        rate: Sample rate, in Hz.
        n_fft: Length of the transform, in samples.
        n_chroma: Number of pitch classes in an octave.
        tuning: Deviation from A440, in pitch classes.
    """
    hertz = np.linspace(0, rate, n_fft, endpoint=False)[1:]
    steps = n_chroma * np.log2(hertz / (440.0 * 2.0 ** (tuning / n_chroma) / 16))
    # 0 Hz is placed one and a half octaves below the first bin
    steps = np.concatenate([[steps[0] - 1.5 * n_chroma], steps])
    widths = np.append(np.maximum(np.diff(steps), 1.0), 1.0)
    half = np.round(n_chroma / 2)
    distance = np.remainder((steps - np.arange(n_chroma)[:, None]) + half + 10 * n_chroma, n_chroma) - half
    weights = np.exp(-0.5 * (2 * distance / widths) ** 2)
    weights /= np.sum(weights**2, axis=0, keepdims=True) ** 0.5
    weights *= np.exp(-0.5 * ((steps / n_chroma - CENTRE) / WIDTH) ** 2)
    from_c = np.roll(weights, -3 * (n_chroma // 12), axis=0)  # the filters begin with A
    return np.ascontiguousarray(from_c[:, : 1 + n_fft // 2], np.float32)


GROUP = 16  # filters per matrix product; smaller groups are inefficient, larger ones include too many zeros


class FilterBank:
    """Bank of filters in which neighbouring filters use neighbouring bins, such as mel bands.

    About 90 % of the weights are zero. A group of neighbouring filters has nonzero weights only in a narrow range of
    bins, so one matrix product per group with this range is enough. This takes a third of the time of one product with
    all bins.

    Args:
        filters: Weights (F, bins).

    Attributes:
        width: Number of filters, F.
    """

    def __init__(self, filters: np.ndarray) -> None:
        import torch

        self.width = len(filters)
        self._groups = []
        for start in range(0, self.width, GROUP):
            group = filters[start : start + GROUP]
            nonzero = np.flatnonzero(group.any(0))
            bins = slice(int(nonzero[0]), int(nonzero[-1]) + 1) if len(nonzero) else slice(0, 0)
            weights = torch.from_numpy(group[:, bins].T.astype(np.float32).copy())
            self._groups.append((slice(start, start + len(group)), bins, weights))

    def apply(self, power: Tensor, out: Tensor) -> Tensor:
        """Apply the filters to power (T, bins), and write the result into `out` (T, F)."""
        import torch

        for columns, bins, weights in self._groups:
            torch.mm(power[:, bins], weights, out=out[:, columns])
        return out


@lru_cache(maxsize=8)
def mel_bank(rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float) -> Tensor:
    """Return Kaldi's mel filters (1 + n_fft / 2, n_mels), triangles of equal height over 1127 ln(1 + f / 700)."""
    import torch

    mel = 1127 * np.log1p(np.fft.rfftfreq(n_fft, 1 / rate) / 700)
    low, high = (1127 * float(np.log1p(edge / 700)) for edge in (fmin, fmax))
    corners = np.linspace(low, high, n_mels + 2)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (mel[:, None] - left) / (centre - left), (right - mel[:, None]) / (right - centre)
    bank = np.maximum(0.0, np.minimum(rising, falling))
    bank[-1] = 0.0  # Kaldi excludes the bin at half the rate
    return torch.from_numpy(bank.astype(np.float32))
