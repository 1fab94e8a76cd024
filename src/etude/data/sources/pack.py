"""Existing packs as collections, without their audio files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.audio.frontend import FrontEnd
from etude.data.pack import Pack, PackOptions
from etude.errors import DataError


@dataclass(frozen=True)
class Packed:
    """Collection of an existing pack, as described in its manifest.

    Args:
        opened: The pack.
        name, title, targets, card, note, extra, id_space: As in the original collection.
    """

    opened: Pack
    name: str
    title: str
    targets: dict[str, dict[str, Any]]
    card: str = ""
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    id_space: str | None = None

    def pack(self, front: FrontEnd, options: PackOptions) -> Pack:
        """Return the pack after a check of its front end.

        Raises:
            DataError: The pack was written with another front end.
        """
        stored, requested = self.opened.manifest["origin"]["front"], front.to_dict()
        if different := [f"{key}={stored.get(key)}" for key in requested if stored.get(key) != requested[key]]:
            if any(pair.startswith("_target_=") for pair in different):
                raise DataError(
                    f"{self.opened.folder}: was written with {stored.get('_target_')}; "
                    "select a feature with this front end"
                )
            overrides = " ".join(
                f"feature.{pair}" if pair.startswith("sync=") else f"feature.front.{pair}" for pair in different
            ).replace("=None", "=null")
            raise DataError(f"{self.opened.folder}: was written with another front end; add {overrides}")
        return self.opened


def collection(path: str) -> Packed:
    """Open a pack as a collection.

    Args:
        path: Folder of the pack.

    Raises:
        DataError: The folder is not a pack, or its manifest does not describe the collection.
    """
    opened = Pack(Path(path))
    description = opened.manifest.get("origin", {}).get("collection")
    if description is None:
        raise DataError(f"{path}: the manifest does not describe the collection; prepare it with etude prepare")
    try:
        return Packed(opened, **description)
    except TypeError as error:
        raise DataError(f"{path}: the description of the collection in the manifest is invalid") from error
