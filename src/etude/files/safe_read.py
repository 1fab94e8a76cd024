"""Reading of checkpoints and tensors without code execution, and of the paths in tables of unknown origin."""

from __future__ import annotations

import json
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from etude.errors import DataError, UserError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
FOREIGN = re.compile(r"(\w+://)|[A-Za-z]:[\\/]|\\\\")  # an address, or a Windows path with a drive or server
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


def to_nfc(text: str) -> str:
    """Return text in Unicode's composed form (NFC), in which equal letters are equal strings."""
    return unicodedata.normalize("NFC", text)


def existing_path(path: Path) -> Path:
    """Return a path in the Unicode form in which it exists, or unchanged if it does not exist.

    Some systems store an accented letter as one character and others as two, and copies preserve either form.
    """
    if str(path).isascii() or os.path.lexists(path):
        return path
    result = Path(path.anchor)
    for name in path.parts[1 if path.anchor else 0 :]:
        forms = dict.fromkeys((name, to_nfc(name), unicodedata.normalize("NFD", name)))
        existing = next((form for form in forms if os.path.lexists(result / form)), None)
        if existing is None:
            return path
        result /= existing
    return result


def expand_path(path: str) -> Path:
    """Return a path with ~ expanded, in the Unicode form in which it exists.

    Raises:
        DataError: The user after ~ does not exist.
    """
    try:
        return existing_path(Path(path).expanduser())
    except RuntimeError as error:
        if os.path.lexists(path):
            return Path(path)
        raise DataError(
            f"{path}: there is no user with this name; for a file whose name starts with ~, use ./{path}"
        ) from error


@dataclass(frozen=True)
class ListedFile:
    """File that an entry of a table or list names.

    Args:
        path: Path of the file; if it does not exist, the path in the first folder.
        folder: Folder to which the entry is relative. None if the file does not exist or the entry is absolute.
        exists: Whether there is such a file.
        renamed: Whether the file exists in another Unicode form of its name.
    """

    path: Path
    folder: Path | None = None
    exists: bool = False
    renamed: bool = False


def locate_listed(entry: str, folders: Sequence[Path]) -> ListedFile:
    """Return the file that an entry of a table or list names, in the first interpretation that exists.

    An entry is interpreted literally, with ~ as the home folder, with backslashes (Windows) as slashes, and with %20 as
    a space. A `file:` URL is always decoded as one.

    Args:
        entry: Absolute path, or path that is relative to one of the folders.
        folders: The folders, in order.
    """
    if entry.lower().startswith("file:"):
        address = entry[5:]
        if address.startswith("//"):  # followed by a host name, usually empty
            address = "/" + address[2:].partition("/")[2]
        forms = dict.fromkeys((address, unquote(address)))
        default = folders[0] / list(forms)[-1]
    else:
        forms = dict.fromkeys(form for text in (entry, unquote(entry)) for form in (text, text.replace("\\", "/")))
        default = expand_home(entry) or folders[0] / entry
    for form in forms:
        is_absolute = Path(form).is_absolute()
        for folder in folders[:1] if is_absolute else folders:
            literal = folder / form
            if os.path.lexists(path := existing_path(literal)):
                return ListedFile(path, None if is_absolute else folder, True, path != literal)
        if (home := expand_home(form)) is not None and os.path.lexists(path := existing_path(home)):
            return ListedFile(path, None, True, path != home)
    return ListedFile(existing_path(default))


def expand_home(path: str) -> Path | None:
    """Return a path with ~ or ~user expanded. None if it does not begin with ~, or there is no such user."""
    if not path.startswith("~"):
        return None
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return None


def enclosing_pack_or_run(file: Path) -> Path | None:
    """Return the folder of the pack or run that contains a file, or None."""
    kinds = (("manifest.json", "frames.f16"), ("config.yaml", "record.json"))
    folders = file.absolute().parents
    return next((folder for folder in folders for names in kinds if all((folder / n).is_file() for n in names)), None)


def check_inside(folder: Path, name: str, source_name: str, reason: str) -> None:
    """Check that a path stays below a folder.

    Args:
        folder: The folder.
        name: Path from a table, which may be untrusted.
        source_name: Source of the path for error messages, such as a file and its row.
        reason: Why only files below the folder are read.

    Raises:
        DataError: The path is absolute or leads out of the folder, also by a link.
    """
    path = Path(name.replace("\\", "/"))
    depth, is_outside = 0, path.is_absolute() or name[:1] == "~" or name.lower().startswith("file:")
    for component in path.parts:
        depth += -1 if component == ".." else 1
        is_outside |= depth < 0
    if is_outside or not Path(os.path.realpath(folder / path)).is_relative_to(os.path.realpath(folder)):
        raise DataError(
            f"{source_name}: path {name!r} is outside {folder}; only files below this folder are read, because {reason}"
        )


def locate_files(
    file: Path, audio: Path | None, paths: Sequence[str], locations: Sequence[str]
) -> tuple[list[ListedFile], str]:
    """Return the file of each row, and where missing files were searched, or "" if none is missing.

    The number of files in each place is logged.

    Raises:
        DataError: A path is not a path of this system, or the table is inside a pack or a run and the path leads out.
    """
    home, name = (file.parent, "the folder of the table") if audio is None else (audio, "data.source.audio")
    places = [(home, name), (file.parent, "the folder of the table"), (Path(), "the working folder")]
    if owner := enclosing_pack_or_run(file):  # it may come from another user, and must not add files of this machine
        del places[1:]
    folders: dict[Path, str] = {}
    for folder, text in places:
        if not any(os.path.realpath(folder) == os.path.realpath(other) for other in folders):
            folders[folder] = f"{text} ({os.path.realpath(folder)})"
    files = []
    for path, location in zip(paths, locations, strict=True):
        if "\0" in path:
            raise DataError(f"{location}: path {path!r} contains a null byte, which file names cannot contain")
        if owner:
            check_inside(home, path, location, f"the table is inside the pack or run {owner}")
        listed = locate_listed(path.replace("\\", "/"), list(folders))  # the table may have been written on Windows
        if not listed.exists and (match := FOREIGN.match(path)):
            remedy = "is an address; download the file" if match[1] else "is a path of Windows; copy the file"
            raise DataError(f"{location}: path {path!r} {remedy} and write its path on this system")
        files.append(listed)
    counts = Counter("absolute" if listed.folder is None else f"relative to {folders[listed.folder]}"
                     for listed in files if listed.exists)  # fmt: skip
    if counts:
        log.info("%s: paths of clips: %s", file, ", ".join(f"{n} {kind}" for kind, n in counts.items()))
    if renamed := [path for path, listed in zip(paths, files, strict=True) if listed.renamed]:
        log.warning("%s: %d paths exist in another Unicode form, such as %s", file, len(renamed), renamed[0])
    if all(listed.exists for listed in files):
        return files, ""
    remedy = "; data.source.audio selects another folder" if audio is None else ""
    return files, f"paths were searched in {', '.join(folders.values())}{remedy}"
