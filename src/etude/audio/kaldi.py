"""Kaldi filter banks with the sample rate and scale of networks trained on AudioSet.

Pretrained weights require the filter bank with which they were trained. With another filter bank, predictions are
meaningless.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from etude.audio.filterbanks import band_centres, mel_bank
from etude.audio.frontend import FrontEnd
from etude.audio.frontend_modules import FrontEndModule


@dataclass(frozen=True)
class KaldiFront(FrontEnd):
    """Base class of Kaldi filter banks.

    Args:
        rate, n_fft, hop_length, n_mels, n_chroma, sync: As in `FrontEnd`; `sync` must be `none`.
        window: Length of a symmetric Hann window, in samples.
        fmin: Lowest mel frequency, in Hz.
        fmax: Highest mel frequency, in Hz.
        preemphasis: Share of the previous sample that is subtracted.

    Raises:
        UserError: `sync` is not `none`.
    """

    window: int = 400
    fmin: float = 0.0
    fmax: float = 8000.0
    preemphasis: float = 0.97
    supports_beats: ClassVar[bool] = False

    @property
    def decibel(self) -> np.ndarray:
        """Change of each bin (F,) per dB of level, for scaled natural logarithms."""
        return np.full(self.bins, np.log(10) / 10 / self.scale, np.float32)

    @property
    def scale(self) -> float:
        """Divisor of the logarithm of power."""
        raise NotImplementedError

    def mel_centres(self) -> np.ndarray:
        """Return the frequency at the centre of each mel band (n_mels,), in Hz, on HTK's scale."""
        return band_centres(self.n_mels, self.fmin, self.fmax or self.rate / 2, htk=True)

    def mel(self, power: Tensor) -> Tensor:
        """Compute mel power (T, n_mels) from power (T, 1 + n_fft / 2)."""
        return power @ mel_bank(self.rate, self.n_fft, self.n_mels, self.fmin, self.fmax)


@dataclass(frozen=True)
class EfficientATFront(KaldiFront):
    """Log-mel front end of EfficientAT (Schmid, Koutini & Widmer, 2023), with 128 bands at 32 kHz.

    The steps are pre-emphasis, power of a centred transform with a symmetric Hann window of 25 ms, Kaldi's mel bands up
    to 15 kHz, logarithm, and scaling to about [-1, 1].
    """

    rate: int = 32000
    n_fft: int = 1024
    hop_length: int = 320
    n_mels: int = 128
    window: int = 800
    fmax: float = 15000.0

    @property
    def scale(self) -> float:
        """Divisor of the logarithm of power."""
        return 5.0

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Compute frames (T, 128) from samples (N,) at 32 kHz, with T = 1 + (N - 1) // 320."""
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
    """Kaldi log-mel front end of AST (Gong, Chung & Glass, 2021), with 128 bands at 16 kHz.

    Windows of 25 ms every 10 ms do not extend beyond the ends of the clip. The steps are subtraction of the mean of
    each window, pre-emphasis, a symmetric Hann window, power, Kaldi's mel bands from 20 Hz to half the rate, and
    logarithm. Finally the mean over AudioSet is subtracted, and the result is divided by twice the standard deviation.

    Args:
        mean: Mean over AudioSet, in nepers.
        std: Standard deviation over AudioSet, in nepers.
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
        """Divisor of the logarithm of power."""
        return 2 * self.std

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Compute frames (T, 128) from samples (N,) at 16 kHz, with T = 1 + (N - 400) // 160, at least 1."""
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
    """Base class of the modules of Kaldi filter banks, with a symmetric window and scaled logarithms.

    Args:
        front: The front end.
        columns: First column of the network's input, and the column after the last.
    """

    def __init__(self, front: KaldiFront, columns: tuple[int, int]) -> None:
        bank = mel_bank(front.rate, front.n_fft, front.n_mels, front.fmin, front.fmax)[:, slice(*columns)]
        window = torch.hann_window(front.window, periodic=False)
        super().__init__(front.n_fft, front.hop_length, window, bank.clone())
        self.share, self.scale = front.preemphasis, front.scale


class ASTFrontModule(KaldiModule):
    """Module of `ASTFront`."""

    def __init__(self, front: ASTFront, columns: tuple[int, int]) -> None:
        super().__init__(front, columns)
        self.mean, self.size = front.mean, front.window
        self.room += front.window

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute frames (B, 1 + (N - W) // hop, F) and their numbers (B,) from samples (B, N) and lengths (B,)."""
        windows = waveform.unfold(1, self.size, self.hop)
        windows = windows - windows.mean(2, keepdim=True)
        before = torch.cat([windows[..., :1], windows[..., :-1]], 2)
        power = self.filtered(windows - self.share * before)
        logarithm = power.clamp(min=torch.finfo(torch.float32).eps).log()
        return (logarithm - self.mean) / self.scale, (lengths.clamp(min=self.size) - self.size) // self.hop + 1


class EfficientATFrontModule(KaldiModule):
    """Module of `EfficientATFront`."""

    def __init__(self, front: EfficientATFront, columns: tuple[int, int]) -> None:
        super().__init__(front, columns)
        self.shortest = front.n_fft // 2 + 2  # reflection needs more than half a window
        self.room += self.shortest
        side = (front.n_fft - front.window) // 2  # torch.stft centres a window shorter than n_fft
        self.window = F.pad(self.window, (side, front.n_fft - front.window - side))

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute frames (B, 1 + (N - 1) // hop, F) and their numbers (B,) from samples (B, N) and lengths (B,)."""
        x = waveform[:, 1:] - self.share * waveform[:, :-1]
        last = lengths[:, None].clamp(min=self.shortest) - 2  # index of the last sample before reflection
        index = (torch.arange(x.shape[1] + self.n_fft, device=x.device) - self.n_fft // 2).abs()
        index = torch.where(index > last, 2 * last - index, index).clamp(min=0)
        power = self.filtered(x.gather(1, index).unfold(1, self.n_fft, self.hop))
        return ((power + 1e-5).log() + 4.5) / self.scale, (last[:, 0] + 1) // self.hop + 1
