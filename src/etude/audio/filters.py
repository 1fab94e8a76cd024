"""Filters over the bins of a spectrum, mel bands and pitch classes, the same as librosa's.

They are tested against librosa and do not call it: its import takes a core two seconds, and each process that hears
would pay them.
"""

from __future__ import annotations

import numpy as np

LINEAR, CORNER, STEP = 200 / 3, 1000.0, np.log(6.4) / 27  # Hz of a mel, up to these Hz, and a mel's ratio above them
CENTRE, WIDTH = 5.0, 2.0  # octave above 27.5 Hz that pitch classes hear best, and deviation around it, in octaves


def mel_frequencies(count: int, fmin: float, fmax: float) -> np.ndarray:
    """Frequencies (count,) from `fmin` to `fmax` Hz, evenly spaced on Slaney's mel scale ("Auditory toolbox", 1998)."""
    low, high = (
        CORNER / LINEAR + np.log(edge / CORNER) / STEP if edge >= CORNER else edge / LINEAR for edge in (fmin, fmax)
    )
    mels = np.linspace(low, high, count)
    return np.where(mels < CORNER / LINEAR, LINEAR * mels, CORNER * np.exp(STEP * (mels - CORNER / LINEAR)))


def mel(rate: int, n_fft: int, n_mels: int = 128, fmin: float = 0.0, fmax: float | None = None) -> np.ndarray:
    """Triangles of equal area (n_mels, 1 + n_fft / 2), float32, from `fmin` to `fmax` Hz (none: half the rate)."""
    corners = mel_frequencies(n_mels + 2, fmin, rate / 2 if fmax is None else fmax)
    ramps, widths = corners[:, None] - np.fft.rfftfreq(n_fft, 1 / rate), np.diff(corners)[:, None]
    heights = np.maximum(0, np.minimum(-ramps[:-2] / widths[:-1], ramps[2:] / widths[1:])).astype(np.float32)
    return (heights * (2 / (corners[2:] - corners[:-2]))[:, None]).astype(np.float32)


def chroma(rate: int, n_fft: int, n_chroma: int = 12, tuning: float = 0.0) -> np.ndarray:
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
