"""Handwritten digits that come with scikit-learn: small real images, for seeing what a network does inside."""

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
    "These are images of handwritten digits, not sounds: a frame is a row of pixels, a bin a column. Their writers are "
    "not known, so nothing keeps one writer out of both training and test."
)
CARD = """# Handwritten digits

The 1,797 images of `sklearn.datasets.load_digits`: the test part of "Optical recognition of handwritten digits" by
E. Alpaydin and C. Kaynak (UCI Machine Learning Repository, 1998, CC BY 4.0), written by 13 people. Each was counted
down from a bitmap of 32 x 32 to 8 x 8 pixels of 0 to 16, before anybody here saw it.

- **Frames**: scaled to [0, 1] and brought bilinearly to 24 x 24, the size of the digits in ConvNetJS's demo. What the
  blocks of 4 x 4 lost does not come back.
- **Known limits**: who wrote which image was not published. With the same hands in training and test, scores say less
  than they seem to.
"""


@dataclass(frozen=True)
class Digits:
    """The images; they make their own pack.

    Args:
        name, title, targets, card, note, extra: As of a collection of clips.
    """

    name: str = "digits"
    title: str = "1,797 handwritten digits of scikit-learn"
    targets: dict[str, dict[str, Any]] = field(default_factory=lambda: {"digit": label_target(range(10))})
    card: str = CARD
    note: str = NOTE
    extra: dict[str, Any] = field(default_factory=lambda: {"licences": {"CC BY 4.0": 1797}})

    def pack(self, front: FrontEnd, options: PackOptions) -> Pack:
        """The pack of the images, from disk or made now.

        Raises:
            DataError: The front end is one for sound.
        """
        if not isinstance(front, ImageFront):
            raise DataError("data=digits: these are images; leave the feature to them, or choose feature=image")
        said = {name: getattr(self, name) for name in ("name", "title", "targets", "card", "note", "extra")}
        origin = {"front": front.to_dict(), "collection": said}
        folder = options.packs / f"{self.name}-{hashlib.sha256(json.dumps(origin).encode()).hexdigest()[:8]}"
        if (folder / MANIFEST).is_file():
            return Pack(folder)
        with lock_pack(folder, options):  # of several processes one makes it
            return Pack(folder) if (folder / MANIFEST).is_file() else _made(folder, front, origin)


def collection() -> Digits:
    """The digits."""
    return Digits()


def _made(folder: Path, front: ImageFront, origin: dict[str, Any]) -> Pack:
    import pandas as pd
    from sklearn.datasets import load_digits

    found = load_digits()
    images: np.ndarray = found.images / 16.0  # (1797, 8, 8)
    table = pd.DataFrame({
        "id": [f"{place:04d}" for place in range(len(images))],
        "group": None,
        "digit": [str(digit) for digit in found.target],
    })  # fmt: skip
    return write_pack(folder, table, (front.frames(image) for image in images), {"origin": origin})
