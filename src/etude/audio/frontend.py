"""Base class of front ends, the short-time Fourier transform, and the front ends of images and of several networks.

The power spectrum is computed in blocks of 128 frames, which fit into the CPU cache. One rfft and then the filter bank
are applied to each block. librosa instead passes several times over the complete spectrogram (McFee et al., 2015). Its
results are equal, but it is several times slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from etude.audio.filterbanks import AMIN, FilterBank
from etude.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from etude.audio.frontend_modules import FrontEndModule


BASE, DIGITS = 1024, 3  # of a number of frames; digits below 2048 are exact in float16, the type of packs
BLOCK = 128  # frames per block; 128 x 1025 complex64 fit into the second-level cache of a core


@dataclass(frozen=True)
class FrontEnd:
    """Base class of front ends, which compute frames from samples.

    A subclass defines `frames`, and `make_module` if it can be part of an exported graph.

    Args:
        rate: Sample rate, in Hz.
        n_fft: Length of the transform, in samples.
        hop_length: Samples from one frame to the next.
        n_mels: Number of mel bands.
        n_chroma: Number of pitch classes. They follow the mel bands in a frame.
        sync: `none` for one frame every hop; or `beat` for one frame per interval between beats, which is the median of
            the frames in the interval.

    Attributes:
        revision: Version of the computation. It is increased when the frames of equal samples change, so that stored
            embeddings are computed again.
    """

    rate: int = 22050
    n_fft: int = 2048
    hop_length: int = 512
    n_mels: int = 128
    n_chroma: int = 0
    sync: str = "none"
    reads_sound: ClassVar[bool] = True
    revision: ClassVar[int] = 1
    unit: ClassVar[str] = ""
    """Unit of the mel bands for axis labels; empty if their values are scaled."""

    supports_beats: ClassVar[bool] = True
    """Whether `sync` may be `beat`."""

    def __post_init__(self) -> None:
        for name in ("rate", "n_fft", "hop_length", "n_mels"):
            if (value := getattr(self, name)) <= 0:
                raise UserError(f"feature.front.{name} must be greater than 0, got {value!r}")
        if self.sync not in ("none", "beat"):
            raise UserError(f"feature.sync must be none or beat, got {self.sync!r}")
        if self.sync != "none" and not self.supports_beats:
            raise UserError(f"feature.sync={self.sync}: {type(self).__name__} supports only feature.sync=none")

    @property
    def bins(self) -> int:
        """Number of bins of a frame (F), mel bands and pitch classes together."""
        return self.n_mels + self.n_chroma

    @property
    def decibel(self) -> np.ndarray:
        """Change of each bin (F,) per dB of level, 1 for mel bands in dB and 0 for pitch classes."""
        return np.repeat(np.array([1, 0], np.float32), [self.n_mels, self.n_chroma])

    @property
    def frames_per_second(self) -> float:
        """Frame rate before any synchronisation to beats, in Hz."""
        return self.rate / self.hop_length

    def mel_centres(self) -> np.ndarray | None:
        """Return the centre frequency of each mel band (n_mels,), in Hz, or None if bins are not frequency bands."""
        return None

    def absolute(self) -> FrontEnd:
        """Return the front end with levels relative to full scale instead of the loudest bin of a clip."""
        return self

    def displayed(self) -> FrontEnd:
        """Return the front end of the spectrograms on pages, at the same rate."""
        return self

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Compute frames (T, F), float32, from samples (N,), float32, at `rate`."""
        raise NotImplementedError

    def view(self, audio: np.ndarray, columns: tuple[int, int]) -> np.ndarray:
        """Compute only the columns from first to last - 1 of the frames, (T, last - first)."""
        return self.frames(audio)[:, slice(*columns)]

    def as_module(self, columns: tuple[int, int]) -> FrontEndModule:
        """Return the front end as a torch module, for export into a graph.

        Args:
            columns: First column of the network's input, and the column after the last.

        Raises:
            UserError: The frames depend on a property of the clip (beats, tuning), or the class has no `make_module`.
        """
        if self.sync != "none":
            raise not_exportable("beat-synchronous frames (feature.sync=beat)")
        if "make_module" not in vars(type(self)):  # an inherited method may compute other frames than the subclass
            raise not_exportable(f"the front end {type(self).__name__}")
        return self.make_module(columns)

    def make_module(self, columns: tuple[int, int]) -> FrontEndModule:
        """Return a torch module that computes the same frames.

        Every exportable class must define this method itself.
        """
        raise not_exportable(f"the front end {type(self).__name__}")

    def to_dict(self) -> dict[str, object]:
        """Return the parameters and `_target_` as plain values, for manifests and checkpoints."""
        return {"_target_": f"{type(self).__module__}.{type(self).__qualname__}", **asdict(self)}


def not_exportable(component: str) -> UserError:
    """Return the error for a component of a front end that cannot be exported."""
    return UserError(
        f"{component} cannot be part of a graph with waveform input; export the network alone with --input frames"
    )


def power_spectrum(audio: np.ndarray, front: FrontEnd, bank: FilterBank | None = None) -> Tensor:
    """Compute the power spectrum of a clip, and apply a filter bank if one is given.

    Args:
        audio: Samples (N,).
        front: Parameters of the transform, with centred Hann windows and zero padding around the clip.
        bank: Filters over the 1 + n_fft / 2 bins; None returns the spectrum itself.

    Returns:
        Power (T, F), or (T, 1 + n_fft / 2) without a bank.
    """
    import torch

    window, half = torch.hann_window(front.n_fft), front.n_fft // 2
    padded = torch.zeros(len(audio) + front.n_fft)
    padded[half : half + len(audio)] = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
    windows = padded.unfold(0, front.n_fft, front.hop_length)
    out = torch.empty(len(windows), half + 1 if bank is None else bank.width)
    # buffers are allocated once, because allocation for each block would take a quarter of the total time
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


def convert_to_decibels(power: Tensor, ref: str = "max", top_db: float = 80.0) -> None:
    """Convert power (T, F) to dB in place, as in librosa.power_to_db.

    Args:
        power: Power, which is overwritten.
        ref: Reference of 0 dB: `max`, the largest value, or `one`.
        top_db: Dynamic range below the largest value, in dB.
    """
    power.clamp_(min=AMIN).log10_().mul_(10.0)
    if ref == "max":
        power -= power.max()
    power.clamp_(min=power.max() - top_db)


@dataclass(frozen=True)
class ImageFront(FrontEnd):
    """Front end of square images, for networks over spectrograms.

    Args:
        n_mels: Side of an image, in pixels.
        rate, n_fft, hop_length, n_chroma, sync: Not used for images.
    """

    rate: int = 1
    n_fft: int = 1
    hop_length: int = 1
    n_mels: int = 24
    reads_sound: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_chroma or self.sync != "none":
            raise ValueError("feature=image: n_chroma must be 0 and sync must be none")

    @property
    def decibel(self) -> np.ndarray:
        """Zeros (F,), because pixels are not in dB."""
        return np.zeros(self.bins, np.float32)

    @property
    def frames_per_second(self) -> float:
        """Number of rows of an image. One image counts as one second for crop lengths and minimum lengths."""
        return float(self.n_mels)

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Resize a grey image (H, W), in [0, 1], bilinearly to frames (n_mels, n_mels), float32."""
        import torch
        from torch.nn.functional import interpolate

        if audio.ndim != 2:
            raise UserError(f"feature=image: an image must be (H, W), got {audio.shape}; use another feature for audio")
        image = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
        size = (self.n_mels, self.n_mels)
        return interpolate(image[None, None], size, mode="bilinear", antialias=True)[0, 0].numpy()


@dataclass(frozen=True)
class JointFrontEnd(FrontEnd):
    """Front end that computes the frames of several front ends.

    Audio is decoded once at the highest sample rate, and soxr resamples it for front ends with a lower rate. Each front
    end has some columns of the packed frames (R, W). Its values, frame after frame, fill these columns row by row. The
    last column contains the number of frames of each front end.

    A row has the duration of a frame of the reference, the first front end with the highest rate. `rate`, `n_fft` and
    `hop_length` are those of the reference.

    Args:
        fronts: Front ends of the networks.
        columns: First column that a network uses, and the column after the last, for each front end.
        rate, n_fft, hop_length, n_mels, n_chroma, sync: Not used.

    Raises:
        UserError: A front end does not read sound, or all front ends with the highest rate are beat-synchronous.
    """

    fronts: Sequence[FrontEnd] = ()
    columns: Sequence[Sequence[int]] = ()
    supports_beats: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if any(not front.reads_sound for front in self.fronts):
            raise UserError("a front end of images cannot be combined with another front end")
        rate = max(front.rate for front in self.fronts)
        if not any(front.rate == rate and front.sync == "none" for front in self.fronts):
            raise UserError(f"beat-synchronous frames at {rate} Hz cannot be combined with frames of a lower rate")
        object.__setattr__(self, "rate", rate)
        reference = self.displayed()
        values: dict[str, Any] = {"n_fft": reference.n_fft, "hop_length": reference.hop_length}
        values |= {"fronts": tuple(self.fronts), "columns": tuple((first, last) for first, last in self.columns)}
        values["revision"] = sum(front.revision for front in self.fronts)  # increases with that of any of them
        for name, value in values.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "n_mels", sum(self.widths) + 1)

    def displayed(self) -> FrontEnd:
        """Return the front end of the spectrograms on pages, the reference."""
        return next(front for front in self.fronts if front.rate == self.rate and front.sync == "none")

    @property
    def sizes(self) -> list[int]:
        """Number of bins of each front end that its network uses."""
        return [last - first for first, last in self.columns]

    @property
    def widths(self) -> list[int]:
        """Number of columns of each front end in the packed frames."""
        ratios = (front.frames_per_second / self.frames_per_second for front in self.fronts)
        return [ceil(size * ratio) for size, ratio in zip(self.sizes, ratios, strict=True)]

    @property
    def decibel(self) -> np.ndarray:
        """Zeros (W,), because the columns are not bins."""
        return np.zeros(self.bins, np.float32)

    def frames(self, audio: np.ndarray) -> np.ndarray:
        """Compute packed frames (R, W), float32, from samples (N,), float32, at `rate`."""
        views = [
            front.view(resample(audio, self.rate, front.rate), (first, last))
            for front, (first, last) in zip(self.fronts, self.columns, strict=True)
        ]
        rows = [ceil(view.size / width) for view, width in zip(views, self.widths, strict=True)]
        n_rows = max(*rows, DIGITS * len(views))
        blocks = []
        for view, width in zip(views, self.widths, strict=True):
            block = np.zeros(n_rows * width, np.float32)
            block[: view.size] = view.reshape(-1)
            blocks.append(block.reshape(n_rows, width))
        counts = np.zeros((n_rows, 1), np.float32)
        for i, view in enumerate(views):
            for digit in range(DIGITS):
                counts[DIGITS * i + digit] = len(view) // BASE**digit % BASE
        return np.concatenate([*blocks, counts], axis=1)

    def unpack(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the frames (B, T, F) of each front end, and their numbers (B,), from packed frames (B, R, W)."""
        unpacked, start = [], 0
        for i, (size, width) in enumerate(zip(self.sizes, self.widths, strict=True)):
            digits = x[:, DIGITS * i : DIGITS * (i + 1), -1].round().long()
            lengths = sum(digits[:, digit] * BASE**digit for digit in range(1, DIGITS)) + digits[:, 0]
            count = int(lengths.max())
            values = x[:, :, start : start + width].reshape(len(x), -1)
            unpacked.append((values[:, : count * size].reshape(len(x), count, size), lengths))
            start += width
        return unpacked

    def to_dict(self) -> dict[str, object]:
        """Return the parameters and `_target_` as plain values."""
        return {
            "_target_": f"{type(self).__module__}.{type(self).__qualname__}",
            "fronts": [front.to_dict() for front in self.fronts],
            "columns": [[*columns] for columns in self.columns],
        }


def resample(audio: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Change the sample rate of samples (N,), as in decoding."""
    if rate == new_rate:
        return audio
    import soxr

    return soxr.resample(audio, rate, new_rate)
