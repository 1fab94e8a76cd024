"""Beats, and frames that are as long as the beat: one spectrum for each interval, the median over it.

The onsets of the percussive part tell where the beats are (HPSS: FitzGerald, 2010; tracking by dynamic programming:
Ellis, 2007). librosa's steps in librosa's order, with the two medians of HPSS taken by a running median that is
twenty times as fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.filterbanks import FilterBank, mel_filters
from etude.audio.frontend import FrontEnd, decibels, spectrum
from etude.audio.numba_lock import first_use

if TYPE_CHECKING:
    from torch import Tensor


KERNEL = 31  # frames, and bins, of the two medians
BANDS = 128  # mel bands whose rises are onsets, whatever the front end's own number


def track(audio: np.ndarray, front: FrontEnd) -> np.ndarray:
    """Where the beats are.

    Args:
        audio: Samples (N,), float32, at `front.rate`.
        front: Gives the rate, the window and the hop.

    Returns:
        Frames of `front` where beats fall (K,), ascending; empty when there is no onset.
    """
    rate, hop = front.rate, front.hop_length
    # onsets: all frequencies, 80 dB below the loudest, as librosa has it
    power = spectrum(percussive(audio, front), front, FilterBank(mel_filters(rate, front.n_fft, BANDS)))
    decibels(power, "one")
    with first_use("beats"):
        import librosa

        onsets = librosa.onset.onset_strength(
            S=power.numpy().T, sr=rate, hop_length=hop, n_fft=front.n_fft, aggregate=np.median
        )
        return librosa.beat.beat_track(onset_envelope=onsets, sr=rate, hop_length=hop)[1].astype(np.int64)


def percussive(audio: np.ndarray, front: FrontEnd) -> np.ndarray:
    """The percussive part of a sound, (N,): `librosa.effects.hpss(audio)[1]`."""
    import torch

    window = torch.hann_window(front.n_fft)
    sizes: Any = {"n_fft": front.n_fft, "hop_length": front.hop_length, "window": window, "center": True}
    samples = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
    stft = torch.stft(samples, **sizes, pad_mode="constant", return_complex=True)
    magnitude = stft.abs().numpy()
    steady, sudden = running_median(magnitude, 1), running_median(magnitude, 0)
    # squares of values relative to the larger of the two, so that quiet bins do not underflow
    larger = np.maximum(steady, sudden)
    heard = larger >= np.finfo(np.float32).tiny
    larger[~heard] = 1.0
    steady, sudden = (steady / larger) ** 2, (sudden / larger) ** 2
    mask = np.divide(sudden, steady + sudden, out=np.full_like(sudden, 0.5), where=heard)
    # the inverse needs samples under every window; zeros behind the end are cut off again
    return torch.istft(stft * torch.from_numpy(mask), **sizes, length=len(audio)).numpy()


def running_median(x: np.ndarray, axis: int) -> np.ndarray:
    """Median over 31 neighbours along an axis, mirrored at the ends: `scipy.ndimage.median_filter(mode="reflect")`."""
    import bottleneck

    half = KERNEL // 2
    width = [(half, half) if i == axis else (0, 0) for i in range(x.ndim)]
    padded = np.pad(x, width, mode="symmetric")
    trailing = bottleneck.move_median(np.moveaxis(padded, axis, -1), KERNEL, axis=-1)[..., KERNEL - 1 :]
    return np.ascontiguousarray(np.moveaxis(trailing, -1, axis))


def synchronous(power: Tensor, beats: np.ndarray) -> Tensor:
    """Median of the frames (T, F) between beats, (K + 1, F); before the first and after the last count as intervals.

    The median is taken of power and not of dB: for an even number of frames it lies between two of them.
    """
    import torch

    with first_use("beats: median"):
        from librosa.util import sync

        return torch.from_numpy(sync(power.numpy().T, beats.tolist() or [0], aggregate=np.median).T.copy())
