"""Reading what the client of Weights & Biases leaves offline: LevelDB's log format around the client's own records.

The client's reader is in its Go part; the format is https://github.com/google/leveldb/blob/main/doc/log_format.md.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as pb

HEAD, BLOCK = 7, 32768
WHOLE, LAST = 1, 4


def records(path: Path) -> list[Any]:
    """Every record of a .wandb file; each piece's checksum is looked at."""
    data, place, part, found = path.read_bytes(), HEAD, b"", []
    assert data[:4] == b":W&B"
    while place < len(data):
        if (left := BLOCK - place % BLOCK) < HEAD:
            place += left
            continue
        checksum, size, kind = struct.unpack_from("<IHB", data, place)
        piece = data[place + HEAD : place + HEAD + size]
        assert zlib.crc32(bytes([kind]) + piece) == checksum
        part, place = part + piece, place + HEAD + size
        if kind in (WHOLE, LAST):
            found.append(pb.Record.FromString(part))
            part = b""
    return found


class Told:
    """What a .wandb file says of a run."""

    def __init__(self, path: Path) -> None:
        self.files = path.parent / "files"
        every = [(record.WhichOneof("record_type"), record) for record in records(path)]
        (self.run,) = [record.run for kind, record in every if kind == "run"]
        self.exits = [record.exit.exit_code for kind, record in every if kind == "exit"]
        self.artifacts = {record.artifact.name: record.artifact for kind, record in every if kind == "artifact"}
        self.history = [flat(record.history.item) for kind, record in every if kind == "history"]
        self.summary: dict[str, Any] = {}
        for kind, record in every:
            if kind == "summary":
                self.summary |= flat(record.summary.update)
        self.config = {update.key: json.loads(update.value_json) for update in self.run.config.update}

    def table(self, name: str) -> tuple[list[str], list[list[Any]]]:
        """Columns and rows of a table that was logged."""
        (path,) = [row[f"{name}.path"] for row in self.history if f"{name}.path" in row]
        content = json.loads((self.files / path).read_text(encoding="utf-8"))
        return content["columns"], content["data"]


def flat(items: Any) -> dict[str, Any]:
    """Items by name; those that are nested, with dots."""
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def told(run: Path) -> list[Told]:
    """What is kept of a run's folder, in the order in which it was begun."""
    return [Told(path) for path in sorted(run.glob("wandb/offline-run-*/run-*.wandb"))]
