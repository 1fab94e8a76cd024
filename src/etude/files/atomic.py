"""Writing, replacing and removing files that belong to Étude."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from etude.errors import UserError
from etude.files import os_errors, ownership


@contextmanager
def replacing(path: Path, sync: bool = False) -> Iterator[Path]:
    """Yield an empty draft beside a file; the draft gets the file's name in one step when the block ends.

    Args:
        path: The file. It is replaced only if Étude wrote it.
        sync: Whether the disk confirms the content before the file gets its name, and the name afterwards.

    Raises:
        UserError: The file belongs to somebody else; see `ownership.check`.
        OSError: The draft cannot be written; the file is as it was, and the draft is removed.
    """
    ownership.check(path)
    ownership.record(path)
    draft = ownership.draft_of(path)
    try:
        with os_errors.writing(path):
            _create(draft)
            yield draft
            if sync:
                with draft.open("rb") as file:
                    os.fsync(file.fileno())
            replace(draft, path)
    except BaseException:
        remove(draft)
        raise
    if sync:
        sync_folder(path.parent)


def write_bytes(path: Path, data: bytes, sync: bool = False) -> Path:
    """Write a file in one step, so that nobody reads a part of it; see `replacing`."""
    with replacing(path, sync) as draft:
        draft.write_bytes(data)
    return path


def write_text(path: Path, text: str, sync: bool = False) -> Path:
    """Write a text file as UTF-8 in one step; see `replacing`."""
    return write_bytes(path, text.encode("utf-8", "backslashreplace"), sync)


def open_file(path: Path, mode: str = "wb", **kwargs: Any) -> IO[Any]:
    """Open a file of ours for writing, not through a link, and record it.

    Args:
        path: The file. One that exists is opened only if Étude wrote it.
        mode: As of `open`: `wb` empties the file, `ab` and `a+b` append to it, `r+b` changes it.
        kwargs: As of `open`.

    Raises:
        UserError: The file belongs to somebody else; see `ownership.check`.
    """
    ownership.check(path)
    ownership.record(path)

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    new = not os.path.lexists(path)
    file = open(path, mode, opener=opener, **kwargs)  # noqa: SIM115  # Path.open has no opener
    if new:
        ownership.mark_created(path)
    return file


def replace(draft: Path, path: Path) -> None:
    """Give a draft of this process the name of a file that does not exist or that Étude wrote.

    Raises:
        UserError: The file belongs to somebody else; see `ownership.check`.
    """
    if not ownership.created(draft):
        raise UserError(f"{draft}: was not created by this process and is not moved")
    ownership.check(path)
    ownership.record(path)
    os.replace(draft, path)
    ownership.transfer(draft, path)


def remove(path: Path, keep_listed: bool = False) -> bool:
    """Remove a file that Étude wrote.

    Args:
        path: The file.
        keep_listed: Whether its name stays in the list, because Étude writes it again and again.

    Returns:
        Whether it was removed; a link, a folder, and a file of somebody else stay.
    """
    try:
        ordinary = stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False
    if not ordinary or not ownership.owned(path) or _behind_link(path):
        return False
    os.unlink(path)
    ownership.forget(path)
    if not keep_listed:
        ownership.unrecord(path)
    return True


def remove_folder(folder: Path) -> bool:
    """Remove the files below an output folder that Étude wrote, and then the folders that are empty.

    Args:
        folder: A folder that Étude created. Links in it are not followed.

    Returns:
        Whether nothing is left of it; files of somebody else, output folders in it, and the folders that hold them,
        stay.
    """
    if folder.is_symlink() or not folder.is_dir() or _behind_link(folder):
        return False
    mine = ownership.owned(folder) or (folder / ownership.LIST).is_file()
    for entry in list(os.scandir(folder)):
        path = Path(entry.path)
        if entry.is_symlink() or entry.name == ownership.LIST:
            continue
        if not entry.is_dir(follow_symlinks=False):
            remove(path)
        elif not (path / ownership.LIST).is_file():  # an output folder of its own, such as a run, stays
            remove_folder(path)
    if mine and [entry.name for entry in os.scandir(folder)] in ([], [ownership.LIST]):
        with suppress(FileNotFoundError):
            os.unlink(folder / ownership.LIST)
        os.rmdir(folder)
        ownership.forget(folder)
        return True
    return False


def discard(folder: Path) -> None:
    """Remove from a folder what this process created in it, and the folder itself if this process created it.

    Files of an earlier process stay, also those that the list of the folder names.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    entries = list(os.scandir(folder))
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            discard(path)
        elif ownership.created(path) and entry.name != ownership.LIST and not entry.is_symlink():
            remove(path)
    remove_if_empty(folder)


def remove_if_empty(folder: Path) -> None:
    """Remove the list of an output folder if nothing of it is left, and the folder if it is empty.

    Both are removed only if this process created them.
    """
    listing = folder / ownership.LIST
    named = any((folder / name).exists() for name in ownership.listed(folder))
    if not named and ownership.created(listing) and not listing.is_symlink():
        with suppress(FileNotFoundError):
            os.unlink(listing)
        ownership.forget(listing)
    if folder.is_dir() and ownership.created(folder) and not any(os.scandir(folder)):
        os.rmdir(folder)
        ownership.forget(folder)


def remove_empty_folders() -> None:
    """Remove the folders that this process created and that hold nothing."""
    for folder in ownership.created_folders():
        if not any(os.scandir(folder)):
            with suppress(OSError):
                os.rmdir(folder)
                ownership.forget(folder)


def clean(folder: Path) -> None:
    """Remove the drafts that a process which was killed has left in a folder; only its lock's holder may call this."""
    for draft in folder.glob(f".*{ownership.DRAFT}"):
        remove(draft)


def move(source: Path, target: Path) -> None:
    """Give a file or folder that Étude wrote another name, under which nothing exists yet.

    Raises:
        UserError: The source belongs to somebody else or is a link.
        FileExistsError: The target exists.
    """
    ours = ownership.owned(source) or (source / ownership.LIST).is_file()
    if source.is_symlink() or not ours:
        raise UserError(f"{source}: was not written by Étude and is not moved; move it away yourself")
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    if not (source / ownership.LIST).is_file():  # the list of an output folder moves with it
        ownership.record(target)
        for path in source.rglob("*") if source.is_dir() else ():
            if ownership.owned(path):
                ownership.record(target / path.relative_to(source))
    os.rename(source, target)
    ownership.transfer(source, target)


def sync_folder(folder: Path) -> None:
    """Have the disk keep the names of a folder, where that can be asked for."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _create(draft: Path) -> None:
    """Create an empty draft that nobody else can have; one of a dead process with this process's number is removed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        handle = os.open(draft, flags, 0o666)
    except FileExistsError:
        if not remove(draft):
            raise
        handle = os.open(draft, flags, 0o666)
    os.close(handle)
    ownership.mark_created(draft)


def _behind_link(path: Path) -> bool:
    """Return whether a folder between a path and its output folder is a symbolic link."""
    return any(ownership.links_below(path))
