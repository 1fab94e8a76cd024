"""Beats of a clip and beat-synchronous frames, and descriptors of its energy, danceability and valence.

Beats are tracked in the onsets of the percussive component (HPSS: FitzGerald, 2010; tracking by dynamic programming:
Ellis, 2007). The steps are those of librosa. Only the two median filters of HPSS differ. Here a running median computes
them twenty times faster. A beat-synchronous frame is the median spectrum of an interval between beats.

Energy, danceability and valence are computed from the signal and are not listener ratings. They do not measure what
listeners perceive, and a model that predicts them has learned acoustics, not emotion. Each is a published signal
descriptor and a function of one clip. No value depends on other clips. Each is mapped to [0, 1] by fixed bounds, which
were chosen from the demo clips:

- energy: gated loudness, ITU-R BS.1770-4. Arousal follows loudness (Juslin & Laukka, 2004).
- danceability: pulse clarity, the self-similarity of onsets at a beat's period (Lartillot et al., 2008).
- valence: the mean of brightness (spectral centroid; Juslin & Laukka, 2004) and mode (major against minor;
  Gagnon & Peretz, 2003). Both increase with happiness in those studies; the equal weights are a convention.

The bounds are the ranges over the 196 demo clips (CARD.md), rounded outward. They are fixed, so other music may exceed
them and is clipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.filterbanks import FilterBank, mel_filters
from etude.audio.frontend import FrontEnd, convert_to_decibels, power_spectrum
from etude.audio.numba_lock import first_use

if TYPE_CHECKING:
    from torch import Tensor

Biquad = tuple[np.ndarray, np.ndarray]  # numerator (3,) and denominator (3,), the latter starting with 1

LOUDNESS = (-36.0, -6.0)  # LUFS: a soft solo instrument .. a heavily limited master
PULSE = (0.0, 1.0)  # correlation: no repetition (a negative maximum is clipped to 0) .. identical periods
BRIGHTNESS = (7.5, 11.0)  # log2 Hz, 181 Hz .. 2 kHz: a dark pad .. distorted guitars and cymbals; white noise is 11.9
MODE = (-0.45, 0.45)  # difference of correlations; a bare minor triad gives -0.32, a bare major one 0.12

KERNEL = 31  # length of the two medians of HPSS, in frames and in bins
BANDS = 128  # mel bands of the onset strength, independent of the front end
BPM = (40.0, 200.0)  # tempi at which people tap; periods of 1.5 s down to 0.3 s
BAND = (50.0, 10_000.0)  # Hz; above rumble and below Nyquist at 22.05 kHz, so that the sample rate has little influence
SHORTEST = 3.0  # seconds; two periods of the slowest pulse

# Probe-tone ratings of the 12 degrees above the tonic (Krumhansl & Kessler, 1982, Fig. 2).
MAJOR = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
MINOR = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])


def descriptors(audio: np.ndarray, rate: int) -> dict[str, float]:
    """Compute the three derived targets of one clip.

    Args:
        audio: Samples (N,), mono; full scale is 1.
        rate: Sample rate in Hz.

    Returns:
        `valence`, `energy` and `danceability`, each in [0, 1]. A silent clip has energy 0 and NaN for the other two.

    Raises:
        ValueError: `audio` is not one-dimensional, contains NaN or infinity, or is shorter than 3 s.
    """
    if audio.ndim != 1 or len(audio) < SHORTEST * rate:
        raise ValueError(f"audio must be (N,) with at least {SHORTEST:g} s at {rate} Hz, got {audio.shape}")
    if not np.isfinite(audio).all():
        raise ValueError("audio contains NaN or infinite samples")
    happy = 0.5 * (_scale_to_unit(brightness(audio, rate), BRIGHTNESS) + _scale_to_unit(mode(audio, rate), MODE))
    return {
        "valence": happy,
        "energy": _scale_to_unit(loudness(audio, rate), LOUDNESS),
        "danceability": _scale_to_unit(pulse_clarity(audio, rate), PULSE),
    }


def loudness(audio: np.ndarray, rate: int) -> float:
    """Compute integrated loudness by ITU-R BS.1770-4, in LUFS.

    The result is the mean power of the K-weighted signal over blocks of 400 ms. Blocks below -70 LUFS (silence) are
    excluded first, then blocks more than 10 LU below the mean of the others (pauses).

    Args:
        audio: Samples (N,), mono; full scale is 1.
        rate: Sample rate in Hz.

    Returns:
        Loudness in LUFS; -inf if no block is above the absolute gate.

    Raises:
        ValueError: `audio` is shorter than a block.
    """
    from scipy.signal import lfilter

    block, step = round(0.4 * rate), round(0.1 * rate)
    if len(audio) < block:
        raise ValueError(f"audio must have at least 0.4 s ({block} samples at {rate} Hz), got {len(audio)} samples")
    weighted = audio.astype(np.float64)
    for numerator, denominator in k_weighting(rate):
        weighted = lfilter(numerator, denominator, weighted)
    power = np.lib.stride_tricks.sliding_window_view(weighted**2, block)[::step].mean(axis=1)
    power = power[_lufs(power) > -70.0]
    if not len(power):
        return -np.inf
    return float(_lufs(power[_lufs(power) > _lufs(power.mean()) - 10.0].mean()))


def k_weighting(rate: int) -> tuple[Biquad, Biquad]:
    """Return the two filters of BS.1770 for any sample rate, a shelf and a high-pass.

    The shelf models the acoustic effect of the head. The standard lists coefficients only for 48 kHz. The underlying
    analogue frequencies, Q and gain are from De Man (2014), "Evaluation of implementations of the EBU R128 loudness
    measurement". They reproduce the listed coefficients.

    Args:
        rate: Sample rate in Hz.
    """
    k, q = np.tan(np.pi * 1681.974450955533 / rate), 0.7071752369554196
    high = 10 ** (3.999843853973347 / 20)
    band = high**0.4996667741545416
    poles = np.array([1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k])
    zeros = np.array([high + band * k / q + k * k, 2 * (k * k - high), high - band * k / q + k * k])
    shelf = (zeros / poles[0], poles / poles[0])

    k, q = np.tan(np.pi * 38.13547087602444 / rate), 0.5003270373238773
    poles = np.array([1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k])
    return shelf, (np.array([1.0, -2.0, 1.0]), poles / poles[0])


def pulse_clarity(audio: np.ndarray, rate: int) -> float:
    """Compute pulse clarity, the maximum autocorrelation of onset strength over periods of 40 to 200 BPM.

    The value of each lag is a Pearson correlation over the overlapping frames, so that a slow pulse is not penalised
    for its smaller overlap. After Lartillot, Eerola, Toiviainen & Fornari (2008), "Multi-feature modeling of pulse
    clarity".

    Args:
        audio: Samples (N,), mono.
        rate: Sample rate in Hz.

    Returns:
        Correlation in [-1, 1]; NaN if the clip is silent.
    """
    if not audio.any():
        return np.nan
    hop = round(rate / 86)  # 12 ms: 4 % of the shortest period
    with first_use("onsets"):
        import librosa

        onsets = librosa.onset.onset_strength(
            y=_normalise_peak(audio), sr=rate, n_fft=_window_length(rate), hop_length=hop
        )
    frames = rate / hop
    lags = range(int(np.ceil(60 / BPM[1] * frames)), int(60 / BPM[0] * frames) + 1)
    return max(_correlation(onsets[:-lag], onsets[lag:]) for lag in lags)


def brightness(audio: np.ndarray, rate: int) -> float:
    """Compute the spectral centroid as the magnitude-weighted mean of log2 frequency, in octaves above 1 Hz.

    The axis is logarithmic because pitch and timbre are perceived in ratios; an octave corresponds to 1.

    Args:
        audio: Samples (N,), mono.
        rate: Sample rate in Hz.

    Returns:
        log2 Hz; NaN if the clip is silent.
    """
    if not audio.any():
        return np.nan
    n_fft = _window_length(rate)
    frequency = np.fft.rfftfreq(n_fft, 1 / rate)
    in_band = (frequency >= BAND[0]) & (frequency <= BAND[1])
    with first_use("transform"):
        import librosa

        spectrum = np.abs(librosa.stft(_normalise_peak(audio), n_fft=n_fft))[in_band].mean(axis=1)
    return float(np.average(np.log2(frequency[in_band]), weights=spectrum))


def mode(audio: np.ndarray, rate: int) -> float:
    """Compute the difference between the mean chroma's best correlations with a major key and with a minor key.

    The method is `mirmode` of MIRtoolbox, with the profiles of Krumhansl & Kessler (1982). A positive value means
    major.

    Args:
        audio: Samples (N,), mono.
        rate: Sample rate in Hz.

    Returns:
        Difference of two correlations, in [-2, 2]; NaN if the clip is silent.
    """
    if not audio.any():
        return np.nan
    # Constant Q is used because a short transform smears low semitones into their neighbours, and a major triad can
    # then appear minor. The tuning is fixed at A440, because an estimate uses the maximum of a histogram, which one bit
    # of the input can change. Frames are not normalised, so that quiet frames have little weight.
    with first_use("key"):
        import librosa

        chroma = librosa.feature.chroma_cqt(y=_normalise_peak(audio), sr=rate, tuning=0.0, norm=None).mean(axis=1)
    best = [max(_correlation(np.roll(key, tonic), chroma) for tonic in range(12)) for key in (MAJOR, MINOR)]
    return best[0] - best[1]


def _scale_to_unit(value: float, bounds: tuple[float, float]) -> float:
    """Scale a value so that its bounds become 0 and 1, and clip it. NaN is unchanged."""
    return float(np.clip((value - bounds[0]) / (bounds[1] - bounds[0]), 0.0, 1.0))


def _lufs(power: np.ndarray) -> np.ndarray:
    """Convert K-weighted mean powers to LUFS, with the offset that gives a full-scale 997 Hz sine the value -3.01."""
    return -0.691 + 10 * np.log10(np.maximum(power, np.finfo(np.float64).tiny))


def _normalise_peak(audio: np.ndarray) -> np.ndarray:
    """Scale to a peak of 1, so that absolute thresholds in librosa do not depend on the gain."""
    return (audio / np.abs(audio).max()).astype(np.float32)


def _window_length(rate: int) -> int:
    """Return the power of two nearest to 93 ms, in samples (2048 at 22.05 kHz, 4096 at 44.1 and 48 kHz)."""
    return int(2 ** np.round(np.log2(0.093 * rate)))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Pearson correlation of two arrays (N,), or 0 if either is constant."""
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else 0.0


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
