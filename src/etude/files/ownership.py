"""Record of the files that Étude wrote, and the checks that protect all others.

Étude deletes or replaces only files that this process created or that the list of an output folder names. An output
folder is the folder of a run, a sweep, a pack or a page; its list, `.etude-files`, holds one path per line, relative to
the folder, as a JSON string. A line `{"removed": path}` ends the effect of the lines before it for that path. A listed
path that has become a symbolic link or another kind of file is left alone, and so is any folder that holds a file that
is not listed.
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

LIST = ".etude-files"
DRAFT = ".part"  # of a file that is being written: `.<name>.<process>.part`, ours if the list names the file
_DRAFT_NAME = re.compile(rf"(.*/)?\.([^/]+)\.\d+{re.escape(DRAFT)}")
_created: set[str] = set()  # absolute paths that this process created
_folders: set[str] = set()  # absolute paths of the output folders that this process opened
_listed: dict[str, tuple[tuple[int, int], frozenset[str]]] = {}  # content of lists, by folder, with size and time


def absolute(path: str | Path) -> str:
    """Return the absolute path with links resolved in its parents but not in its last component."""
    path = os.path.abspath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def open_folder(folder: Path) -> bool:
    """Create an output folder where it is missing, with its parents; files below it are listed in it from now on.

    Args:
        folder: The folder of a run, a sweep, a pack or a page. It may exist already and hold other files.

    Returns:
        Whether this call created the folder.

    Raises:
        UserError: A file has this name.
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
        raise UserError(f"{folder}: is not a folder; choose another name")
    _folders.add(os.path.realpath(folder))
    return new


def create_folder(folder: Path) -> None:
    """Create an output folder that must not exist yet, in one step that only one process can win.

    Raises:
        FileExistsError: Something has this name already.
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
    """Create a folder below an output folder, or open one that Étude created there.

    Raises:
        UserError: Something else has this name.
    """
    check(path, folder=True)
    if not path.is_dir():
        record(path)
        open_parents(path)
        os.mkdir(path)
        _created.add(absolute(path))
    return path


def draft_folder(folder: Path, stem: str) -> Path:
    """Create a folder below an output folder under a name that nothing has yet: `.<stem>.<process>`, or with a number.

    Args:
        folder: The output folder.
        stem: Name of the folder or command that the draft is for.
    """
    for number in count():
        path = folder / f".{stem}.{os.getpid()}{f'-{number}' if number else ''}"
        if not os.path.lexists(path):
            return subfolder(path)
    raise AssertionError  # the numbers do not end


def created(path: Path) -> bool:
    """Return whether this process created a file or folder."""
    return absolute(path) in _created


def owned(path: Path) -> bool:
    """Return whether this process created a path or the list of its output folder names it."""
    if absolute(path) in _created:
        return True
    root = output_folder(path)
    name = _relative(path, root)
    if draft := _DRAFT_NAME.fullmatch(name):
        name = f"{draft[1] or ''}{draft[2]}"
    return name in _read(root)


def draft_of(path: Path) -> Path:
    """Return the name under which this process writes a file before it gets its own."""
    name = f".{path.name}.{os.getpid()}{DRAFT}"
    return path.with_name(name if len(os.fsencode(name)) < 256 else f".{os.getpid()}{DRAFT}")


def check(path: Path, folder: bool = False) -> None:
    """Refuse to write to a path that belongs to somebody else.

    Args:
        path: A file that is about to be written, or a folder that is about to be created.
        folder: Whether it is a folder.

    Raises:
        UserError: The path, or a folder between it and its output folder, is a symbolic link; or something has this
            name that Étude did not write.
    """
    for part in links_below(path):
        raise UserError(f"{part}: is a symbolic link, and nothing is written through it; remove the link")
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(mode):
        raise UserError(f"{path}: is a symbolic link, and nothing is written through it; remove the link")
    if stat.S_ISDIR(mode) != folder or not (folder or stat.S_ISREG(mode)):
        raise UserError(f"{path}: is {_kind(mode)} that was not created here; move it away or choose another folder")
    if not owned(path):
        raise UserError(
            f"{path}: exists and is not in {LIST}, the list of the files that Étude wrote there; move it away or "
            "choose another folder for the output"
        )


def check_names(folder: Path, names: Iterable[str]) -> None:
    """Refuse an output folder in which one of these names belongs to somebody else; see `check`.

    Args:
        folder: The output folder, which need not exist.
        names: Files to be written there; those that end with a slash are folders.
    """
    _folders.add(os.path.realpath(folder))
    for name in names:
        check(folder / name.rstrip("/"), folder=name.endswith("/"))


def record(path: Path) -> None:
    """Add a path that is about to be created to the list of its output folder."""
    root = output_folder(path)
    name = _relative(path, root)
    if name == LIST or name in _read(root):
        return
    _append(root, name)


def unrecord(path: Path) -> None:
    """Take a path that has just been removed off the list, so that whatever gets its name next is not ours."""
    root = output_folder(path)
    name = _relative(path, root)
    if name in _read(root):
        with suppress(OSError):
            _append(root, {"removed": name})


def _append(root: str, entry: str | dict[str, str]) -> None:
    """Append a line to the list of an output folder."""
    target = os.path.join(root, LIST)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    if os.path.islink(target):
        raise UserError(f"{target}: is a symbolic link, and nothing is written through it; remove the link")
    new = not os.path.exists(target)
    handle = os.open(target, flags, 0o666)
    line = (json.dumps(entry) + "\n").encode()
    try:
        with os_errors.writing(target):
            if os.write(handle, line) < len(line):  # the disk took a part of it
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
    """Record a file that this process has just created."""
    _created.add(absolute(path))


def forget(path: Path) -> None:
    """Drop a path, and all below it, from the record of this process."""
    full = absolute(path)
    _created.difference_update([one for one in _created if one == full or one.startswith(full + os.sep)])
    _folders.discard(full)


def transfer(source: Path, target: Path) -> None:
    """Move the record of a path, and of all below it, to the name that it has just been given."""
    old, new = absolute(source), absolute(target)
    for names in (_created, _folders):
        for one in [one for one in names if one == old or one.startswith(old + os.sep)]:
            names.discard(one)
            names.add(new + one[len(old) :])


def created_folders() -> list[Path]:
    """Return the folders that this process created and that still exist, deepest first."""
    found = [Path(one) for one in sorted(_created, key=len, reverse=True)]
    return [one for one in found if one.is_dir() and not one.is_symlink()]


def foreign(folder: Path) -> list[str]:
    """Return the paths below an output folder that Étude did not write, relative to the folder.

    Links count as foreign, whatever they lead to, and are not followed.
    """
    return sorted(_foreign(folder, folder))


def _foreign(folder: Path, top: Path) -> Iterator[str]:
    for entry in os.scandir(folder):
        path = Path(entry.path)
        name = os.path.relpath(path, top)
        if entry.name == LIST and entry.is_file(follow_symlinks=False):
            continue
        if entry.is_dir(follow_symlinks=False) and not entry.is_symlink():
            yield from _foreign(path, top)
        elif entry.is_symlink() or not owned(path):
            yield name


def listed(folder: Path) -> frozenset[str]:
    """Return the paths that the list of an output folder names, relative to it; none without a list."""
    return _read(os.path.abspath(folder))


def output_folder(path: Path) -> str:
    """Return the absolute output folder of a path: the nearest one that this process opened, else that has a list.

    Where there is neither, it is the folder that holds the path. Links below it are not followed.
    """
    parents = [os.path.dirname(os.path.abspath(path))]
    while (above := os.path.dirname(parents[-1])) != parents[-1]:
        parents.append(above)
    opened = (parent for parent in parents if os.path.realpath(parent) in _folders)
    listed = (parent for parent in parents if os.path.lexists(os.path.join(parent, LIST)))
    return next(opened, None) or next(listed, parents[0])


def _read(root: str) -> frozenset[str]:
    """Return the paths that the list of an output folder names; lines that are not paths below it are ignored."""
    path = os.path.join(root, LIST)
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            return frozenset()
        key = (status.st_size, status.st_mtime_ns)
        if root in _listed and _listed[root][0] == key:
            return _listed[root][1]
        with open(path, "rb") as file:  # an absolute string, as everywhere in this module
            lines = file.read().split(b"\n")
    except OSError:
        return frozenset()
    names: set[str] = set()
    for name, removed in map(_parsed, lines):
        if removed:
            names.discard(name)
        elif name:
            names.add(name)
    _listed[root] = key, frozenset(names)
    return _listed[root][1]


@lru_cache(maxsize=4096)
def _parsed(line: bytes) -> tuple[str, bool]:
    """Return the path of a line and whether it was removed; the path is empty unless relative and without `..`."""
    try:
        name = json.loads(line)
    except (ValueError, RecursionError):
        return "", False
    if isinstance(name, dict):
        return str(name.get("removed")), True
    if not isinstance(name, str) or name.startswith("/") or ".." in name.split("/") or os.path.isabs(name):
        return "", False
    return name, False


def _relative(path: Path, root: str) -> str:
    return os.path.relpath(os.path.abspath(path), root).replace(os.sep, "/")


def links_below(path: Path) -> Iterator[str]:
    """Yield the folders between a path and its output folder that are symbolic links."""
    root, parent = output_folder(path), os.path.dirname(os.path.abspath(path))
    while len(parent) > len(root):
        if os.path.islink(parent):
            yield parent
        parent = os.path.dirname(parent)


def _kind(mode: int) -> str:
    return "a folder" if stat.S_ISDIR(mode) else "a file" if stat.S_ISREG(mode) else "a special file"
