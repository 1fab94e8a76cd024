"""How far a recording is from A440: librosa's estimate, from a power spectrum that is there already.

Peaks of the spectrum are located between bins by a parabola (Smith & Serra, 1987), and the commonest deviation from
the tempered scale wins. librosa does the same over all bins; here only where a pitch can be, 150 Hz to 4 kHz.
"""

from __future__ import annotations

import numpy as np

from etude.audio.compiled import first_use

LOWEST, HIGHEST = 150.0, 4000.0  # Hz
THRESHOLD = 0.1  # of the frame's strongest bin


def estimate(power: np.ndarray, rate: int, n_chroma: int = 12) -> float:
    """Tuning of a clip, equal to `librosa.estimate_tuning(S=power.T, sr=rate, bins_per_octave=n_chroma)`.

    Args:
        power: Power spectrum (T, 1 + n_fft / 2).
        rate: Sample rate, in Hz.
        n_chroma: Pitch classes of an octave.

    Returns:
        Deviation from A440 in fractions of a pitch class, in [-0.5, 0.5), a multiple of 0.01; 0 without any pitch.
    """
    n_fft = 2 * (power.shape[1] - 1)
    frequency = np.fft.rfftfreq(n_fft, 1 / rate)
    (wanted,) = np.nonzero((frequency >= LOWEST) & (frequency < HIGHEST))
    first, last = max(1, wanted[0]), min(power.shape[1] - 2, wanted[-1])
    floor = THRESHOLD * power.max(axis=1, keepdims=True)
    below, here, above = (power[:, first + shift : last + 1 + shift] for shift in (-1, 0, 1))
    # a neighbour under the floor counts as 0, so a bin over it that is beside none is a peak
    peaks = np.nonzero((here > floor) & ((here > below) | (below <= floor)) & ((here >= above) | (above <= floor)))
    low, mid, high = below[peaks], here[peaks], above[peaks]
    slope, bend = (high - low) / 2, high + low - 2 * mid
    shift = np.divide(-slope, bend, out=np.zeros_like(slope), where=np.abs(slope) < np.abs(bend))
    pitch, height = (peaks[1] + first + shift) * float(rate) / n_fft, mid + 0.5 * slope * shift
    loud = pitch[height >= np.median(height)] if len(height) else height
    if not len(loud):
        return 0.0
    with first_use("tuning"):
        from librosa import pitch_tuning

        return float(pitch_tuning(loud, bins_per_octave=n_chroma))
