"""Reader of the offline files of Weights & Biases, which are records in LevelDB's log format.

The reader of the client is written in Go and not available in Python. The format is described in
https://github.com/google/leveldb/blob/main/doc/log_format.md.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as pb

HEADER_SIZE, BLOCK_SIZE = 7, 32768  # bytes
FULL, LAST = 1, 4  # kinds of fragments that complete a record


def read_records(path: Path) -> list[Any]:
    """Return all records of a .wandb file, and check the checksum of each fragment."""
    data, position, fragments, records = path.read_bytes(), HEADER_SIZE, b"", []
    assert data[:4] == b":W&B"
    while position < len(data):
        if (left := BLOCK_SIZE - position % BLOCK_SIZE) < HEADER_SIZE:
            position += left
            continue
        checksum, size, kind = struct.unpack_from("<IHB", data, position)
        start = position + HEADER_SIZE
        fragment = data[start : start + size]
        assert zlib.crc32(bytes([kind]) + fragment) == checksum
        fragments, position = fragments + fragment, start + size
        if kind in (FULL, LAST):
            records.append(pb.Record.FromString(fragments))
            fragments = b""
    return records


class WandbRun:
    """Content of a .wandb file.

    Args:
        path: The file.

    Attributes:
        files: Folder of logged files.
        run: Record of the run.
        exits: Exit statuses.
        artifacts: Records of artifacts by name.
        history: Logged values by name, for each call.
        summary: Summary values by name.
        config: Config values by name.
    """

    def __init__(self, path: Path) -> None:
        self.files = path.parent / "files"
        records = [(record.WhichOneof("record_type"), record) for record in read_records(path)]
        (self.run,) = [record.run for kind, record in records if kind == "run"]
        self.exits = [record.exit.exit_code for kind, record in records if kind == "exit"]
        self.artifacts = {record.artifact.name: record.artifact for kind, record in records if kind == "artifact"}
        self.history = [flatten_items(record.history.item) for kind, record in records if kind == "history"]
        self.summary: dict[str, Any] = {}
        for kind, record in records:
            if kind == "summary":
                self.summary |= flatten_items(record.summary.update)
        self.config = {update.key: json.loads(update.value_json) for update in self.run.config.update}

    def table(self, name: str) -> tuple[list[str], list[list[Any]]]:
        """Return columns and rows of a logged table."""
        (path,) = [row[f"{name}.path"] for row in self.history if f"{name}.path" in row]
        content = json.loads((self.files / path).read_text(encoding="utf-8"))
        return content["columns"], content["data"]


def flatten_items(items: Any) -> dict[str, Any]:
    """Return values by name. Nested names are joined by dots."""
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def read_wandb_runs(run: Path) -> list[WandbRun]:
    """Return the content of all .wandb files in a run folder, in the order of their start."""
    return [WandbRun(path) for path in sorted(run.glob("wandb/offline-run-*/run-*.wandb"))]
