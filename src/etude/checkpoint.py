"""Reading a checkpoint that may come from a stranger: tensors and plain values, never code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from etude.errors import UserError


def read(path: Path) -> dict[str, Any]:
    """The content of one of our checkpoints: `state_dict`, the recipe under `etude`, and Lightning's own.

    Raises:
        UserError: The file cannot be read, or is a checkpoint of something else.
    """
    import torch

    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a strange byte leads to, and advises to trust it
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
        raise UserError(f"{path}: cannot be read as a checkpoint ({reason})") from error
    if not isinstance(stored, dict) or "etude" not in stored:
        raise UserError(f"{path}: is a checkpoint of something else; it holds no recipe of a network")
    return stored
