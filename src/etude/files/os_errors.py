"""Error messages for errors of the file system and of memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from etude.errors import RunError, UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
OF_A_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP)
BROKEN = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENXIO, errno.ENODEV, errno.EROFS)

OTHER_RUN = "name another place with outputs=<folder>, data.packs=<folder> or hydra.run.dir=<folder>"
OTHER_FOLDER = "name another folder with to=<folder>"


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Name a path in the errors of a block that writes it: a full disk is noticed by a call that has no path.

    Raises:
        OSError: As in the block, with the path as its file name.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


@contextmanager
def explained(place: str | Path | None = None, way_out: str = "", subject: str = "") -> Iterator[None]:
    """Turn the file system's errors in a block into those of `explain`.

    Raises:
        RunError: The disk is full or failing.
        UserError: A place cannot be written or read.
    """
    try:
        yield
    except OSError as error:
        sentence = explain(error, place, way_out, subject)
        if sentence is None:
            raise
        raise sentence from error


def readable(error: BaseException, way_out: str = "") -> UserError | RunError | None:
    """Return the error to report to the user in place of an exception; None for a fault of the program.

    Args:
        error: The exception; an error that has a sentence for the user is returned itself.
        way_out: What to change where a place cannot be written, as for `explain`.
    """
    if isinstance(error, UserError | RunError):
        return error
    if isinstance(error, MemoryError):
        return RunError("out of memory; close other programs, or give the command less at a time")
    return explain(error, way_out=way_out) if isinstance(error, OSError) else None


def explain(
    error: OSError, place: str | Path | None = None, way_out: str = "", subject: str = ""
) -> UserError | RunError | None:
    """Return the error to raise in place of one of the file system, with a sentence that names path and way out.

    Args:
        error: The error.
        place: Where the writing was, if the error does not say it.
        way_out: What to change where a place cannot be written, such as `name another folder with to=<folder>`.
        subject: The setting that named the place, such as `to=<folder>`; the sentence begins with it.

    Returns:
        A RunError for a full or failing disk, a UserError for a place that cannot be written or read; None for errors
        that are not about a path.
    """
    path = Path(os.fsdecode(found)) if (found := error.filename or place) else None
    if path is not None and path.name.startswith("."):  # a draft, a lock or a list of ours
        path = path.parent
    named = "the disk" if path is None else str(path)
    if path is not None and not (near := os.path.relpath(path)).startswith(os.pardir):
        named = near
    if subject and (path is None or place is None or path.is_relative_to(place)):
        named = subject
    reason = os.strerror(error.errno) if error.errno else str(error)
    more = f"; {way_out}" if way_out else ""
    if error.errno in FULL:
        other = f", or {way_out}" if way_out else ""
        return RunError(f"{named}: the disk is full or a quota is spent ({reason}); free some space{other}")
    if path is None:
        return None
    if error.errno in READ_ONLY:
        if path.exists() and not os.access(path, os.R_OK):
            return UserError(f"{named}: cannot be read ({reason})")
        return UserError(f"{named}: cannot be written ({reason}){more}")
    if error.errno in OF_A_PATH:
        return UserError(f"{named}: cannot be used ({reason}){more}")
    if error.errno in BROKEN:
        return RunError(f"{named}: cannot be read or written ({reason})")
    return None
