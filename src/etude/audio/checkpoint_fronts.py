"""Front ends of the feature extractors of published audio checkpoints.

The frames equal those of the feature extractors of the library transformers, which is not imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from etude.audio import filterbanks
from etude.audio.frontend import FrontEnd
from etude.audio.log_mel import LogMelChroma
from etude.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from etude.audio.frontend_modules import FrontEndModule


FLOOR = 1e-10  # smallest mel power
PADDINGS = ("repeatpad", "repeat", "pad")


@dataclass(frozen=True)
class WaveformFront(FrontEnd):
    """Front end of raw waveforms, whose frames are single samples.

    Packs store samples as float16. Samples of up to 1/16 of full scale keep the precision of 16 bits, and the error of
    a louder sample is at most 1/4096 of its value (-72 dB).

    Args:
        rate: Sample rate, in Hz.
        n_fft, hop_length, n_mels: 1.
        n_chroma, sync: As in `FrontEnd`; `sync` must be `none`.
    """

    rate: int = 16000
    n_fft: int = 1
    hop_length: int = 1
    n_mels: int = 1
    supports_beats: ClassVar[bool] = False

    @property
    def decibel(self) -> np.ndarray:
        """Zeros (F,), because samples are not in dB."""
        return np.zeros(self.bins, np.float32)

    def displayed(self) -> FrontEnd:
        """Return the default front end of spectrograms."""
        return LogMelChroma(rate=self.rate)

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Return samples (N,) as frames (N, 1), float32."""
        return np.asarray(audio, np.float32)[:, None]

    def make_module(self, columns: tuple[int, int]) -> FrontEndModule:
        """Return the torch module of the front end."""
        from etude.audio.frontend_modules import WaveformModule  # imports torch

        return WaveformModule()


@dataclass(frozen=True)
class WhisperFront(FrontEnd):
    """Log-mel front end of Whisper (Radford et al., 2022), (log10 m + 4) / 4 of mel power m.

    The dynamic range of 80 dB below the loudest value is not limited here, because the loudest value is that of an
    input of the network, which is at most 30 s of a clip. The network limits it.

    Args:
        rate, n_fft, hop_length, n_mels, n_chroma, sync: As in `FrontEnd`; `sync` must be `none`.
        chunk: Length of the network's input, in samples. A shorter clip is continued by silence, so that frames after
            its end that contain its last samples are kept.
    """

    n_fft: int = 400
    hop_length: int = 160
    n_mels: int = 80
    rate: int = 16000
    chunk: int = 480_000
    fmin: ClassVar[float] = 0.0
    fmax: ClassVar[float] = 8000.0
    supports_beats: ClassVar[bool] = False

    @property
    def decibel(self) -> np.ndarray:
        """Change of each bin (F,) per dB of level."""
        return np.full(self.bins, 0.025, np.float32)

    def mel_centres(self) -> np.ndarray:
        """Return the frequency at the centre of each mel band (n_mels,), in Hz, on Slaney's scale."""
        return filterbanks.band_centres(self.n_mels, self.fmin, self.fmax, htk=False)

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Compute frames (T, F), float32, from samples (N,).

        T is N // hop_length if the clip is not shorter than `chunk`. Otherwise it is the number of frames that contain
        samples of the clip.
        """
        import torch
        import torch.nn.functional as F

        x = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
        count = -(-(len(x) + self.n_fft // 2) // self.hop_length)
        if len(x) < self.chunk:
            x = F.pad(x, (0, min(self.chunk - len(x), 2 * self.n_fft)))
        power = _power(x, self.n_fft, self.hop_length)[:-1][:count]
        bank = filterbanks.mel_filters(self.rate, self.n_fft, self.n_mels, self.fmin, self.fmax)
        mel = power @ torch.from_numpy(bank.T.copy())
        return mel.clamp_(min=FLOOR).log10_().add_(4.0).div_(4.0).numpy()


@dataclass(frozen=True)
class ClapFront(FrontEnd):
    """Log-mel front end of CLAP (Wu et al., 2022), in dB relative to full scale.

    A clip that is shorter than the input of the network is repeated and padded before the transform, so that it has as
    many frames as the input.

    Args:
        rate, n_fft, hop_length, n_mels, n_chroma, sync: As in `FrontEnd`; `sync` must be `none`.
        fmin: Lowest mel frequency, in Hz.
        fmax: Highest mel frequency, in Hz.
        chunk: Length of the network's input, in samples.
        padding: `repeatpad`, complete repetitions and then silence; `repeat`, repetitions; or `pad`, silence.
        htk: Mel filters of HTK with equal heights, or of Slaney with equal areas.

    Raises:
        UserError: `padding` is unknown.
    """

    rate: int = 48000
    n_fft: int = 1024
    hop_length: int = 480
    n_mels: int = 64
    fmin: float = 50.0
    fmax: float = 14000.0
    chunk: int = 480_000
    padding: str = "repeatpad"
    htk: bool = False
    unit: ClassVar[str] = "dB"
    supports_beats: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.padding not in PADDINGS:
            raise UserError(f"feature.front.padding must be {', '.join(PADDINGS)}, got {self.padding!r}")

    def mel_centres(self) -> np.ndarray:
        """Return the frequency at the centre of each mel band (n_mels,), in Hz."""
        return filterbanks.band_centres(self.n_mels, self.fmin, self.fmax, self.htk)

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Compute frames (T, F), float32, from samples (N,), with T = 1 + max(N, chunk) // hop_length."""
        import torch

        if len(audio) < self.chunk:
            times = {"pad": 1, "repeat": self.chunk // len(audio) + 1}.get(self.padding, self.chunk // len(audio))
            audio = np.tile(audio, times)[: self.chunk]
            audio = np.pad(audio, (0, self.chunk - len(audio)))
        # in double precision as the feature extractor, because quiet bands are below the noise of single precision
        x = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float64))
        mel = _power(x, self.n_fft, self.hop_length) @ torch.from_numpy(_clap_filters(self))
        return mel.clamp_(min=FLOOR).log10_().mul_(10.0).float().numpy()


def _power(x: Tensor, n_fft: int, hop: int) -> Tensor:
    """Return the power spectrum (T, 1 + n_fft / 2) of samples (N,), with centred Hann windows and reflection."""
    import torch

    window = torch.hann_window(n_fft, dtype=torch.float64).to(x.dtype)
    spectrum = torch.stft(x, n_fft, hop, window=window, return_complex=True)
    return torch.view_as_real(spectrum).square().sum(-1).T


@lru_cache(maxsize=8)
def _clap_filters(front: ClapFront) -> np.ndarray:
    """Return the mel filters (1 + n_fft / 2, F) of CLAP, float64."""
    corners = filterbanks.mel_frequencies(front.n_mels + 2, front.fmin, front.fmax, front.htk)
    frequencies = np.linspace(0, front.rate // 2, 1 + front.n_fft // 2)
    ramps, widths = corners[:, None] - frequencies, np.diff(corners)[:, None]
    filters = np.maximum(0, np.minimum(-ramps[:-2] / widths[:-1], ramps[2:] / widths[1:]))
    if not front.htk:
        filters *= (2 / (corners[2:] - corners[:-2]))[:, None]
    return np.ascontiguousarray(filters.T)
