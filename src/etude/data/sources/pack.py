"""A pack that was made before, here or on another machine: no sound file has to be at hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.audio.frontend import FrontEnd
from etude.data.pack import Pack, PackOptions
from etude.errors import DataError


@dataclass(frozen=True)
class Packed:
    """What a pack says of its collection; it is packed already.

    Args:
        opened: The pack.
        name, title, targets, card, note, extra: As of the collection that it was made from.
    """

    opened: Pack
    name: str
    title: str
    targets: dict[str, dict[str, Any]]
    card: str = ""
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def pack(self, front: FrontEnd, options: PackOptions) -> Pack:
        """The pack, if its front end is the one that is asked for.

        Raises:
            DataError: It was made by another front end.
        """
        made, asked = self.opened.manifest["origin"]["front"], front.to_dict()
        if other := [f"{key}={made.get(key)}" for key in asked if made.get(key) != asked[key]]:
            if any(word.startswith("_target_=") for word in other):
                raise DataError(
                    f"{self.opened.folder}: was made by {made.get('_target_')}; choose a feature of that kind"
                )
            words = " ".join(
                f"feature.{word}" if word.startswith("sync=") else f"feature.front.{word}" for word in other
            ).replace("=None", "=null")
            raise DataError(f"{self.opened.folder}: was made by another front end; add {words}")
        return self.opened


def collection(path: str) -> Packed:
    """Open a pack as a collection.

    Args:
        path: Folder of the pack.

    Raises:
        DataError: The folder is not a pack, or one that does not say what it was made from.
    """
    opened = Pack(Path(path))
    said = opened.manifest.get("origin", {}).get("collection")
    if said is None:
        raise DataError(f"{path}: does not say what collection it was made from; make it with scripts/prepare.py")
    try:
        return Packed(opened, **said)
    except TypeError as error:
        raise DataError(f"{path}: does not say what collection it was made from in words that are known") from error
