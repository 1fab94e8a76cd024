"""Bounded reading, storage and removal of uploaded audio files."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO

from etude.files import atomic, ownership

if TYPE_CHECKING:
    from starlette.types import Receive, Scope


MAX_FILES = 32  # stored at a time
MAX_TOTAL = 8  # total size of the stored files, in units of the maximum file size
MAX_AGE = 1800.0  # seconds without use after which an upload is removed
MAX_RECEIVING = 4  # uploads that are received at a time
ENVELOPE = 16 << 10  # bytes of a multipart body without its file
BLOCK_TIMEOUT, BODY_TIMEOUT = 30.0, 600.0  # seconds to receive a block of a request's body, and the complete body
NAME_LENGTH = 200  # maximum number of characters of a name


class RequestError(Exception):
    """Reason to refuse a request.

    Args:
        status: HTTP status.
        reason: One sentence for the user.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass
class Upload:
    """Stored audio file.

    Args:
        path: Path in the upload folder. It does not contain the name given by the user.
        name: Name given by the user, for display.
        size: Size in bytes.
        identity: Device, inode, size and time of change, which are compared before the file is used or removed.
        used: Time of the last use, from `time.monotonic`.
    """

    path: Path
    name: str
    size: int
    identity: tuple[int, ...]
    used: float = field(default_factory=time.monotonic)


class Uploads:
    """Storage of uploaded audio files, with limits on number, bytes and age.

    Only files that this object created are found, served or removed.

    Args:
        folder: Existing folder for the files. No other process writes to it.
        max_bytes: Maximum size of a file in bytes.
        max_files: Maximum number of files. The oldest are removed.
        max_total: Maximum sum of their sizes in bytes. None uses `MAX_TOTAL` times the maximum size of a file.
    """

    def __init__(self, folder: Path, max_bytes: int, max_files: int = MAX_FILES, max_total: int | None = None) -> None:
        self.folder = Path(os.path.realpath(folder))
        self.max_bytes, self.max_files = max_bytes, max_files
        self.max_total = MAX_TOTAL * max_bytes if max_total is None else max_total
        self._stored: dict[str, Upload] = {}  # oldest first
        self._receiving = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._stored)

    def add(self, name: str, size: int, file: BinaryIO) -> Upload:
        """Store an audio file, and remove the oldest ones if there are too many.

        Args:
            name: Name given by the user.
            size: Size in bytes.
            file: Content, which is read from its start.

        Raises:
            RequestError: The file is too large, or the disk is full.
        """
        if size > self.max_bytes:
            raise too_large(self.max_bytes)
        name = _display_name(name)
        suffix = Path(name).suffix.lower()
        folder = self.folder / secrets.token_hex(16)
        path = folder / f"sound{suffix if re.fullmatch(r'[.][a-z0-9]{1,8}', suffix) else ''}"
        with self._lock:
            while self._stored and (len(self._stored) >= self.max_files or self._total() + size > self.max_total):
                self._remove(next(iter(self._stored)))
            try:
                folder.mkdir(mode=0o700)
                ownership.mark_created(folder)
                try:
                    with path.open("xb") as target:
                        ownership.mark_created(path)
                        file.seek(0)
                        shutil.copyfileobj(file, target)
                    identity = _identity(os.lstat(path))
                except BaseException:
                    atomic.remove_created(folder)
                    raise
            except OSError as error:
                raise RequestError(507, f"The audio file cannot be stored ({error.strerror}).") from error
            upload = Upload(path, name, size, identity)
            self._stored[str(path)] = upload
        return upload

    def find(self, path: object) -> Upload | None:
        """Return the upload with a path, or None if this server did not store it.

        Links and files that were replaced later are not found.

        Args:
            path: Path from the browser. Values that are not text are not found.
        """
        self.expire()
        with self._lock:
            upload = self._stored.get(path) if isinstance(path, str) else None
            if upload is None or not _unchanged(upload):
                return None
            upload.used = time.monotonic()
            return upload

    def expire(self, max_age: float = MAX_AGE) -> None:
        """Remove uploads that were not used for `max_age` seconds."""
        now = time.monotonic()
        with self._lock:
            for path in [path for path, upload in self._stored.items() if now - upload.used > max_age]:
                self._remove(path)

    def clear(self) -> None:
        """Remove all uploads."""
        with self._lock:
            for path in list(self._stored):
                self._remove(path)

    async def receive(self, scope: Scope, receive: Receive) -> Upload:
        """Store the audio file of a multipart request. Nothing is stored if the request is incomplete.

        Args:
            scope: Request.
            receive: Source of its body.

        Raises:
            RequestError: The request is not an upload of one file, is too large or too slow, or there are too many
                uploads at the same time.
        """
        if self._receiving >= MAX_RECEIVING:
            raise RequestError(503, "Too many files are being uploaded; try again in a moment.")
        self._receiving += 1
        try:
            return await self._receive(scope, limit_body(scope, receive, self.max_bytes + ENVELOPE, self.max_bytes))
        finally:
            self._receiving -= 1

    async def _receive(self, scope: Scope, receive: Receive) -> Upload:
        from starlette.exceptions import HTTPException
        from starlette.formparsers import MultiPartException
        from starlette.requests import ClientDisconnect, Request

        no_upload = RequestError(400, "An upload must be one file in a multipart form.")
        request = Request(scope, receive)
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise no_upload
        try:  # an incomplete file has no name on the disk
            async with asyncio.timeout(BODY_TIMEOUT), request.form(max_files=1, max_fields=0) as form:
                file: Any = form.get("files")
                if file is None or isinstance(file, str):
                    raise no_upload
                return await asyncio.to_thread(self.add, file.filename or "sound", file.size or 0, file.file)
        except TimeoutError as error:
            raise RequestError(408, "The upload took too long.") from error
        except (MultiPartException, HTTPException) as error:
            raise no_upload from error
        except ClientDisconnect as error:
            raise RequestError(400, "The upload is incomplete.") from error

    def _total(self) -> int:
        return sum(upload.size for upload in self._stored.values())

    def _remove(self, path: str) -> None:
        upload = self._stored.pop(path)
        if _unchanged(upload):
            with suppress(OSError):
                atomic.remove_created(upload.path.parent)


def limit_body(
    scope: Scope, receive: Receive, max_bytes: int, reported_bytes: int | None = None
) -> Callable[[], Awaitable[Any]]:
    """Return a source of a request's body with a limit on its size and on the time for each block.

    Args:
        scope: Request. Its Content-Length is checked before the body is read.
        receive: Source of its body.
        max_bytes: Maximum size in bytes.
        reported_bytes: Maximum size in bytes for the error message.

    Raises:
        RequestError: The body is too large.
    """
    reported_bytes = max_bytes if reported_bytes is None else reported_bytes
    for key, value in scope["headers"]:
        if key == b"content-length" and (not value.isdigit() or int(value) > max_bytes):
            raise too_large(reported_bytes)
    read = 0

    async def next_message() -> Any:
        nonlocal read
        try:
            message = await asyncio.wait_for(receive(), BLOCK_TIMEOUT)
        except TimeoutError as error:
            raise RequestError(408, "The request stopped before it was complete.") from error
        read += len(message.get("body", b""))
        if read > max_bytes:
            raise too_large(reported_bytes)
        return message

    return next_message


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Return the body of a request.

    Raises:
        RequestError: The body is too large, too slow or incomplete.
    """
    next_message, body, more = limit_body(scope, receive, max_bytes), b"", True
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            while more:
                message = await next_message()
                if message["type"] == "http.disconnect":
                    raise RequestError(400, "The request is incomplete.")
                body, more = body + message.get("body", b""), message.get("more_body", False)
    except TimeoutError as error:
        raise RequestError(408, "The request took too long.") from error
    return body


def too_large(max_bytes: int) -> RequestError:
    """Return the reason to refuse a request that exceeds a limit in bytes."""
    return RequestError(413, f"The request is larger than {max_bytes / (1 << 20):.3g} MB.")


def _display_name(name: str) -> str:
    """Return a name without folders and control characters."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(letter for letter in last if letter.isprintable())[-NAME_LENGTH:] or "sound"


def _unchanged(upload: Upload) -> bool:
    """Return whether the file of an upload is still the stored file, and no part of its path is a link."""
    try:
        status = os.lstat(upload.path)
    except OSError:
        return False
    same = stat.S_ISREG(status.st_mode) and _identity(status) == upload.identity
    return same and os.path.realpath(upload.path) == str(upload.path)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Return the identity of a file. An inode is not sufficient, as it may be reused for another file."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
