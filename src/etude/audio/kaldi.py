"""Front ends of networks that were trained on AudioSet: filter banks as in Kaldi, at the rate and scale they know.

A network can be no better than its ears: weights that were trained on one filter bank hear noise through another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from etude.audio.filterbanks import band_centres, mel_bank
from etude.audio.frontend import FrontEnd
from etude.audio.frontend_modules import FrontEndModule
from etude.errors import UserError


@dataclass(frozen=True)
class KaldiFront(FrontEnd):
    """What the two front ends below share.

    Args:
        rate, n_fft, hop_length, n_mels, n_chroma, sync: As of every front end; `sync` is `none`.
        window: Length of a symmetric Hann window, in samples.
        fmin: Lowest mel frequency, in Hz.
        fmax: Highest mel frequency, in Hz.
        preemphasis: Share of the sample before that is subtracted.

    Raises:
        UserError: Frames are asked for by the beat.
    """

    window: int = 400
    fmin: float = 0.0
    fmax: float = 8000.0
    preemphasis: float = 0.97

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sync != "none":
            raise UserError(f"feature.sync={self.sync}: {type(self).__name__} makes frames by the hop only")

    @property
    def decibel(self) -> np.ndarray:
        """What one dB more of sound adds to each value of a frame (F,): logarithms are natural, and scaled."""
        return np.full(self.bins, np.log(10) / 10 / self.scale, np.float32)

    @property
    def scale(self) -> float:
        """What logarithms of power are divided by."""
        raise NotImplementedError

    def mel_centres(self) -> np.ndarray:
        """Return the frequency at the centre of each mel band (n_mels,), in Hz, on HTK's scale."""
        return band_centres(self.n_mels, self.fmin, self.fmax or self.rate / 2, htk=True)

    def mel(self, power: Tensor) -> Tensor:
        """Power (T, 1 + n_fft / 2) to mel power (T, n_mels)."""
        return power @ mel_bank(self.rate, self.n_fft, self.n_mels, self.fmin, self.fmax)


@dataclass(frozen=True)
class EfficientATFront(KaldiFront):
    """Log-mel of EfficientAT (Schmid, Koutini & Widmer, 2023): 128 bands of 32 kHz sound, scaled to about [-1, 1].

    Pre-emphasis, power of a centred transform with a symmetric Hann window of 25 ms, Kaldi's mel bands up to 15 kHz,
    logarithm.
    """

    rate: int = 32000
    n_fft: int = 1024
    hop_length: int = 320
    n_mels: int = 128
    window: int = 800
    fmax: float = 15000.0

    @property
    def scale(self) -> float:
        """What logarithms of power are divided by."""
        return 5.0

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Samples (N,) at 32 kHz to frames (T, 128), T = 1 + (N - 1) // 320."""
        x = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
        if len(x) <= self.n_fft // 2 + 1:  # reflection needs more than half a window
            x = F.pad(x, (0, self.n_fft // 2 + 2 - len(x)))
        x = x[1:] - self.preemphasis * x[:-1]
        window = torch.hann_window(self.window, periodic=False)
        spectrum = torch.stft(x, self.n_fft, self.hop_length, self.window, window, return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1).T
        return ((self.mel(power) + 1e-5).log() + 4.5).div(self.scale).numpy()

    def make_module(self, columns: tuple[int, int]) -> FrontEndModule:
        """Return the torch module of the front end."""
        return EfficientATFrontModule(self, columns)


@dataclass(frozen=True)
class ASTFront(KaldiFront):
    """Log-mel filter bank of AST (Gong, Chung & Glass, 2021): Kaldi's, 128 bands of 16 kHz sound, as AudioSet's.

    Windows of 25 ms every 10 ms, none beyond the ends of the clip; from each its mean is taken, then pre-emphasis and a
    symmetric Hann window; power, Kaldi's mel bands from 20 Hz to half the rate, logarithm; and last AudioSet's mean is
    subtracted and twice its deviation divided by.
    """

    rate: int = 16000
    n_fft: int = 512
    hop_length: int = 160
    n_mels: int = 128
    fmin: float = 20.0
    mean: float = -4.2677393
    std: float = 4.5689974

    @property
    def scale(self) -> float:
        """What logarithms of power are divided by."""
        return 2 * self.std

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Samples (N,) at 16 kHz to frames (T, 128), T = 1 + (N - 400) // 160, at least 1."""
        x = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
        windows = F.pad(x, (0, max(0, self.window - len(x)))).unfold(0, self.window, self.hop_length)
        windows = windows - windows.mean(1, keepdim=True)
        before = F.pad(windows[:, None], (1, 0), mode="replicate")[:, 0, :-1]
        windows = (windows - self.preemphasis * before) * torch.hann_window(self.window, periodic=False)
        power = torch.fft.rfft(windows, self.n_fft).abs().square()
        logarithm = self.mel(power).clamp(min=torch.finfo(torch.float32).eps).log()
        return ((logarithm - self.mean) / self.scale).numpy()

    def make_module(self, columns: tuple[int, int]) -> FrontEndModule:
        """Return the torch module of the front end."""
        return ASTFrontModule(self, columns)


class KaldiModule(FrontEndModule):
    """Base of the torch modules of both front ends, with a symmetric window and scaled logarithms.

    Args:
        front: The front end.
        columns: First and last column of the network's view.
    """

    def __init__(self, front: KaldiFront, columns: tuple[int, int]) -> None:
        bank = mel_bank(front.rate, front.n_fft, front.n_mels, front.fmin, front.fmax)[:, slice(*columns)]
        window = torch.hann_window(front.window, periodic=False)
        super().__init__(front.n_fft, front.hop_length, window, bank.clone())
        self.share, self.scale = front.preemphasis, front.scale


class ASTFrontModule(KaldiModule):
    """Log-mel filter bank of `ASTFront`."""

    def __init__(self, front: ASTFront, columns: tuple[int, int]) -> None:
        super().__init__(front, columns)
        self.mean, self.size = front.mean, front.window
        self.room += front.window

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Samples (B, N) and (B,) to frames (B, 1 + (N - W) // hop, F) and (B,)."""
        windows = waveform.unfold(1, self.size, self.hop)
        windows = windows - windows.mean(2, keepdim=True)
        before = torch.cat([windows[..., :1], windows[..., :-1]], 2)
        power = self.filtered(windows - self.share * before)
        logarithm = power.clamp(min=torch.finfo(torch.float32).eps).log()
        return (logarithm - self.mean) / self.scale, (lengths.clamp(min=self.size) - self.size) // self.hop + 1


class EfficientATFrontModule(KaldiModule):
    """Log-mel of `EfficientATFront`."""

    def __init__(self, front: EfficientATFront, columns: tuple[int, int]) -> None:
        super().__init__(front, columns)
        self.shortest = front.n_fft // 2 + 2  # reflection needs more than half a window
        self.room += self.shortest
        side = (front.n_fft - front.window) // 2  # torch.stft puts a shorter window in the middle
        self.window = F.pad(self.window, (side, front.n_fft - front.window - side))

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Samples (B, N) and (B,) to frames (B, 1 + (N - 1) // hop, F) and (B,)."""
        x = waveform[:, 1:] - self.share * waveform[:, :-1]
        last = lengths[:, None].clamp(min=self.shortest) - 2  # of what is reflected at either end
        place = (torch.arange(x.shape[1] + self.n_fft, device=x.device) - self.n_fft // 2).abs()
        place = torch.where(place > last, 2 * last - place, place).clamp(min=0)
        power = self.filtered(x.gather(1, place).unfold(1, self.n_fft, self.hop))
        return ((power + 1e-5).log() + 4.5) / self.scale, (last[:, 0] + 1) // self.hop + 1
