"""Standard streams and the log: guards of closed or full streams, silence, and the progress of long loops."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

from etude.system import signals

T = TypeVar("T")
log = logging.getLogger(__name__)
LOG_INTERVAL = 10.0  # seconds between two log lines about the progress
NAMES = {1: "stdout", 2: "stderr"}
CLOSED = "closed"
CLOSED_VARIABLE = "ETUDE_CLOSED_STREAMS"  # environment variable with the numbers of unwritable streams, for children


class GuardedStream:
    """Text stream that stores text in memory if the underlying stream cannot be written.

    Args:
        number: File descriptor of the stream, 1 or 2.
        target: The stream; None if it is closed.
    """

    def __init__(self, number: int, target: Any) -> None:
        self.number, self.logged = number, False
        self.target = target if target is not None else open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        self.failure = CLOSED if target is None or str(number) in os.environ.get(CLOSED_VARIABLE, "") else ""
        self.is_unread = False
        self.is_active = True
        self.kept: list[str] = []
        self._pending: list[str] = []  # text since the last flush, which is lost if the flush fails

    def write(self, text: str) -> int:
        """Write text to the target, or keep the text.

        Raises:
            TypeError: The text is not of type str. The command line library recognises text streams by this error.
        """
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if not self.failure and not self.is_unread:
            try:
                self._write(text)
            except BrokenPipeError:
                self._abandon()
                self.is_unread = True
            except (OSError, ValueError) as error:
                self._fail(error)
            else:
                return len(text)
        if self.failure and not self.logged:
            self.kept.append(text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the target. If this fails, the text is kept."""
        if self.failure or self.is_unread:
            return
        try:
            self.target.flush()
            self._pending.clear()
        except BrokenPipeError:  # the reader has closed the pipe
            self._abandon()
            self.is_unread = True
        except (OSError, ValueError) as error:
            self._fail(error)
            self.kept += self._pending

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
        self.failure = getattr(error, "strerror", None) or CLOSED
        self.kept += self._pending[:-1]  # the caller keeps the last text
        self._abandon()

    def _abandon(self) -> None:
        """Discard the text in the target's buffer, because the interpreter would fail to write it when it ends."""
        with suppress(OSError, ValueError, io.UnsupportedOperation):
            if self.target.fileno() == self.number:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.number)
                os.close(null)
        if self.failure and self.is_active:  # a log handler may use the stream after its command has ended
            os.environ[CLOSED_VARIABLE] = os.environ.get(CLOSED_VARIABLE, "") + str(self.number)


class ScreenHandler(logging.StreamHandler):
    """Log handler for a stream. If the stream fails, records are stored, except those in a log file."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record to the stream."""
        stream = self.stream
        if not isinstance(stream, GuardedStream):
            super().emit(record)
            return
        stream.logged = bool(_log_files())
        try:
            super().emit(record)
        finally:
            stream.logged = False


@contextmanager
def guarded() -> Iterator[list[GuardedStream]]:
    """Guard stdout and stderr. Yields both streams, or an empty list if they are guarded already."""
    if isinstance(sys.stdout, GuardedStream) and isinstance(sys.stderr, GuardedStream):
        yield []
        return
    _open_missing()
    before, environment, raises = (sys.stdout, sys.stderr), os.environ.get(CLOSED_VARIABLE), logging.raiseExceptions
    streams = [GuardedStream(number, getattr(sys, name)) for number, name in NAMES.items()]
    sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    logging.raiseExceptions = False  # a log file on a full disk must not print tracebacks
    try:
        yield streams
    finally:
        for stream in streams:
            stream.flush()
        deliver(streams)
        sys.stdout, sys.stderr = before
        logging.raiseExceptions = raises
        for stream in streams:
            stream.is_active = False
        if environment is None:
            os.environ.pop(CLOSED_VARIABLE, None)
        else:
            os.environ[CLOSED_VARIABLE] = environment


def deliver(streams: list[GuardedStream]) -> bool:
    """Write the text that streams kept to the open log files, or to the other stream if there is no log file.

    Returns:
        Whether all text was written.
    """
    for stream, other in zip(streams, streams[::-1], strict=True):
        text = "".join(stream.kept).strip("\n")
        if not text.strip():
            stream.kept.clear()
            continue
        message = f"{NAMES[stream.number]} cannot be written ({stream.failure}); its text is:\n{text}"
        if _write_to_logs(message):
            stream.kept.clear()
            if stream.failure != CLOSED and not other.failure:
                other.write(f"{NAMES[stream.number]} cannot be written ({stream.failure}); its text is in the log\n")
        elif not other.failure and not other.is_unread:
            other.write(message + "\n")
            if not other.failure:
                stream.kept.clear()
    return not any("".join(stream.kept).strip() for stream in streams)


def deliver_now() -> None:
    """Deliver the text that the guarded streams kept so far, before a log file is closed."""
    if isinstance(sys.stdout, GuardedStream) and isinstance(sys.stderr, GuardedStream):
        sys.stdout.flush()
        sys.stderr.flush()
        deliver([sys.stdout, sys.stderr])


def _log_files() -> list[logging.FileHandler]:
    """Return the handlers of the open log files."""
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]


def _write_to_logs(text: str) -> bool:
    """Write a text to the open log files, and return whether at least one was written."""
    written = False
    for handler in _log_files():
        record = logging.LogRecord(__name__, logging.INFO, __file__, 0, text, None, None)
        with suppress(OSError, ValueError):
            if handler.stream is None:
                handler.stream = handler._open()
            handler.stream.write(handler.format(record) + "\n")
            handler.stream.flush()
            written = True
    return written


def _open_missing() -> None:
    """Open closed standard descriptors on the null device, so that no other file gets their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            if os.open(os.devnull, os.O_RDWR) == number:
                os.set_inheritable(number, True)


@contextmanager
def silent_log() -> Iterator[None]:
    """Discard log messages about data that the runs of the command will read again, until the block ends."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def track(items: Iterable[T], total: int, title: str, unit: str) -> Iterator[T]:
    """Yield items and show the progress.

    Args:
        items: Items of the loop.
        total: Number of items.
        title: Description of the loop.
        unit: Noun for the items, in the plural.

    Raises:
        KeyboardInterrupt: A signal was received, but a library suppressed its exception.
    """
    unit = unit.removesuffix("s") if total == 1 and unit.isalpha() else unit
    show = _show_bar if sys.stderr.isatty() else _log_lines
    for item in show(items, total, title, unit):
        signals.raise_received()
        yield item


def _show_bar(items: Iterable[T], total: int, title: str, unit: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    speed = TextColumn("{task.fields[rate]} " + unit + "/s")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, rate="–")
        start = time.monotonic()
        for done, item in enumerate(items, 1):
            yield item
            progress.update(task, advance=1, rate=f"{done / (time.monotonic() - start):.0f}")


def _log_lines(items: Iterable[T], total: int, title: str, unit: str) -> Iterator[T]:
    log.info("%s: %d %s", title, total, unit)
    start = last_log = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if done == 1:
            last_log = now  # the time before includes the start of the workers
        if done == total or now - last_log > LOG_INTERVAL:
            speed = done / (now - start)
            left = f", {timedelta(seconds=round((total - done) / speed))} left" if done < total else ""
            log.info("%s: %d of %d %s, %.3g a second%s", title, done, total, unit, speed, left)
            last_log = now
