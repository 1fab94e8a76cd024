"""Embeddings of a run's training part, kept in its folder: known by the checkpoint, the frames and the clips."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from etude.errors import UserError
from etude.files.atomic import replacing

log = logging.getLogger(__name__)
NAME = "embeddings.npz"


class Key(NamedTuple):
    """What embeddings depend on.

    Args:
        checkpoint: SHA-256 of the checkpoint.
        frames: Of all frames of the pack.
        ids: Of the clips, in order.
    """

    checkpoint: str
    frames: str
    ids: tuple[str, ...]


def read(folder: Path, key: Key) -> np.ndarray | None:
    """The embeddings (n, D), float32, that were kept of these clips; none where others were, or the file is damaged."""
    try:
        with np.load(folder / NAME, allow_pickle=False) as kept:
            same = (str(kept["checkpoint"]), str(kept["frames"]), tuple(kept["ids"].tolist())) == key
            x = kept["x"] if same else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return x if x is not None and x.dtype == np.float32 and x.ndim == 2 and len(x) == len(key.ids) else None


def write(folder: Path, key: Key, x: np.ndarray) -> None:
    """Keep embeddings, whole or not at all; a folder that cannot be written to is said, and ends nothing."""
    try:
        with replacing(folder / NAME) as draft, draft.open("wb") as file:
            np.savez(file, checkpoint=key.checkpoint, frames=key.frames, ids=np.array(key.ids), x=x)
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        log.warning("%s: cannot be written (%s); the embeddings are computed anew the next time", folder, reason)
