"""Record of the files that Étude wrote, and the checks that protect all other files.

Étude deletes or replaces only files that this process created or that are in the list of an output folder. An output
folder is the folder of a run, a sweep, a pack or a page. Its list, `.etude-files`, has one path in each line, relative
to the folder, as a JSON string. A line `{"removed": path}` cancels earlier lines with that path. A listed path is not
changed if it has become a symbolic link or another kind of file. A folder is not removed if it contains a file that is
not listed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import count
from pathlib import Path

from etude.errors import UserError
from etude.files import os_errors

LIST_NAME = ".etude-files"
DRAFT_SUFFIX = ".part"  # a draft is named `.<name>.<process>.part`, and is owned if <name> is in the list
_DRAFT_NAME = re.compile(rf"(.*/)?\.([^/]+)\.\d+{re.escape(DRAFT_SUFFIX)}")
_created: set[str] = set()  # absolute paths that this process created; loops use a copy, because threads add paths
_folders: set[str] = set()  # absolute paths of the output folders that this process opened
# by folder: size and modification time of its list, and the listed paths
_listed: dict[str, tuple[tuple[int, int], frozenset[str]]] = {}


def absolute(path: str | Path) -> str:
    """Return the absolute path with links resolved in its parents but not in its last component."""
    path = os.path.abspath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def open_folder(folder: Path) -> bool:
    """Create an output folder and its parents if they are missing. Files below it are added to its list from now on.

    Args:
        folder: The folder of a run, a sweep, a pack or a page. It may exist and contain other files.

    Returns:
        Whether this call created the folder.

    Raises:
        UserError: The path is not a folder.
        OSError: The folder cannot be created.
    """
    new = False
    for parent in [*reversed(folder.absolute().parents), folder]:
        try:
            os.mkdir(parent)
        except FileExistsError:
            continue
        except OSError:
            if not parent.is_dir():
                raise
        else:
            _created.add(absolute(parent))
            new = parent is folder
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; choose another path")
    _folders.add(os.path.realpath(folder))
    return new


def create_folder(folder: Path) -> None:
    """Create an output folder that must not exist. Of several processes, only one succeeds.

    Raises:
        FileExistsError: The path exists.
    """
    if folder.parent != folder:
        open_parents(folder)
    os.mkdir(folder)
    _created.add(absolute(folder))
    _folders.add(os.path.realpath(folder))


def open_parents(path: Path) -> None:
    """Create the missing parents of a path and record them."""
    for parent in reversed(path.absolute().parents):
        with suppress(FileExistsError):
            if not parent.is_dir():
                os.mkdir(parent)
                _created.add(absolute(parent))


def subfolder(path: Path) -> Path:
    """Create a folder below an output folder, or check that Étude created it.

    Raises:
        UserError: The path exists and is not a folder that Étude created.
    """
    check(path, folder=True)
    if not path.is_dir():
        record(path)
        open_parents(path)
        os.mkdir(path)
        _created.add(absolute(path))
    return path


def draft_folder(folder: Path, stem: str) -> Path:
    """Create a folder with an unused name below an output folder.

    The name is `.<stem>.<process>`, with a number appended if it exists.

    Args:
        folder: The output folder.
        stem: Name of the folder to be replaced, or of the command.
    """
    for number in count():
        path = folder / f".{stem}.{os.getpid()}{f'-{number}' if number else ''}"
        if not os.path.lexists(path):
            return subfolder(path)
    raise AssertionError  # not reached, because count never ends


def created(path: Path) -> bool:
    """Return whether this process created a file or folder."""
    return absolute(path) in _created


def owned(path: Path) -> bool:
    """Return whether this process created a path or the list of its output folder contains it."""
    if absolute(path) in _created:
        return True
    root = output_folder(path)
    name = _relative_name(path, root)
    if draft := _DRAFT_NAME.fullmatch(name):
        name = f"{draft[1] or ''}{draft[2]}"
    return name in _read_list(root)


def draft_path(path: Path) -> Path:
    """Return the path of this process's draft, which is later renamed to a file."""
    name = f".{path.name}.{os.getpid()}{DRAFT_SUFFIX}"
    return path.with_name(name if len(os.fsencode(name)) < 256 else f".{os.getpid()}{DRAFT_SUFFIX}")


def check(path: Path, folder: bool = False) -> None:
    """Check that a path can be written or created without changing files that Étude did not write.

    Args:
        path: File to be written, or folder to be created.
        folder: Whether the path is a folder.

    Raises:
        UserError: The path, or a folder between it and its output folder, is a symbolic link; or the path exists and
            Étude did not write it.
    """
    for parent in links_below(path):
        raise UserError(f"{parent}: is a symbolic link, and Étude does not write through links; remove the link")
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(mode):
        raise UserError(f"{path}: is a symbolic link, and Étude does not write through links; remove the link")
    if stat.S_ISDIR(mode) != folder or not (folder or stat.S_ISREG(mode)):
        raise UserError(
            f"{path}: is {_file_kind(mode)} that Étude did not create; move it away or choose another folder"
        )
    if not owned(path):
        raise UserError(
            f"{path}: exists and is not in {LIST_NAME}, the list of files that Étude wrote; move it away or choose "
            "another output folder"
        )


def check_names(folder: Path, names: Iterable[str]) -> None:
    """Apply `check` to the names that will be written to an output folder.

    Args:
        folder: The output folder, which may be missing.
        names: Names of files, and of folders with a slash at the end.

    Raises:
        UserError: One of the names exists and Étude did not write it.
    """
    _folders.add(os.path.realpath(folder))
    for name in names:
        check(folder / name.rstrip("/"), folder=name.endswith("/"))


def record(path: Path) -> None:
    """Add a path to the list of its output folder, before the path is created."""
    root = output_folder(path)
    name = _relative_name(path, root)
    if name == LIST_NAME or name in _read_list(root):
        return
    _append_to_list(root, name)


def unrecord(path: Path) -> None:
    """Remove a path from the list of its output folder, so that a later file with this name is not owned."""
    root = output_folder(path)
    name = _relative_name(path, root)
    if name in _read_list(root):
        with suppress(OSError):
            _append_to_list(root, {"removed": name})


def _append_to_list(root: str, entry: str | dict[str, str]) -> None:
    """Append a line to the list of an output folder."""
    target = os.path.join(root, LIST_NAME)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    if os.path.islink(target):
        raise UserError(f"{target}: is a symbolic link, and Étude does not write through links; remove the link")
    new = not os.path.exists(target)
    handle = os.open(target, flags, 0o666)
    line = (json.dumps(entry) + "\n").encode()
    try:
        with os_errors.writing(target):
            if os.write(handle, line) < len(line):  # the disk is full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        if new:
            os.unlink(target)
        raise
    finally:
        os.close(handle)
    if new:
        _created.add(absolute(target))


def mark_created(path: Path) -> None:
    """Record that this process created a file."""
    _created.add(absolute(path))


def forget(path: Path) -> None:
    """Remove a path, and all paths below it, from the record of this process."""
    full = absolute(path)
    _created.difference_update([name for name in _created.copy() if name == full or name.startswith(full + os.sep)])
    _folders.discard(full)


def move_record(source: Path, target: Path) -> None:
    """Update the record of this process after a path was renamed."""
    old, new = absolute(source), absolute(target)
    for names in (_created, _folders):
        for name in [name for name in names.copy() if name == old or name.startswith(old + os.sep)]:
            names.discard(name)
            names.add(new + name[len(old) :])


def created_folders() -> list[Path]:
    """Return the existing folders that this process created, deepest first."""
    paths = [Path(name) for name in sorted(_created, key=len, reverse=True)]
    return [path for path in paths if path.is_dir() and not path.is_symlink()]


def foreign_paths(folder: Path) -> list[str]:
    """Return the paths below an output folder that Étude did not write, relative to the folder.

    All links are foreign, and they are not followed.
    """
    return sorted(_foreign_paths(folder, folder))


def _foreign_paths(folder: Path, top: Path) -> Iterator[str]:
    for entry in os.scandir(folder):
        path = Path(entry.path)
        name = os.path.relpath(path, top)
        if entry.name == LIST_NAME and entry.is_file(follow_symlinks=False):
            continue
        if entry.is_dir(follow_symlinks=False) and not entry.is_symlink():
            yield from _foreign_paths(path, top)
        elif entry.is_symlink() or not owned(path):
            yield name


def listed_paths(folder: Path) -> frozenset[str]:
    """Return the paths in the list of an output folder, relative to the folder."""
    return _read_list(os.path.abspath(folder))


def output_folder(path: Path) -> str:
    """Return the absolute output folder of a path, the nearest parent that this process opened or that has a list.

    If there is no such folder, the output folder is the parent of the path. Links below it are not followed.
    """
    parents = [os.path.dirname(os.path.abspath(path))]
    while (above := os.path.dirname(parents[-1])) != parents[-1]:
        parents.append(above)
    opened = (parent for parent in parents if os.path.realpath(parent) in _folders)
    with_list = (parent for parent in parents if os.path.lexists(os.path.join(parent, LIST_NAME)))
    return next(opened, None) or next(with_list, parents[0])


def _read_list(root: str) -> frozenset[str]:
    """Return the paths in the list of an output folder. Lines that are not paths below the folder are ignored."""
    path = os.path.join(root, LIST_NAME)
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            return frozenset()
        key = (status.st_size, status.st_mtime_ns)
        if root in _listed and _listed[root][0] == key:
            return _listed[root][1]
        with open(path, "rb") as file:  # an absolute path as text, like everywhere in this module
            lines = file.read().split(b"\n")
    except OSError:
        return frozenset()
    names: set[str] = set()
    for name, removed in map(_parse_line, lines):
        if removed:
            names.discard(name)
        elif name:
            names.add(name)
    _listed[root] = key, frozenset(names)
    return _listed[root][1]


@lru_cache(maxsize=4096)
def _parse_line(line: bytes) -> tuple[str, bool]:
    """Return the path in a line, and whether the line removes it. An absolute path or one with `..` becomes ""."""
    try:
        name = json.loads(line)
    except (ValueError, RecursionError):
        return "", False
    if isinstance(name, dict):
        return str(name.get("removed")), True
    if not isinstance(name, str) or name.startswith("/") or ".." in name.split("/") or os.path.isabs(name):
        return "", False
    return name, False


def _relative_name(path: Path, root: str) -> str:
    return os.path.relpath(os.path.abspath(path), root).replace(os.sep, "/")


def links_below(path: Path) -> Iterator[str]:
    """Yield the folders between a path and its output folder that are symbolic links."""
    root, parent = output_folder(path), os.path.dirname(os.path.abspath(path))
    while len(parent) > len(root):
        if os.path.islink(parent):
            yield parent
        parent = os.path.dirname(parent)


def _file_kind(mode: int) -> str:
    return "a folder" if stat.S_ISDIR(mode) else "a file" if stat.S_ISREG(mode) else "a special file"
