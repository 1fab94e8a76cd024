"""Base class of front ends, the short-time Fourier transform, and the front end of images.

The power spectrum is computed in blocks of 128 frames that stay in the cache, by one rfft, and goes straight through a
bank of filters. That is several times faster than librosa's passes over a whole spectrogram (McFee et al., 2015), and
equal to them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from etude.audio.filterbanks import AMIN, FilterBank
from etude.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from etude.audio.frontend_modules import FrontEndModule


BLOCK = 128  # frames at a time: 128 x 1025 complex64 fit a core's second-level cache


@dataclass(frozen=True)
class FrontEnd:
    """Base class of front ends, which turn sound into frames.

    A subclass defines `frames`, and `make_module` where it can be part of an exported graph.

    Args:
        rate: Sample rate, in Hz.
        n_fft: Length of the transform, in samples.
        hop_length: Samples from one frame to the next.
        n_mels: Mel bands.
        n_chroma: Pitch classes, after the bands.
        sync: `none`, a frame every hop; or `beat`, one for each interval between beats, the median of its frames.
    """

    rate: int = 22050
    n_fft: int = 2048
    hop_length: int = 512
    n_mels: int = 128
    n_chroma: int = 0
    sync: str = "none"
    reads_sound: ClassVar[bool] = True
    unit: ClassVar[str] = ""
    """Unit of the mel bands on axes; empty where they are scaled."""

    def __post_init__(self) -> None:
        for name in ("rate", "n_fft", "hop_length", "n_mels"):
            if (value := getattr(self, name)) <= 0:
                raise UserError(f"feature.front.{name} must be greater than 0, got {value!r}")
        if self.sync not in ("none", "beat"):
            raise UserError(f"feature.sync must be none or beat, got {self.sync!r}")

    @property
    def bins(self) -> int:
        """Width of a frame, F: mel bands, then pitch classes."""
        return self.n_mels + self.n_chroma

    @property
    def decibel(self) -> np.ndarray:
        """What one dB more of sound adds to each value of a frame (F,): 1 to mel bands, which are in dB."""
        return np.repeat(np.array([1, 0], np.float32), [self.n_mels, self.n_chroma])

    @property
    def frames_per_second(self) -> float:
        """Frame rate before any synchronisation to beats, in Hz."""
        return self.rate / self.hop_length

    def mel_centres(self) -> np.ndarray | None:
        """Return the frequency at the centre of each mel band (n_mels,), in Hz; None where bands are no frequencies."""
        return None

    def absolute(self) -> FrontEnd:
        """Return the front end that measures levels against full scale and not against the loudest bin of a clip."""
        return self

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Samples (N,), float32, at `rate`, to frames (T, F), float32."""
        raise NotImplementedError

    def view(self, audio: np.ndarray, columns: tuple[int, int]) -> np.ndarray:
        """The frames (T, last - first) of some columns alone, from the first to the one before the last."""
        return self.frames(audio)[:, slice(*columns)]

    def as_module(self, columns: tuple[int, int]) -> FrontEndModule:
        """Return the front end as a torch module, for export into a graph.

        Args:
            columns: First and last column of the network's view.

        Raises:
            UserError: The frames depend on an estimate for each clip, or the class defines no module of its own.
        """
        if self.sync != "none":
            raise not_exportable("frames by the beat (feature.sync=beat)")
        if "make_module" not in vars(type(self)):  # an inherited one need not give the frames of a subclass
            raise not_exportable(f"the front end {type(self).__name__}")
        return self.make_module(columns)

    def make_module(self, columns: tuple[int, int]) -> FrontEndModule:
        """Return the torch module that gives the same frames; every class that can be exported defines its own."""
        raise not_exportable(f"the front end {type(self).__name__}")

    def to_dict(self) -> dict[str, object]:
        """Plain values, for manifests and checkpoints, with the `_target_` that makes the same front end of them."""
        return {"_target_": f"{type(self).__module__}.{type(self).__qualname__}", **asdict(self)}


def not_exportable(part: str) -> UserError:
    """Return the error for a part of a front end that no graph can have."""
    return UserError(
        f"{part} cannot be part of a graph that takes a waveform; export the network behind it: input=frames"
    )


def spectrum(audio: np.ndarray, front: FrontEnd, bank: FilterBank | None = None) -> Tensor:
    """Power spectrum of a clip, or what a bank of filters takes from it.

    Args:
        audio: Samples (N,).
        front: Parameters of the transform; the window is Hann's, centred, with zeros around the clip.
        bank: Filters over its 1 + n_fft / 2 bins; none gives the spectrum itself.

    Returns:
        Power (T, F), or (T, 1 + n_fft / 2) without a bank.
    """
    import torch

    window, half = torch.hann_window(front.n_fft), front.n_fft // 2
    padded = torch.zeros(len(audio) + front.n_fft)
    padded[half : half + len(audio)] = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
    windows = padded.unfold(0, front.n_fft, front.hop_length)
    out = torch.empty(len(windows), half + 1 if bank is None else bank.width)
    # what a block passes through is allocated once: fresh memory costs a quarter of the time
    shape = (min(BLOCK, len(windows)), half + 1)
    tapered, transform, squares = (
        torch.empty(shape[0], front.n_fft),
        torch.empty(shape, dtype=torch.complex64),
        torch.empty(shape),
    )
    for start in range(0, len(windows), BLOCK):
        block = windows[start : start + BLOCK]
        count = slice(len(block))
        torch.mul(block, window, out=tapered[count])
        torch.fft.rfft(tapered[count], out=transform[count])
        real, imaginary = torch.view_as_real(transform[count]).unbind(-1)
        power = torch.mul(real, real, out=squares[count] if bank is not None else out[start : start + BLOCK])
        power.addcmul_(imaginary, imaginary)
        if bank is not None:
            bank.apply(power, out[start : start + BLOCK])
    return out


def decibels(power: Tensor, ref: str = "max", top_db: float = 80.0) -> None:
    """Power (T, F) to dB, in place, as librosa.power_to_db does.

    Args:
        power: What is changed.
        ref: What 0 dB is: `max`, the largest value, or `one`.
        top_db: Range kept below the largest value, in dB.
    """
    power.clamp_(min=AMIN).log10_().mul_(10.0)
    if ref == "max":
        power -= power.max()
    power.clamp_(min=power.max() - top_db)


@dataclass(frozen=True)
class ImageFront(FrontEnd):
    """Square images for networks that look at spectrograms.

    Args:
        n_mels: Side of an image, in pixels.
        rate, n_fft, hop_length, n_chroma, sync: Say nothing about an image.
    """

    rate: int = 1
    n_fft: int = 1
    hop_length: int = 1
    n_mels: int = 24
    reads_sound: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_chroma or self.sync != "none":
            raise ValueError("feature=image: an image has neither chroma nor beats")

    @property
    def decibel(self) -> np.ndarray:
        """A pixel knows no decibels (F,)."""
        return np.zeros(self.bins, np.float32)

    @property
    def frames_per_second(self) -> float:
        """The rows of an image: it counts as one second, which is what a crop and the shortest clip are measured in."""
        return float(self.n_mels)

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """A grey image of any size (H, W), in [0, 1], to frames (n_mels, n_mels), float32, bilinearly."""
        import torch
        from torch.nn.functional import interpolate

        if audio.ndim != 2:
            raise UserError(f"feature=image: an image must be (H, W), got {audio.shape}; sound needs another feature")
        image = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
        size = (self.n_mels, self.n_mels)
        return interpolate(image[None, None], size, mode="bilinear", antialias=True)[0, 0].numpy()
