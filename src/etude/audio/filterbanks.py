"""Filter banks over the bins of a spectrum: mel bands (librosa, Kaldi) and pitch classes.

They are tested against librosa and do not call it: its import takes a core two seconds, and each process that hears
would pay them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


LINEAR, CORNER, STEP = 200 / 3, 1000.0, np.log(6.4) / 27  # Hz of a mel, up to these Hz, and a mel's ratio above them
AMIN = 1e-10  # power below this is -100 dB, as in librosa.power_to_db
CENTRE, WIDTH = 5.0, 2.0  # octave above 27.5 Hz that pitch classes hear best, and deviation around it, in octaves


def mel_frequencies(count: int, fmin: float, fmax: float) -> np.ndarray:
    """Frequencies (count,) from `fmin` to `fmax` Hz, evenly spaced on Slaney's mel scale ("Auditory toolbox", 1998)."""
    low, high = (
        CORNER / LINEAR + np.log(edge / CORNER) / STEP if edge >= CORNER else edge / LINEAR for edge in (fmin, fmax)
    )
    mels = np.linspace(low, high, count)
    return np.where(mels < CORNER / LINEAR, LINEAR * mels, CORNER * np.exp(STEP * (mels - CORNER / LINEAR)))


def band_centres(count: int, fmin: float, fmax: float, htk: bool) -> np.ndarray:
    """Return the frequency at the centre of each of `count` mel bands (count,), in Hz, on Slaney's or HTK's scale."""
    import librosa

    return librosa.mel_frequencies(count + 2, fmin=fmin, fmax=fmax, htk=htk)[1:-1]


def mel_filters(rate: int, n_fft: int, n_mels: int = 128, fmin: float = 0.0, fmax: float | None = None) -> np.ndarray:
    """Triangles of equal area (n_mels, 1 + n_fft / 2), float32, from `fmin` to `fmax` Hz (none: half the rate)."""
    corners = mel_frequencies(n_mels + 2, fmin, rate / 2 if fmax is None else fmax)
    ramps, widths = corners[:, None] - np.fft.rfftfreq(n_fft, 1 / rate), np.diff(corners)[:, None]
    heights = np.maximum(0, np.minimum(-ramps[:-2] / widths[:-1], ramps[2:] / widths[1:])).astype(np.float32)
    return (heights * (2 / (corners[2:] - corners[:-2]))[:, None]).astype(np.float32)


def chroma_filters(rate: int, n_fft: int, n_chroma: int = 12, tuning: float = 0.0) -> np.ndarray:
    """Pitch classes from C on (n_chroma, 1 + n_fft / 2), float32, as Gaussians on the logarithm of frequency.

    Source: Ellis, 2007, "Chroma feature analysis and synthesis".

    Args:
        rate: Sample rate, in Hz.
        n_fft: Length of the transform, in samples.
        n_chroma: Pitch classes of an octave.
        tuning: Deviation from A440, in pitch classes.
    """
    hertz = np.linspace(0, rate, n_fft, endpoint=False)[1:]
    steps = n_chroma * np.log2(hertz / (440.0 * 2.0 ** (tuning / n_chroma) / 16))
    steps = np.concatenate([[steps[0] - 1.5 * n_chroma], steps])  # 0 Hz, by half a turn
    widths = np.append(np.maximum(np.diff(steps), 1.0), 1.0)
    half = np.round(n_chroma / 2)
    away = np.remainder((steps - np.arange(n_chroma)[:, None]) + half + 10 * n_chroma, n_chroma) - half
    weights = np.exp(-0.5 * (2 * away / widths) ** 2)
    weights /= np.sum(weights**2, axis=0, keepdims=True) ** 0.5
    weights *= np.exp(-0.5 * ((steps / n_chroma - CENTRE) / WIDTH) ** 2)
    from_c = np.roll(weights, -3 * (n_chroma // 12), axis=0)  # they begin with A
    return np.ascontiguousarray(from_c[:, : 1 + n_fft // 2], np.float32)


GROUP = 16  # filters at a time: fewer are too little work for a product of matrices, more skip too little


class FilterBank:
    """Filters whose neighbours take neighbouring bins, as mel bands do.

    Nine in ten of their weights are zero. A few filters together take a narrow range of bins, and a product with that
    range is all that is needed: a third of the time of one product with all bins.

    Args:
        filters: (F, bins).

    Attributes:
        width: Number of filters, F.
    """

    def __init__(self, filters: np.ndarray) -> None:
        import torch

        self.width = len(filters)
        self._parts = []
        for start in range(0, self.width, GROUP):
            some = filters[start : start + GROUP]
            taken = np.flatnonzero(some.any(0))
            bins = slice(int(taken[0]), int(taken[-1]) + 1) if len(taken) else slice(0, 0)
            weights = torch.from_numpy(some[:, bins].T.astype(np.float32).copy())
            self._parts.append((slice(start, start + len(some)), bins, weights))

    def apply(self, power: Tensor, out: Tensor) -> Tensor:
        """Power (T, bins) to what each filter takes of it, written into `out` (T, F)."""
        import torch

        for columns, bins, weights in self._parts:
            torch.mm(power[:, bins], weights, out=out[:, columns])
        return out


@lru_cache(maxsize=8)
def mel_bank(rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float) -> Tensor:
    """Kaldi's mel filters (1 + n_fft / 2, n_mels): triangles on the axis 1127 ln(1 + f / 700), of equal height."""
    import torch

    mel = 1127 * np.log1p(np.fft.rfftfreq(n_fft, 1 / rate) / 700)
    low, high = (1127 * float(np.log1p(edge / 700)) for edge in (fmin, fmax))
    corners = np.linspace(low, high, n_mels + 2)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (mel[:, None] - left) / (centre - left), (right - mel[:, None]) / (right - centre)
    bank = np.maximum(0.0, np.minimum(rising, falling))
    bank[-1] = 0.0  # Kaldi leaves out the bin at half the rate
    return torch.from_numpy(bank.astype(np.float32))
