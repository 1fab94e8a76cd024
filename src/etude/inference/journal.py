"""Journal of predictions, from which an interrupted command resumes.

The first line says what the results depend on besides the files: another network, or other windows, begin it anew. A
file is known by its path, size and time of change; what could not be heard is tried again.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from etude.files import os_errors, ownership
from etude.files.atomic import open_file
from etude.files.lock import Lock
from etude.inference.decoding import file_stamp
from etude.inference.engine import FilePrediction

log = logging.getLogger(__name__)
NAME, LOCK = "journal.jsonl", ".lock"
DIGITS = 7  # of a value; what a float32 holds


class Journal:
    """Opens or begins a journal; a context manager.

    Args:
        folder: Where it is; made when it is not there.
        about: What the results depend on, plain values.

    Raises:
        UserError: The folder cannot be written, or another process writes there.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.path, self.places = folder / NAME, dict[str, tuple[int, int, int]]()  # size, time, where its line begins
        try:
            ownership.open_folder(folder)
            self.lock = Lock(folder / LOCK, f"to={folder}")
            self.lock.acquire()
            self.file = open_file(self.path, "a+b")
        except OSError as error:
            raise os_errors.explain(error, folder, os_errors.OTHER_FOLDER, f"to={folder}") or error from error
        head = _line(about)
        self.file.seek(0)
        if (first := self.file.readline()) == head:
            self._read()
        else:
            if first:
                log.warning("to=%s: its results were of another network or other windows, and are replaced", folder)
            self.file.truncate(0)
            self.file.write(head)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self.lock.release()

    def knows(self, path: Path) -> bool:
        """Whether a file was heard, and is what it was."""
        return self.places.get(os.fspath(path), (0, 0))[:2] == file_stamp(path)

    def add(self, said: FilePrediction) -> None:
        """Write down what was said of a file."""
        if said.reason:
            self.places.pop(os.fspath(said.path), None)
        values = {"path": os.fspath(said.path), "size": said.size, "modified": said.modified, "seconds": said.seconds}
        if said.reason:
            line = _line(values | {"reason": said.reason})
        else:
            assert said.values is not None and said.embedding is not None
            windows = [(start, end, None if each is None else _rounded(each)) for start, end, each in said.windows]
            embedding = base64.b64encode(said.embedding.astype("<f4").tobytes()).decode()
            line = _line(values | {"values": _rounded(said.values), "windows": windows, "embedding": embedding})
        start = self.file.seek(0, os.SEEK_END)
        self.file.write(line)
        self.file.flush()
        self.places[os.fspath(said.path)] = (said.size, said.modified, start)

    def said(self, path: Path) -> FilePrediction:
        """What was said of a file, read back."""
        self.file.seek(self.places[os.fspath(path)][2])
        line = json.loads(self.file.readline())
        said = FilePrediction(
            Path(line["path"]), line["size"], line["modified"], line["seconds"], reason=line.get("reason", "")
        )
        if not said.reason:
            said.values = line["values"]
            said.windows = [(start, end, each) for start, end, each in line["windows"]]
            said.embedding = np.frombuffer(base64.b64decode(line["embedding"]), "<f4")
        return said

    def _read(self) -> None:
        """Find the lines that are whole, and drop what stands behind them."""
        start = self.file.tell()
        for line in iter(self.file.readline, b""):
            try:
                known = json.loads(line)
                place = (int(known["size"]), int(known["modified"]), start)
                if not line.endswith(b"\n"):
                    break
                self.places[str(known["path"])] = (-2, 0, start) if "reason" in known else place
            except (ValueError, KeyError, TypeError):
                break
            start += len(line)
        self.file.truncate(start)


def _line(values: dict[str, Any]) -> bytes:
    """In ASCII, which any name of a file can be written in."""
    return (json.dumps(values, separators=(",", ":")) + "\n").encode()


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]
