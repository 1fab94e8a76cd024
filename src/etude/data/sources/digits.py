"""Handwritten digits of scikit-learn, small images for the inspection of networks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from etude.audio.frontend import FrontEnd, ImageFront
from etude.data.collection import label_target
from etude.data.pack import MANIFEST, Pack, PackOptions
from etude.data.pack_writer import write_pack
from etude.data.packing import lock_pack
from etude.errors import DataError

NOTE = (
    "These are images of handwritten digits and not audio. A frame is a row of pixels, and a bin is a column. The "
    "writers are unknown, so one writer may be in both training and test."
)
CARD = """# Handwritten digits

The 1,797 images of `sklearn.datasets.load_digits`: the test set of "Optical recognition of handwritten digits" by
E. Alpaydin and C. Kaynak (UCI Machine Learning Repository, 1998, CC BY 4.0), written by 13 people. The publishers
reduced each bitmap from 32 x 32 to 8 x 8 pixels of 0 to 16.

- **Frames**: scaled to [0, 1] and interpolated bilinearly to 24 x 24, the size of the digits in ConvNetJS's demo. The
  interpolation does not restore the detail that was lost in the blocks of 4 x 4.
- **Known limits**: the writer of each image was not published. With the same writers in training and test, scores are
  optimistic.
"""


@dataclass(frozen=True)
class Digits:
    """Collection of images that provides its own pack.

    Args:
        name, title, targets, card, note, extra: As in `Collection`.
    """

    name: str = "digits"
    title: str = "1,797 handwritten digits of scikit-learn"
    targets: dict[str, dict[str, Any]] = field(default_factory=lambda: {"digit": label_target(range(10))})
    card: str = CARD
    note: str = NOTE
    extra: dict[str, Any] = field(default_factory=lambda: {"licences": {"CC BY 4.0": 1797}})

    def pack(self, front: FrontEnd, options: PackOptions) -> Pack:
        """Return the pack of the images, and write it first if it is missing.

        Raises:
            DataError: The front end requires audio.
        """
        if not isinstance(front, ImageFront):
            raise DataError("data=digits: the collection contains images; use feature=image")
        description = {name: getattr(self, name) for name in ("name", "title", "targets", "card", "note", "extra")}
        origin = {"front": front.to_dict(), "collection": description}
        folder = options.packs / f"{self.name}-{hashlib.sha256(json.dumps(origin).encode()).hexdigest()[:8]}"
        if (folder / MANIFEST).is_file():
            return Pack(folder)
        with lock_pack(folder, options):  # one of several processes writes it
            return Pack(folder) if (folder / MANIFEST).is_file() else _write_images(folder, front, origin)


def collection() -> Digits:
    """Return the collection of handwritten digits."""
    return Digits()


def _write_images(folder: Path, front: ImageFront, origin: dict[str, Any]) -> Pack:
    """Write the pack of the images."""
    import pandas as pd
    from sklearn.datasets import load_digits

    digits = load_digits()
    images: np.ndarray = digits.images / 16.0  # (1797, 8, 8)
    table = pd.DataFrame({
        "id": [f"{index:04d}" for index in range(len(images))],
        "group": None,
        "digit": [str(digit) for digit in digits.target],
    })  # fmt: skip
    return write_pack(folder, table, (front.frames(image) for image in images), {"origin": origin})
