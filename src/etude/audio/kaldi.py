"""Front ends of networks that were trained on AudioSet: filter banks as in Kaldi, at the rate and scale they know.

A network can be no better than its ears: weights that were trained on one filter bank hear noise through another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from etude.audio.filterbanks import band_centres, mel_bank
from etude.audio.frontend import FrontEnd
from etude.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


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
        import torch

        x = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
        if len(x) <= self.n_fft // 2 + 1:  # reflection needs more than half a window
            x = torch.nn.functional.pad(x, (0, self.n_fft // 2 + 2 - len(x)))
        x = x[1:] - self.preemphasis * x[:-1]
        window = torch.hann_window(self.window, periodic=False)
        spectrum = torch.stft(x, self.n_fft, self.hop_length, self.window, window, return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1).T
        return ((self.mel(power) + 1e-5).log() + 4.5).div(self.scale).numpy()


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
        import torch
        from torch.nn.functional import pad

        x = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
        windows = pad(x, (0, max(0, self.window - len(x)))).unfold(0, self.window, self.hop_length)
        windows = windows - windows.mean(1, keepdim=True)
        before = pad(windows[:, None], (1, 0), mode="replicate")[:, 0, :-1]
        windows = (windows - self.preemphasis * before) * torch.hann_window(self.window, periodic=False)
        power = torch.fft.rfft(windows, self.n_fft).abs().square()
        logarithm = self.mel(power).clamp(min=torch.finfo(torch.float32).eps).log()
        return ((logarithm - self.mean) / self.scale).numpy()
