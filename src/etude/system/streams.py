"""Standard streams that may be closed or full: their text goes into a log or to the other stream."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

NAMES = {1: "stdout", 2: "stderr"}
CLOSED = "closed"
LOST = "ETUDE_CLOSED_STREAMS"
"""Environment variable: numbers of the streams that a parent process could not write to, for its children."""


class GuardedStream:
    """Text stream that keeps what its target does not take; everything else is its target's.

    Args:
        number: File descriptor of the stream, 1 or 2.
        target: The stream; None where Python found it closed.
    """

    def __init__(self, number: int, target: Any) -> None:
        self.number, self.logged = number, False
        self.target = target if target is not None else open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        self.fault = CLOSED if target is None or str(number) in os.environ.get(LOST, "") else ""
        self.unread = False
        self.active = True
        self.lost: list[str] = []
        self._pending: list[str] = []  # written since the last flush, and with it lost if that fails

    def write(self, text: str) -> int:
        """Write text to the target, or keep it."""
        if not self.fault and not self.unread:
            try:
                self._write(text)
            except BrokenPipeError:
                self._abandon()
                self.unread = True
            except (OSError, ValueError) as error:
                self._fail(error)
            else:
                return len(text)
        if self.fault and not self.logged:
            self.lost.append(text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the target; a failure is kept as that of a write."""
        if self.fault or self.unread:
            return
        try:
            self.target.flush()
            self._pending.clear()
        except BrokenPipeError:  # the reader has read enough
            self._abandon()
            self.unread = True
        except (OSError, ValueError) as error:
            self._fail(error)
            self.lost += self._pending

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)

    def _write(self, text: str) -> None:
        try:
            self.target.write(text)
        except UnicodeEncodeError:
            encoding = self.target.encoding or "ascii"
            self.target.write(text.encode(encoding, "backslashreplace").decode(encoding))
        if not self.logged:
            self._pending.append(text)
        if "\n" in text:
            self.target.flush()
            self._pending.clear()

    def _fail(self, error: Exception) -> None:
        self.fault = getattr(error, "strerror", None) or CLOSED
        self.lost += self._pending[:-1]  # the text itself is kept by the caller
        self._abandon()

    def _abandon(self) -> None:
        """Let what is still in the target's buffer go nowhere, or the interpreter fails on it when it ends."""
        with suppress(OSError, ValueError, io.UnsupportedOperation):
            if self.target.fileno() == self.number:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.number)
                os.close(null)
        if self.fault and self.active:  # a log handler may keep the stream and write to it later
            os.environ[LOST] = os.environ.get(LOST, "") + str(self.number)


class ScreenHandler(logging.StreamHandler):
    """Log handler for a stream; records that a log file has as well are not kept a second time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        stream = self.stream
        if not isinstance(stream, GuardedStream):
            super().emit(record)
            return
        stream.logged = bool(_files())
        try:
            super().emit(record)
        finally:
            stream.logged = False


@contextmanager
def guarded() -> Iterator[list[GuardedStream]]:
    """Guard stdout and stderr; yield both, or nothing where they are guarded already."""
    if isinstance(sys.stdout, GuardedStream) and isinstance(sys.stderr, GuardedStream):
        yield []
        return
    _open_missing()
    kept, environment, strict = (sys.stdout, sys.stderr), os.environ.get(LOST), logging.raiseExceptions
    streams = [GuardedStream(number, getattr(sys, name)) for number, name in NAMES.items()]
    sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    logging.raiseExceptions = False  # a log on a full disk must not end in tracebacks on the screen
    try:
        yield streams
    finally:
        for stream in streams:
            stream.flush()
        deliver(streams)
        sys.stdout, sys.stderr = kept
        logging.raiseExceptions = strict
        for stream in streams:
            stream.active = False
        if environment is None:
            os.environ.pop(LOST, None)
        else:
            os.environ[LOST] = environment


def deliver(streams: list[GuardedStream]) -> bool:
    """Put what streams could not show into the log files that are open, or else onto the other stream.

    Returns:
        Whether everything was delivered.
    """
    for stream, other in zip(streams, streams[::-1], strict=True):
        text = "".join(stream.lost).strip("\n")
        if not text.strip():
            stream.lost.clear()
            continue
        note = f"{NAMES[stream.number]} cannot be written ({stream.fault}); it would have shown:\n{text}"
        if _log(note):
            stream.lost.clear()
            if stream.fault != CLOSED and not other.fault:
                other.write(f"{NAMES[stream.number]} cannot be written ({stream.fault}); the log has its text\n")
        elif not other.fault and not other.unread:
            other.write(note + "\n")
            if not other.fault:
                stream.lost.clear()
    return not any("".join(stream.lost).strip() for stream in streams)


def deliver_now() -> None:
    """Deliver what the guarded streams could not show so far, before a log is closed."""
    if isinstance(sys.stdout, GuardedStream) and isinstance(sys.stderr, GuardedStream):
        sys.stdout.flush()
        sys.stderr.flush()
        deliver([sys.stdout, sys.stderr])


def _files() -> list[logging.FileHandler]:
    """Return the log files that are open."""
    return [one for one in logging.getLogger().handlers if isinstance(one, logging.FileHandler)]


def _log(text: str) -> bool:
    """Write a text into the open log files; return whether one took it."""
    written = False
    for handler in _files():
        record = logging.LogRecord(__name__, logging.INFO, __file__, 0, text, None, None)
        with suppress(OSError, ValueError):
            if handler.stream is None:
                handler.stream = handler._open()
            handler.stream.write(handler.format(record) + "\n")
            handler.stream.flush()
            written = True
    return written


def _open_missing() -> None:
    """Give closed standard descriptors to the null device, or the next file that is opened gets their number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            if os.open(os.devnull, os.O_RDWR) == number:
                os.set_inheritable(number, True)
