"""Front ends as torch modules, for export into a graph.

A module turns a batch of waveforms into frames, with operations that every runtime has. The frames are those that
`FrontEnd.frames` gives of each clip alone, to the rounding of float32: levels are measured against the clip's own
loudest frame, and reflection is at the clip's own end, whatever stands behind it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.filterbanks import AMIN
from etude.audio.masks import valid


class FrontEndModule(nn.Module):
    """Waveforms to frames.

    Args:
        n_fft: Length of the transform, in samples.
        hop: Samples from one frame to the next.
        window: Window (W,), which frames are multiplied by; W is at most `n_fft`.
        bank: Filters (1 + n_fft / 2, F).

    Attributes:
        room: Samples that a graph adds behind a batch, whose shortest clip would have fewer than two frames: of one,
            shapes would not be those of several.
    """

    window: Tensor
    bank: Tensor

    def __init__(self, n_fft: int, hop: int, window: Tensor, bank: Tensor) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop = self.room = hop
        self.register_buffer("window", window)
        self.register_buffer("bank", bank)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the frames of a batch.

        Args:
            waveform: Samples (B, N), float32, zero after each clip's end and `room` more.
            lengths: Samples of each clip (B,), int64.

        Returns:
            Frames (B, T, F), and how many are each clip's own (B,).
        """
        raise NotImplementedError

    def filtered(self, windows: Tensor) -> Tensor:
        """Pieces of sound (B, T, W) to what the filters take from their power (B, T, F).

        By the fast transform: in onnxruntime it is twice as fast as a product with cosines and sines, and needs no
        matrix of 17 MB.
        """
        parts = torch.view_as_real(torch.fft.rfft(windows * self.window, self.n_fft))
        return parts.square().sum(-1) @ self.bank


class LogMelChromaModule(FrontEndModule):
    """Log-mel in dB and chroma, as of `LogMelChroma`.

    Args:
        n_fft: Length of the transform and of its Hann window, in samples.
        hop: Samples from one frame to the next.
        bank: Filters (1 + n_fft / 2, F): mel bands, then pitch classes.
        mels: How many of the filters are mel bands.
        ref: What 0 dB is: `max`, a clip's own loudest bin, or `one`, full scale.
        top_db: Dynamic range kept below the loudest bin of a clip, in dB.
    """

    def __init__(self, n_fft: int, hop: int, bank: Tensor, mels: int, ref: str, top_db: float) -> None:
        super().__init__(n_fft, hop, torch.hann_window(n_fft), bank)
        self.mels, self.ref, self.top = mels, ref, top_db

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Samples (B, N) and (B,) to frames (B, 1 + N // hop, F) and (B,)."""
        half = self.n_fft // 2
        power = self.filtered(F.pad(waveform, (half, self.n_fft - half)).unfold(1, self.n_fft, self.hop))
        count = lengths // self.hop + 1
        views = []
        if self.mels:
            there = valid(count, power.shape[1])[..., None]
            mel = power[..., : self.mels].clamp(min=AMIN).log10() * 10
            peak = torch.where(there, mel, -torch.inf).amax((1, 2), keepdim=True)
            if self.ref == "max":
                mel, peak = mel - peak, torch.zeros_like(peak)
            views.append(torch.maximum(mel, peak - self.top))
        if self.mels < power.shape[2]:
            chroma = power[..., self.mels :]
            peak = chroma.amax(2, keepdim=True)
            views.append(chroma / torch.where(peak > torch.finfo(torch.float32).tiny, peak, 1.0))
        return torch.cat(views, 2), count
