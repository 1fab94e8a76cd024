"""Front ends of log-mel and chroma frames, equal to librosa's, with tuning estimation.

The tuning is the most frequent deviation of spectral peaks from the tempered scale. Peaks are located between bins by
parabolic interpolation (Smith & Serra, 1987). As in librosa's pitch tracking, only bins from 150 Hz to 4 kHz can be
peaks. Here other bins are not computed.

Mel bands agree with librosa to 1e-3 dB and pitch classes to 1e-5. The filters are bit-identical.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from etude.audio import filterbanks
from etude.audio.descriptors import synchronise, track_beats
from etude.audio.filterbanks import FilterBank
from etude.audio.frontend import FrontEnd, convert_to_decibels, not_exportable, power_spectrum
from etude.audio.numba_lock import first_use
from etude.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from etude.audio.frontend_modules import FrontEndModule


LOWEST, HIGHEST = 150.0, 4000.0  # Hz
THRESHOLD = 0.1  # a peak is above this share of the strongest bin of its frame
GAIN = 10_000.0  # of mel power in the logarithm of musicnn


def estimate_tuning(power: np.ndarray, rate: int, n_chroma: int = 12) -> float:
    """Estimate the tuning, equal to `librosa.estimate_tuning(S=power.T, sr=rate, bins_per_octave=n_chroma)`.

    Args:
        power: Power spectrum (T, 1 + n_fft / 2).
        rate: Sample rate, in Hz.
        n_chroma: Pitch classes of an octave.

    Returns:
        Deviation from A440 in fractions of a pitch class, in [-0.5, 0.5), a multiple of 0.01; 0 if there is no pitch.
    """
    n_fft = 2 * (power.shape[1] - 1)
    frequency = np.fft.rfftfreq(n_fft, 1 / rate)
    (bins,) = np.nonzero((frequency >= LOWEST) & (frequency < HIGHEST))
    first, last = max(1, bins[0]), min(power.shape[1] - 2, bins[-1])
    floor = THRESHOLD * power.max(axis=1, keepdims=True)
    below, here, above = (power[:, first + shift : last + 1 + shift] for shift in (-1, 0, 1))
    # a neighbour below the floor counts as 0, so that a single bin above the floor is a peak
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


CHOICES = {"ref": ("max", "one"), "chroma": ("stft", "cqt")}


@dataclass(frozen=True)
class LogMelChroma(FrontEnd):
    """Front end of log-mel and chroma frames.

    All its parameters are stored in packs and checkpoints.

    Args:
        rate: Sample rate, in Hz.
        n_fft: Window length of the transform, in samples (a Hann window).
        hop_length: Samples from one frame to the next.
        n_mels: Number of mel bands, with Slaney's scale and normalisation.
        n_chroma: Number of pitch classes.
        fmin: Lowest mel frequency, in Hz.
        fmax: Highest mel frequency, in Hz; None for half the sample rate.
        top_db: Dynamic range below the loudest bin of a clip, in dB.
        ref: Reference of 0 dB: `max`, the loudest bin of the clip, or `one`, full scale.
        chroma: `stft`, or `cqt` for the constant-Q transform, which resolves low pitches better and is ten times
            slower.
        tuning: Deviation from A440 for the chroma filters, in fractions of a semitone; None estimates it for each clip.
        sync: `none` for one frame every hop; or `beat` for one frame per interval between beats, which is the median of
            the frames in the interval.
    """

    n_chroma: int = 12
    fmin: float = 0.0
    fmax: float | None = None
    top_db: float = 80.0
    ref: str = "max"
    chroma: str = "stft"
    tuning: float | None = 0.0
    unit: ClassVar[str] = "dB"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise UserError(f"feature.front.{name} must be {' or '.join(choices)}, got {value!r}")
        for name in ("n_chroma", "top_db"):
            if (value := getattr(self, name)) <= 0:
                raise UserError(f"feature.front.{name} must be greater than 0, got {value!r}")
        top = self.rate / 2 if self.fmax is None else self.fmax
        if not 0 <= self.fmin < top <= self.rate / 2:
            raise UserError(
                f"feature.front: fmin {self.fmin:g} Hz and fmax {top:g} Hz must satisfy 0 <= fmin < fmax <= rate / 2, "
                f"which is {self.rate / 2:g} Hz"
            )

    def mel_centres(self) -> np.ndarray:
        """Return the frequency at the centre of each mel band (n_mels,), in Hz, on Slaney's scale."""
        return filterbanks.band_centres(self.n_mels, self.fmin, self.fmax or self.rate / 2, htk=False)

    def absolute(self) -> LogMelChroma:
        """Return the same front end with full scale as 0 dB."""
        return replace(self, ref="one")

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Compute frames (T, F) from samples (N,) by the function `frames`."""
        return frames(audio, self)

    def view(self, audio: np.ndarray, columns: tuple[int, int]) -> np.ndarray:
        """Compute some columns of the frames.

        Pitch classes are computed only if they are included, because they take most of the time.
        """
        return frames(audio, self, pitched=columns[1] > self.n_mels)[:, slice(*columns)]

    def make_module(self, columns: tuple[int, int]) -> FrontEndModule:
        """Return the torch module of the front end.

        Raises:
            UserError: The columns include constant-Q chroma, or chroma with a tuning that is estimated for each clip.
        """
        import torch

        from etude.audio.frontend_modules import LogMelChromaModule  # imports torch

        first, last = columns
        pitched = last > self.n_mels
        if pitched and self.chroma == "cqt":
            raise not_exportable("constant-Q chroma (feature.front.chroma=cqt)")
        if pitched and self.tuning is None:
            raise not_exportable("a tuning that is estimated for each clip (feature.front.tuning=null)")
        filters, bins = _filter_bank(self, self.tuning if pitched else None), self.n_fft // 2 + 1
        bank = filters.apply(torch.eye(bins), torch.empty(bins, filters.width))[:, first:last]
        mels = max(0, self.n_mels - first)
        return LogMelChromaModule(self.n_fft, self.hop_length, bank.clone(), mels, self.ref, self.top_db)


def frames(audio: np.ndarray, front: LogMelChroma, beats: np.ndarray | None = None, pitched: bool = True) -> np.ndarray:
    """Compute log-mel and chroma frames of one clip.

    Args:
        audio: Samples (N,), float32, at `front.rate`.
        front: Parameters of the transform.
        beats: Indices of frames with beats (K,), for a beat-synchronous front end; None tracks them.
        pitched: Whether to compute pitch classes.

    Returns:
        Frames (T, F), float32: `n_mels` bands in dB, then `n_chroma` pitch classes in [0, 1]. T = 1 + N // hop_length,
        or K + 1 for a beat-synchronous front end.

    Raises:
        ValueError: `audio` is not one-dimensional or contains no samples.
    """
    if audio.ndim != 1 or not len(audio):
        raise ValueError(f"audio must be (N,) with N > 0, got {audio.shape}")
    out = _mel_and_chroma_power(audio, front) if pitched else power_spectrum(audio, front, _filter_bank(front, None))
    if pitched:
        _normalise_chroma(out[:, front.n_mels :])
    if front.sync == "beat":
        out = synchronise(out, track_beats(audio, front) if beats is None else beats)
    convert_to_decibels(out[:, : front.n_mels], front.ref, front.top_db)
    return out.numpy()


def _mel_and_chroma_power(audio: np.ndarray, front: LogMelChroma) -> Tensor:
    """Compute mel power and unnormalised chroma (T, F)."""
    import torch

    if front.chroma == "cqt":
        mel = power_spectrum(audio, front, _filter_bank(front, None))
        return torch.cat([mel, torch.from_numpy(_constant_q(audio, front))], 1)
    if front.tuning is not None:
        return power_spectrum(audio, front, _filter_bank(front, front.tuning))
    power = power_spectrum(audio, front)
    bank = _filter_bank(front, estimate_tuning(power.numpy(), front.rate, front.n_chroma))
    return bank.apply(power, torch.empty(len(power), bank.width))


def _constant_q(audio: np.ndarray, front: LogMelChroma) -> np.ndarray:
    """Compute constant-Q chroma (T, n_chroma) by librosa, because the transform is too complex to reimplement."""
    import warnings

    from librosa.util.exceptions import ParameterError

    try:
        with first_use("chroma"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about clips shorter than the longest filter, and clips without a pitch
            from librosa.feature import chroma_cqt

            chroma = chroma_cqt(
                y=audio, sr=front.rate, hop_length=front.hop_length, n_chroma=front.n_chroma, tuning=front.tuning,
                bins_per_octave=3 * front.n_chroma,
            )  # fmt: skip
    except ParameterError as error:
        raise UserError(f"feature.front.chroma=cqt is not compatible with the other parameters: {error}") from error
    return np.nan_to_num(chroma.T.astype(np.float32))


def _normalise_chroma(chroma: Tensor) -> None:
    """Divide each frame by its strongest pitch class, in place. Silent frames remain 0."""
    import torch

    peak = chroma.amax(1, keepdim=True)
    chroma /= torch.where(peak > torch.finfo(torch.float32).tiny, peak, 1.0)


@dataclass(frozen=True)
class MusicnnFront(FrontEnd):
    """Log-mel front end of musicnn (Pons & Serra, 2019), log10(10000 m + 1) of mel power m, with 96 bands at 16 kHz.

    The power is librosa's for these sizes, so that the pretrained weights receive the frames that they were trained on.

    Args:
        rate, n_fft, hop_length, n_mels, n_chroma, sync: As in `FrontEnd`; `sync` must be `none`.

    Raises:
        UserError: `sync` is not `none`.
    """

    rate: int = 16000
    n_fft: int = 512
    hop_length: int = 256
    n_mels: int = 96
    fmin: ClassVar[float] = 0.0
    fmax: ClassVar[float | None] = None
    supports_beats: ClassVar[bool] = False

    @property
    def decibel(self) -> np.ndarray:
        """Change of each bin (F,) per dB of level, which is smaller only for bins close to silence."""
        return np.full(self.bins, 0.1, np.float32)

    def mel_centres(self) -> np.ndarray:
        """Return the frequency at the centre of each mel band (n_mels,), in Hz, on Slaney's scale."""
        return filterbanks.band_centres(self.n_mels, self.fmin, self.rate / 2, htk=False)

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Compute frames (T, 96), float32, from samples (N,) at 16 kHz, with T = 1 + N // 256."""
        return power_spectrum(audio, self, _filter_bank(self, None)).mul_(GAIN).add_(1.0).log10_().numpy()

    def make_module(self, columns: tuple[int, int]) -> FrontEndModule:
        """Return the torch module of the front end."""
        import torch

        from etude.audio.frontend_modules import MusicnnFrontModule  # imports torch

        bins = self.n_fft // 2 + 1
        bank = _filter_bank(self, None).apply(torch.eye(bins), torch.empty(bins, self.n_mels))
        return MusicnnFrontModule(self.n_fft, self.hop_length, bank[:, slice(*columns)], GAIN)


@lru_cache(maxsize=128)  # a tuning is a multiple of 0.01: a hundred banks of 0.6 MB at most
def _filter_bank(front: LogMelChroma | MusicnnFront, tuning: float | None) -> FilterBank:
    """Return the mel and chroma filters, or only the mel filters if `tuning` is None."""
    bank = filterbanks.mel_filters(front.rate, front.n_fft, front.n_mels, front.fmin, front.fmax)
    if tuning is not None:
        bank = np.concatenate([bank, filterbanks.chroma_filters(front.rate, front.n_fft, front.n_chroma, tuning)])
    return FilterBank(bank)
