"""Front ends as torch modules, for export into a graph.

Batches of waveforms become frames in operations that every runtime has. These are what `front.frames` gives of each
clip alone, to the rounding of float32: levels are measured against a clip's own loudest frame, whatever stands behind.

What one of them reflects at the end of a clip, it reflects at the clip's own, whatever stands behind it.
"""

from __future__ import annotations

from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.filterbanks import mel_bank
from etude.audio.frontend import AMIN, FrontEnd
from etude.audio.kaldi import ASTFront, EfficientATFront, KaldiFront
from etude.audio.log_mel import LogMelChroma, _bank
from etude.backbones.base import valid
from etude.errors import UserError


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
        """Hear a batch.

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
    """Log-mel in dB and chroma of `FrontEnd`.

    Args:
        front: Its parameters.
        columns: First and last column of the view, which is mel bands, pitch classes or both.
    """

    def __init__(self, front: LogMelChroma, columns: tuple[int, int]) -> None:
        first, last = columns
        filters, bins = _bank(front, front.tuning if last > front.n_mels else None), front.n_fft // 2 + 1
        bank = filters.apply(torch.eye(bins), torch.empty(bins, filters.width))[:, first:last]
        super().__init__(front.n_fft, front.hop_length, torch.hann_window(front.n_fft), bank.clone())
        self.mels, self.ref, self.top = max(0, front.n_mels - first), front.ref, front.top_db

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


class KaldiModule(FrontEndModule):
    """What the filter banks of AudioSet's networks share: windows are symmetric, logarithms scaled."""

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


@singledispatch
def frontend_module(front: FrontEnd, columns: tuple[int, int]) -> FrontEndModule:
    """A front end as part of a graph.

    Args:
        front: The front end.
        columns: First and last column of the network's view.

    Raises:
        UserError: It does what no graph can: it estimates something of the clip, or is not one of those known here.
    """
    raise refusal(f"the front end {type(front).__name__}")


@frontend_module.register
def _(front: LogMelChroma, columns: tuple[int, int]) -> FrontEndModule:
    if columns[1] > front.n_mels:  # pitch classes are in the view
        if front.chroma == "cqt":
            raise refusal("constant-Q chroma (feature.front.chroma=cqt)")
        if front.tuning is None:
            raise refusal("a tuning that is estimated for each clip (feature.front.tuning=null)")
    return LogMelChromaModule(front, columns)


@frontend_module.register
def _(front: ASTFront, columns: tuple[int, int]) -> FrontEndModule:
    return ASTFrontModule(front, columns)


@frontend_module.register
def _(front: EfficientATFront, columns: tuple[int, int]) -> FrontEndModule:
    return EfficientATFrontModule(front, columns)


def frontend_module_of(front: FrontEnd, columns: tuple[int, int]) -> FrontEndModule:
    """As `ears`, but of front ends that are known here themselves: one that derives from them may do anything else."""
    if front.sync != "none":
        raise refusal("frames by the beat (feature.sync=beat)")
    if type(front) not in frontend_module.registry:
        raise refusal(f"the front end {type(front).__name__}")
    return frontend_module(front, columns)


def refusal(what: str) -> UserError:
    """What to raise when something cannot be part of a graph."""
    return UserError(
        f"{what} cannot be part of a graph that takes a waveform; export the network behind it: input=frames"
    )
