"""Atomic writing, and removal of files that Étude wrote."""

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
    """Yield an empty temporary file, the draft, and rename it to a file in one step when the block ends.

    Args:
        path: The file. An existing file is replaced only if Étude wrote it. The draft is in the same folder.
        sync: Whether to flush the content to the disk before the draft is renamed, and the folder afterwards.

    Raises:
        UserError: Étude did not write the existing file; see `ownership.check`.
        OSError: The draft cannot be written. The file is unchanged, and the draft is removed.
    """
    ownership.check(path)
    ownership.record(path)
    draft = ownership.draft_path(path)
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
    """Write a file in one step by `replacing`, so that no process can read an incomplete file."""
    with replacing(path, sync) as draft:
        draft.write_bytes(data)
    return path


def write_text(path: Path, text: str, sync: bool = False) -> Path:
    """Write a text file as UTF-8 in one step by `replacing`."""
    return write_bytes(path, text.encode("utf-8", "backslashreplace"), sync)


def open_file(path: Path, mode: str = "wb", **kwargs: Any) -> IO[Any]:
    """Open a file for writing and record it. Symbolic links are not followed.

    Args:
        path: The file. An existing file is opened only if Étude wrote it.
        mode: Mode of `open`: `wb` empties the file, `ab` and `a+b` append to it, `r+b` changes it.
        kwargs: Other arguments of `open`.

    Raises:
        UserError: Étude did not write the existing file; see `ownership.check`.
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
    """Rename a draft of this process to a file that does not exist or that Étude wrote.

    Raises:
        UserError: Étude did not write the existing file; see `ownership.check`.
    """
    if not ownership.created(draft):
        raise UserError(f"{draft}: was not created by this process, so it is not moved")
    ownership.check(path)
    ownership.record(path)
    os.replace(draft, path)
    ownership.move_record(draft, path)


def remove(path: Path, keep_listed: bool = False) -> bool:
    """Remove a file that Étude wrote.

    Args:
        path: The file.
        keep_listed: Whether the name stays in the folder's list, because Étude writes the file repeatedly.

    Returns:
        Whether the file was removed. Links, folders and files that Étude did not write are kept.
    """
    try:
        is_file = stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False
    if not is_file or not ownership.owned(path) or _is_behind_link(path):
        return False
    os.unlink(path)
    ownership.forget(path)
    if not keep_listed:
        ownership.unrecord(path)
    return True


def remove_folder(folder: Path) -> bool:
    """Remove the files that Étude wrote below an output folder, and then the empty folders.

    Other files, output folders inside the folder, and the folders that contain them are kept.

    Args:
        folder: Folder that Étude created. Links in it are not followed.

    Returns:
        Whether the folder was removed.
    """
    if folder.is_symlink() or not folder.is_dir() or _is_behind_link(folder):
        return False
    is_owned = ownership.owned(folder) or (folder / ownership.LIST_NAME).is_file()
    for entry in list(os.scandir(folder)):
        path = Path(entry.path)
        if entry.is_symlink() or entry.name == ownership.LIST_NAME:
            continue
        if not entry.is_dir(follow_symlinks=False):
            remove(path)
        elif not (path / ownership.LIST_NAME).is_file():  # another output folder, such as a run, is kept
            remove_folder(path)
    if is_owned and [entry.name for entry in os.scandir(folder)] in ([], [ownership.LIST_NAME]):
        with suppress(FileNotFoundError):
            os.unlink(folder / ownership.LIST_NAME)
        os.rmdir(folder)
        ownership.forget(folder)
        return True
    return False


def remove_created(folder: Path) -> None:
    """Remove the files that this process created in a folder, and the folder itself if this process created it.

    Files of an earlier process are kept, including the files in the list of the folder.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    entries = list(os.scandir(folder))
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            remove_created(path)
        elif ownership.created(path) and entry.name != ownership.LIST_NAME and not entry.is_symlink():
            remove(path)
    remove_if_empty(folder)


def remove_if_empty(folder: Path) -> None:
    """Remove the list of an output folder if no listed file exists, and the folder if it is empty.

    Both are removed only if this process created them.
    """
    list_path = folder / ownership.LIST_NAME
    any_exists = any((folder / name).exists() for name in ownership.listed_paths(folder))
    if not any_exists and ownership.created(list_path) and not list_path.is_symlink():
        with suppress(FileNotFoundError):
            os.unlink(list_path)
        ownership.forget(list_path)
    if folder.is_dir() and ownership.created(folder) and not any(os.scandir(folder)):
        os.rmdir(folder)
        ownership.forget(folder)


def remove_empty_folders() -> None:
    """Remove the empty folders that this process created."""
    for folder in ownership.created_folders():
        if not any(os.scandir(folder)):
            with suppress(OSError):
                os.rmdir(folder)
                ownership.forget(folder)


def remove_drafts(folder: Path) -> None:
    """Remove unfinished drafts of killed processes from a folder. The caller must hold the lock of the folder."""
    for draft in folder.glob(f".*{ownership.DRAFT_SUFFIX}"):
        remove(draft)


def move(source: Path, target: Path) -> None:
    """Rename a file or folder that Étude wrote to a path that does not exist.

    Raises:
        UserError: Étude did not write the source, or the source is a link.
        FileExistsError: The target exists.
    """
    is_owned = ownership.owned(source) or (source / ownership.LIST_NAME).is_file()
    if source.is_symlink() or not is_owned:
        raise UserError(f"{source}: was not written by Étude and is not moved; move it yourself")
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    if not (source / ownership.LIST_NAME).is_file():  # the list of an output folder moves with it
        ownership.record(target)
        for path in source.rglob("*") if source.is_dir() else ():
            if ownership.owned(path):
                ownership.record(target / path.relative_to(source))
    os.rename(source, target)
    ownership.move_record(source, target)


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, if the system supports it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _create(draft: Path) -> None:
    """Create an empty draft that must not exist. A draft of an ended process with the same id is first removed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        handle = os.open(draft, flags, 0o666)
    except FileExistsError:
        if not remove(draft):
            raise
        handle = os.open(draft, flags, 0o666)
    os.close(handle)
    ownership.mark_created(draft)


def _is_behind_link(path: Path) -> bool:
    """Return whether a folder between a path and its output folder is a symbolic link."""
    return any(ownership.links_below(path))
