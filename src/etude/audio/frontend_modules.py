"""Front ends as torch modules, for export into a graph.

A module computes the frames of a batch of waveforms, with operations that every runtime supports. For each clip the
result equals `FrontEnd.frames`, up to float32 rounding. The padding after a clip has no influence. Levels are relative
to the clip's own loudest frame, and reflection is at the clip's own end.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.filterbanks import AMIN
from etude.audio.masks import valid


class FrontEndModule(nn.Module):
    """Base class of front-end modules, which compute frames from waveforms.

    Args:
        n_fft: Length of the transform, in samples.
        hop: Samples from one frame to the next.
        window: Window (W,) that frames are multiplied by; W is at most `n_fft`.
        bank: Filters (1 + n_fft / 2, F).

    Attributes:
        room: Number of padding samples that the exported graph adds, so that even the shortest input gives
            two frames. With one frame, tensor shapes in the graph would differ.
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
            waveform: Samples (B, N), float32, with zeros after each clip's end, including `room` appended samples.
            lengths: Number of samples of each clip (B,), int64.

        Returns:
            Frames (B, T, F), and the number of valid frames of each clip (B,).
        """
        raise NotImplementedError

    def filtered(self, windows: Tensor) -> Tensor:
        """Apply the filters to the power spectrum of windows (B, T, W), and return (B, T, F).

        In onnxruntime an FFT is twice as fast as a matrix product with cosines and sines, which would also need a
        matrix of 17 MB.
        """
        spectrum = torch.view_as_real(torch.fft.rfft(windows * self.window, self.n_fft))
        return spectrum.square().sum(-1) @ self.bank


class LogMelChromaModule(FrontEndModule):
    """Module of `LogMelChroma` that computes log-mel in dB and chroma.

    Args:
        n_fft: Length of the transform and of its Hann window, in samples.
        hop: Samples from one frame to the next.
        bank: Filters (1 + n_fft / 2, F): mel bands, then pitch classes.
        mels: Number of filters that are mel bands.
        ref: Reference of 0 dB: `max`, the loudest bin of the clip, or `one`, full scale.
        top_db: Dynamic range below the loudest bin of a clip, in dB.
    """

    def __init__(self, n_fft: int, hop: int, bank: Tensor, mels: int, ref: str, top_db: float) -> None:
        super().__init__(n_fft, hop, torch.hann_window(n_fft), bank)
        self.mels, self.ref, self.top = mels, ref, top_db

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute frames (B, 1 + N // hop, F) and their numbers (B,) from samples (B, N) and lengths (B,)."""
        half = self.n_fft // 2
        power = self.filtered(F.pad(waveform, (half, self.n_fft - half)).unfold(1, self.n_fft, self.hop))
        count = lengths // self.hop + 1
        views = []
        if self.mels:
            mask = valid(count, power.shape[1])[..., None]
            mel = power[..., : self.mels].clamp(min=AMIN).log10() * 10
            peak = torch.where(mask, mel, -torch.inf).amax((1, 2), keepdim=True)
            if self.ref == "max":
                mel, peak = mel - peak, torch.zeros_like(peak)
            views.append(torch.maximum(mel, peak - self.top))
        if self.mels < power.shape[2]:
            chroma = power[..., self.mels :]
            peak = chroma.amax(2, keepdim=True)
            views.append(chroma / torch.where(peak > torch.finfo(torch.float32).tiny, peak, 1.0))
        return torch.cat(views, 2), count


class MusicnnFrontModule(FrontEndModule):
    """Module of `MusicnnFront`, which computes log10(gain m + 1) of mel power m.

    Args:
        n_fft: Length of the transform and of its Hann window, in samples.
        hop: Samples from one frame to the next.
        bank: Mel filters (1 + n_fft / 2, F).
        gain: Factor of the power.
    """

    def __init__(self, n_fft: int, hop: int, bank: Tensor, gain: float) -> None:
        super().__init__(n_fft, hop, torch.hann_window(n_fft), bank.clone())
        self.gain = gain

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute frames (B, 1 + N // hop, F) and their numbers (B,) from samples (B, N) and lengths (B,)."""
        half = self.n_fft // 2
        power = self.filtered(F.pad(waveform, (half, self.n_fft - half)).unfold(1, self.n_fft, self.hop))
        return (self.gain * power + 1).log10(), lengths // self.hop + 1


class WaveformModule(FrontEndModule):
    """Module of `WaveformFront`, whose frames are the samples."""

    def __init__(self) -> None:
        super().__init__(1, 1, torch.ones(1), torch.ones(1, 1))

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return samples (B, N) as frames (B, N, 1), and lengths (B,)."""
        return waveform[..., None], lengths
