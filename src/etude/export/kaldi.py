"""The filter banks of networks that were trained on AudioSet, as parts of a graph; see `spectral`.

What one of them reflects at the end of a clip, it reflects at the clip's own, whatever stands behind it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from etude.audio.kaldi import ASTFront, EfficientATFront, KaldiFront, mel_bank
from etude.export.spectral import Ears


class Kaldi(Ears):
    """What the filter banks of AudioSet's networks share: windows are symmetric, logarithms scaled."""

    def __init__(self, front: KaldiFront, columns: tuple[int, int]) -> None:
        bank = mel_bank(front.rate, front.n_fft, front.n_mels, front.fmin, front.fmax)[:, slice(*columns)]
        window = torch.hann_window(front.window, periodic=False)
        super().__init__(front.n_fft, front.hop_length, window, bank.clone())
        self.share, self.scale = front.preemphasis, front.scale


class AST(Kaldi):
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


class EfficientAT(Kaldi):
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
