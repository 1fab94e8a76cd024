"""Safe reading of checkpoints and tensors, without code execution."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


COPY = "take it from a copy, or train the run anew"
WEIGHTS, CONFIG = "model.safetensors", "config.json"  # what an export is made of, as the Hugging Face hub has them


def exported(folder: Path) -> bool:
    """Whether a folder holds a network that was exported as safetensors."""
    return (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of one of our checkpoints: `state_dict`, the recipe under `etude`, and Lightning's own.

    Args:
        path: A checkpoint; or an export: its folder, or its .safetensors beside a config.json.

    Raises:
        UserError: The file cannot be read, or is a checkpoint of something else.
    """
    import torch

    if path.is_dir() or path.suffix == ".safetensors":
        return _exported(path / WEIGHTS if path.is_dir() else path)
    verify_checkpoint(path)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever a strange byte leads to, and advises to trust it
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
        words = reason if any(map(str.isalpha, reason)) else "its bytes make no sense"
        raise UserError(f"{path}: cannot be read as a checkpoint ({words})") from error
    if not isinstance(stored, dict) or "etude" not in stored:
        raise UserError(f"{path}: is a checkpoint of something else; it holds no recipe of a network")
    return stored


def verify_checkpoint(path: Path) -> None:
    """Check that no byte of a checkpoint has changed since it was written: torch itself ignores the checksums in it.

    Raises:
        UserError: The content of the file does not have its checksums.
    """
    import zipfile

    try:
        if not zipfile.is_zipfile(path):
            return  # of an old format, or no checkpoint, which reading it tells
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # a strange byte in a header leads to errors of many kinds
        raise UserError(f"{path}: is damaged ({str(error) or type(error).__name__}); {COPY}") from error
    if damaged is not None:
        raise UserError(f"{path}: is damaged, the checksum of {damaged} is wrong; {COPY}")


def _exported(path: Path) -> dict[str, Any]:
    """What `read` gives, of tensors and the recipe that lies beside them."""
    import json

    config = path.with_name(CONFIG)
    try:
        found = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{config}: cannot be read as JSON; an exported network is {path.name} beside it") from error
    if not isinstance(found, dict) or not isinstance(found.get("etude"), dict):
        raise UserError(f"{config}: is the config of something else; it holds no recipe of a network")
    return {"state_dict": read_tensors(path), "etude": found["etude"]}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights: .safetensors, or what torch.save wrote, as they are or under a usual key.

    Raises:
        UserError: The file is missing, cannot be read, or holds no tensors by name.
    """
    import torch

    if not path.is_file():
        raise UserError(f"{path}: there is no such file of weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            stored: Any = load_file(path)
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
        raise UserError(f"{path}: cannot be read as weights ({reason})") from error
    for key in ("state_dict", "model"):
        stored = stored[key] if isinstance(stored, dict) and isinstance(stored.get(key), dict) else stored
    if not isinstance(stored, dict) or not any(isinstance(value, torch.Tensor) for value in stored.values()):
        raise UserError(f"{path}: holds no weights by name")
    return {str(key): value for key, value in stored.items() if isinstance(value, torch.Tensor)}
