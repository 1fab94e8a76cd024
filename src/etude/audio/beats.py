"""Beat tracking and beat-synchronous frames.

Beats are tracked in the onsets of the percussive component (HPSS: FitzGerald, 2010; tracking by dynamic programming:
Ellis, 2007). The steps are those of librosa. Only the two median filters of HPSS differ. Here a running median computes
them twenty times faster. A beat-synchronous frame is the median spectrum of an interval between beats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.filterbanks import FilterBank, mel_filters
from etude.audio.frontend import FrontEnd, convert_to_decibels, power_spectrum
from etude.audio.numba_lock import first_use

if TYPE_CHECKING:
    from torch import Tensor


KERNEL = 31  # length of the two medians, in frames and in bins
BANDS = 128  # mel bands of the onset strength, independent of the front end


def track_beats(audio: np.ndarray, front: FrontEnd) -> np.ndarray:
    """Return the positions of beats.

    Args:
        audio: Samples (N,), float32, at `front.rate`.
        front: Front end that defines the rate, the window and the hop.

    Returns:
        Indices of the frames of `front` with beats (K,), ascending; empty when there is no onset.
    """
    rate, hop = front.rate, front.hop_length
    # onsets over all frequencies, with a range of 80 dB, as in librosa
    power = power_spectrum(percussive(audio, front), front, FilterBank(mel_filters(rate, front.n_fft, BANDS)))
    convert_to_decibels(power, "one")
    with first_use("beats"):
        import librosa

        onsets = librosa.onset.onset_strength(
            S=power.numpy().T, sr=rate, hop_length=hop, n_fft=front.n_fft, aggregate=np.median
        )
        return librosa.beat.beat_track(onset_envelope=onsets, sr=rate, hop_length=hop)[1].astype(np.int64)


def percussive(audio: np.ndarray, front: FrontEnd) -> np.ndarray:
    """Return the percussive component of samples (N,).

    It is equal to the second output of `librosa.effects.hpss` with the front end's n_fft and hop length.
    """
    import torch

    window = torch.hann_window(front.n_fft)
    sizes: Any = {"n_fft": front.n_fft, "hop_length": front.hop_length, "window": window, "center": True}
    samples = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
    stft = torch.stft(samples, **sizes, pad_mode="constant", return_complex=True)
    magnitude = stft.abs().numpy()
    harmonic, percussion = running_median(magnitude, 1), running_median(magnitude, 0)
    # divide by the larger of the two before squaring, so that quiet bins do not underflow
    larger = np.maximum(harmonic, percussion)
    audible = larger >= np.finfo(np.float32).tiny
    larger[~audible] = 1.0
    harmonic, percussion = (harmonic / larger) ** 2, (percussion / larger) ** 2
    mask = np.divide(percussion, harmonic + percussion, out=np.full_like(percussion, 0.5), where=audible)
    # the inverse needs samples in every window; `length` removes the zeros after the end
    return torch.istft(stft * torch.from_numpy(mask), **sizes, length=len(audio)).numpy()


def running_median(x: np.ndarray, axis: int) -> np.ndarray:
    """Return the median over 31 neighbours along an axis, as `scipy.ndimage.median_filter` with `mode="reflect"`."""
    import bottleneck

    half = KERNEL // 2
    width = [(half, half) if i == axis else (0, 0) for i in range(x.ndim)]
    padded = np.pad(x, width, mode="symmetric")
    trailing = bottleneck.move_median(np.moveaxis(padded, axis, -1), KERNEL, axis=-1)[..., KERNEL - 1 :]
    return np.ascontiguousarray(np.moveaxis(trailing, -1, axis))


def synchronise(power: Tensor, beats: np.ndarray) -> Tensor:
    """Return the median frame of each interval between beats (K + 1, F), from frames (T, F).

    The frames before the first beat and after the last beat are intervals too. The median is taken over power and not
    over dB. This matters for an even number of frames, whose median is the mean of the middle two.
    """
    import torch

    with first_use("beats: median"):
        from librosa.util import sync

        return torch.from_numpy(sync(power.numpy().T, beats.tolist() or [0], aggregate=np.median).T.copy())
