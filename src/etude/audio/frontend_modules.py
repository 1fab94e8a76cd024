"""Torch modules of frames: front ends for export into a graph, masks of padded batches, and masked batch norm.

A front-end module computes the frames of a batch of waveforms, with operations that every runtime supports. For each
clip the result equals `FrontEnd.frames`, up to float32 rounding. The padding after a clip has no influence. Levels are
relative to the clip's own loudest frame, and reflection is at the clip's own end.
"""

from __future__ import annotations

from math import ceil, gcd
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from etude.audio.filterbanks import AMIN

Lengths = TypeVar("Lengths", Tensor, int)
RESAMPLER_REACH = 128  # reach of the filters of soxr in samples of the output, to either side


def valid(lengths: Tensor, frames: int) -> Tensor:
    """Return the mask of valid frames (B, T) bool, from lengths (B,) int64 and the number of frames T."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


class MaskedBatchNorm(nn.Module):
    """Batch norm with training statistics over the valid frames of all devices.

    Training is therefore independent of the lengths of other clips in the batch and of the number of devices that share
    a batch. Source: Ioffe & Szegedy, 2015, "Batch normalization", with mean and variance over the valid frames of the
    complete batch.

    Args:
        channels: Number of channels, C.
        momentum: Weight of the newest batch in the running statistics.
        eps: Constant added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        # so that state dicts of torch's BatchNorm can be loaded
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Normalise each channel of (B, C, T, F) with `lengths` (B,) valid frames."""
        if self.training:
            self.num_batches_tracked.add_(1)
        shared = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if (
            not self.training  # first, because an exported graph cannot branch on the values in a tensor
            or (not shared and x.numel() > x.shape[1] and bool((lengths == x.shape[2]).all()))
        ):
            running = (self.running_mean, self.running_var)
            return F.batch_norm(x, *running, self.weight, self.bias, self.training, self.momentum, self.eps)
        mask = valid(lengths, x.shape[2])[:, None, :, None].float()
        total = all_reduce if shared else torch.clone
        count = total(mask.sum() * x.shape[3])
        mean = total((x * mask).sum((0, 2, 3))) / count
        var = total(((x - mean[:, None, None]).square() * mask).sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1).clamp(min=1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return (x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]).to(x.dtype)


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


class Resampler(nn.Module):
    """Module that reduces the sample rate as soxr does, which resamples decoded audio.

    soxr is linear, and repeats the same filters for every block of samples. They are measured with impulses. Only the
    first two samples of a clip may differ.

    Args:
        rate: Sample rate of the input, in Hz.
        new_rate: Sample rate of the output, in Hz, less than `rate`.
    """

    kernel: Tensor

    def __init__(self, rate: int, new_rate: int) -> None:
        super().__init__()
        import soxr

        divisor = gcd(rate, new_rate)
        self.stride, self.phases = rate // divisor, new_rate // divisor
        reach = ceil(RESAMPLER_REACH * rate / new_rate)  # samples
        blocks = 1 + ceil(reach / self.stride)  # of `stride` samples and `phases` outputs, to either side
        impulses = 2 * blocks * self.stride  # position of the first impulse, the beginning of a block
        kernel = np.zeros((self.phases, 2 * reach + self.stride), np.float32)
        outputs = np.arange(blocks * self.phases, 3 * blocks * self.phases)
        for i in range(self.stride):
            impulse = np.zeros(4 * blocks * self.stride, np.float32)
            impulse[impulses + i] = 1.0
            response = soxr.resample(impulse, rate, new_rate)[outputs]
            taps = impulses + i - outputs // self.phases * self.stride + reach
            inside = (taps >= 0) & (taps < kernel.shape[1])
            kernel[(outputs % self.phases)[inside], taps[inside]] = response[inside]
        self.reach = reach
        self.register_buffer("kernel", torch.from_numpy(kernel)[:, None])

    def count(self, lengths: Lengths) -> Lengths:
        """Return the number of samples of the output for numbers of samples of the input."""
        return (2 * lengths * self.phases + self.stride) // (2 * self.stride)

    def forward(self, waveform: Tensor) -> Tensor:
        """Resample waveforms (B, N) with zeros after the end of each clip to (B, N'), with N' = N new_rate / rate."""
        padded = F.pad(waveform, (self.reach, self.reach + 2 * self.stride))[:, None]
        samples = F.conv1d(padded, self.kernel, stride=self.stride).transpose(1, 2).flatten(1)
        return samples[:, : self.count(waveform.shape[1])]
