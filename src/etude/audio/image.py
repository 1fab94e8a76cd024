"""The front end of images, which are no sound: a row of pixels is a frame, a column is a bin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from etude.audio.front import Front
from etude.errors import UserError


@dataclass(frozen=True)
class ImageFront(Front):
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
