"""Reading of checkpoints and tensors, also from the Hugging Face hub, without code execution."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

RESTORE = "restore it from a copy, or train the run again"  # remedy for a damaged checkpoint
WEIGHTS_NAME, CONFIG_NAME = "model.safetensors", "config.json"  # files of an export, named as on the Hugging Face hub


def is_export(folder: Path) -> bool:
    """Return whether a folder contains a network that was exported as safetensors."""
    return (folder / WEIGHTS_NAME).is_file() and (folder / CONFIG_NAME).is_file()


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint or an export of Étude.

    Args:
        path: A checkpoint, the folder of an export, or its .safetensors file beside a config.json.

    Returns:
        `state_dict`; `etude`, the recipe to rebuild the network; and Lightning's entries if the file is a checkpoint.

    Raises:
        UserError: The file cannot be read, or was not written by Étude.
    """
    import torch

    if path.is_dir() or path.suffix == ".safetensors":
        return _read_export(path / WEIGHTS_NAME if path.is_dir() else path)
    verify_checkpoint(path)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of any type, and its message suggests to trust the file
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
        reason = reason if any(map(str.isalpha, reason)) else "invalid content"
        raise UserError(f"{path}: cannot be read as a checkpoint ({reason})") from error
    if not isinstance(stored, dict) or "etude" not in stored:
        raise UserError(f"{path}: is a checkpoint of another program, without the recipe of a network")
    return stored


def verify_checkpoint(path: Path) -> None:
    """Check the checksums in a checkpoint, which torch itself ignores.

    Raises:
        UserError: The content of the file does not match its checksums.
    """
    import zipfile

    try:
        if not zipfile.is_zipfile(path):
            return  # an old format or no checkpoint; reading it raises the error
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # a damaged header leads to errors of many types
        raise UserError(f"{path}: is damaged ({str(error) or type(error).__name__}); {RESTORE}") from error
    if damaged is not None:
        raise UserError(f"{path}: is damaged, the checksum of {damaged} is wrong; {RESTORE}")


def _read_export(path: Path) -> dict[str, Any]:
    """Return the tensors of an export, and the recipe in the config beside it."""
    config_path = path.with_name(CONFIG_NAME)
    try:
        config = json.loads(config_path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{config_path}: cannot be read as JSON; an export needs it beside {path.name}") from error
    if not isinstance(config, dict) or not isinstance(config.get("etude"), dict):
        raise UserError(f"{config_path}: is the config of another program, without the recipe of a network")
    return {"state_dict": read_tensors(path), "etude": config["etude"]}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a weights file.

    Args:
        path: A .safetensors file, or a file of `torch.save` whose tensors are at the top level, or under the key
            `state_dict` or `model`.

    Raises:
        UserError: The file is missing, cannot be read, or contains no named tensors.
    """
    import torch

    if not path.is_file():
        raise UserError(f"{path}: there is no such weights file")
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
        raise UserError(f"{path}: contains no named tensors")
    return {str(key): value for key, value in stored.items() if isinstance(value, torch.Tensor)}


def find_model_file(model: str, name: str) -> Path | None:
    """Return a file of a published model, from a local folder, the cache of the Hugging Face hub, or the hub.

    Args:
        model: A folder, or the name of a repository of the hub, such as `m-a-p/MERT-v1-95M`.
        name: Name of the file.

    Returns:
        Path of the file; None if the model has no such file.

    Raises:
        UserError: There is no such folder or repository, or the hub cannot be reached.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", model):
        raise UserError(f"backbone.model={model}: there is no such folder")
    try:
        from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise UserError(
            f"backbone.model={model}: is no folder, and a download requires huggingface-hub, which is not installed: "
            "pip install 'etude[hf]'"
        ) from error
    try:
        cached = try_to_load_from_cache(model, name)
        if cached is _CACHED_NO_EXIST:
            return None
        return Path(cached if isinstance(cached, str) else hf_hub_download(model, name))
    except Exception as error:  # any failure of the hub, the connection or the disk
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        raise UserError(
            f"backbone.model={model}: is no folder, and {name} cannot be downloaded ({type(error).__name__}); check "
            "the name, or download the files on a machine with internet access and set backbone.model=/path/to/folder"
        ) from error


def read_model_json(model: str, name: str) -> dict[str, Any] | None:
    """Return the content of a JSON file of a published model, or None if it has no such file.

    Args:
        model: Same as in `find_model_file`.
        name: Name of the file.

    Raises:
        UserError: The file cannot be read, or contains no object.
    """
    path = find_model_file(model, name)
    if path is None:
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must contain a JSON object")
    return content
