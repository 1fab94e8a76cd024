"""Persistent stores of values by key, such as embeddings, that runs and commands share.

The store of an encoder is a folder of shards, to which records are appended. A record has a key and a checksum. A
process appends only to a shard that it has locked, so several processes can write at once. A record that is incomplete
or damaged is treated as missing and is written again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any

from etude.config.stored import readout_name
from etude.errors import UserError
from etude.files import ownership
from etude.files.atomic import open_file, remove, remove_folder, write_text
from etude.files.journal import Lock, write_all

FOLDER, DESCRIPTION = "embeddings", "store.json"
FORMAT = 1
LIMIT = 2_000_000_000  # bytes of all stores together
SHARD_BYTES = 64 << 20  # a larger shard is not appended to; whole shards are removed when the limit is exceeded
MAGIC = b"EtE\x01"
HEADER = struct.Struct("<4s32sQI")  # magic, key, number of bytes of the value, checksum of the fields before
DIGEST = 16  # bytes of the checksum after a value
DAY = 86_400  # seconds
log = logging.getLogger(__name__)


class RecordStore:
    """Store of byte values by key in a subfolder of the folder of stores.

    Args:
        root: Folder of all stores, which is created if it is missing.
        description: Plain values that identify the store, with `kind` (`embeddings` or `files`) and `model`. Each
            description has its own subfolder.
        limit: Maximum size of all stores together, in bytes. `close` removes the shards that were not used for the
            longest time until the limit is met.

    Raises:
        UserError: The folder contains files of these names that Étude did not write.
        OSError: The folder cannot be written.
    """

    def __init__(self, root: Path, description: Mapping[str, Any], limit: int = LIMIT) -> None:
        self.root, self.limit = root, limit
        identity = json.dumps({"format": FORMAT, **description, "model": ""}, sort_keys=True)
        self.folder = root / f"{description['kind']}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        self._locations: dict[bytes, list[tuple[str, int, int]]] = {}  # shard, offset and size of each value
        self._scanned: dict[str, int] = {}  # bytes of each shard whose records are known
        self._used: set[str] = set()
        self._writer: tuple[str, IO[bytes], Lock] | None = None
        self._mutex = threading.RLock()
        self._description = {"format": FORMAT, **description}
        ownership.open_folder(root)
        self._describe()

    def __enter__(self) -> RecordStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of different keys."""
        with self._mutex:
            self._scan_shards()
            return len(self._locations)

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, or None for a key that is missing or whose value is damaged.

        Args:
            keys: Keys of 32 bytes.
        """
        with self._mutex:
            if any(key not in self._locations for key in keys):
                self._scan_shards()
            return [self._read(key) for key in keys]

    def write(self, values: Mapping[bytes, bytes]) -> None:
        """Append values, each with a key of 32 bytes.

        Raises:
            OSError: The folder cannot be written, or the disk is full.
        """
        with self._mutex:
            for key, value in values.items():
                name, file = self._open_writer()
                start = file.seek(0, os.SEEK_END)
                header = HEADER.pack(MAGIC, key, len(value), 0)[:-4]
                header += struct.pack("<I", zlib.crc32(header))
                write_all(file, header + value + _digest(key, value))
                self._locations.setdefault(key, []).append((name, start + len(header), len(value)))
                if self._scanned.get(name, 0) == start:
                    self._scanned[name] = start + len(header) + len(value) + DIGEST

    def close(self) -> None:
        """Release the shard of this process, and remove old shards if the stores exceed their limit."""
        with self._mutex:
            if self._writer is not None:
                _, file, lock = self._writer
                file.close()
                lock.release()
                self._writer = None
                trim(self.root, self.limit)

    def _describe(self) -> None:
        """Create the folder and its description, unless another process did so. A damaged description is replaced."""
        with suppress(FileExistsError):
            ownership.subfolder(self.folder)
        if _read_description(self.folder) is None:
            write_text(self.folder / DESCRIPTION, json.dumps(self._description, indent=1) + "\n")

    def _read(self, key: bytes) -> bytes | None:
        for name, start, size in reversed(self._locations.get(key, [])):
            path = self.folder / name
            try:
                with path.open("rb") as file:
                    file.seek(start)
                    data = file.read(size + DIGEST)
            except OSError:  # another process removed the shard
                continue
            if len(data) == size + DIGEST and data[size:] == _digest(key, data[:size]):
                if name not in self._used:
                    self._used.add(name)
                    with suppress(OSError):
                        os.utime(path)  # the time of the last use
                return data[:size]
        self._locations.pop(key, None)
        return None

    def _scan_shards(self) -> None:
        """Find the records that were added to the shards since the last call."""
        for path in sorted(self.folder.glob("*.bin")):
            with suppress(OSError):
                start = self._scanned.get(path.name, 0)
                if path.stat().st_size <= start:
                    continue
                with path.open("rb") as file:
                    for key, offset, size in scan_records(file, start):
                        location = (path.name, offset, size)
                        if location not in (known := self._locations.setdefault(key, [])):
                            known.append(location)
                        self._scanned[path.name] = offset + size + DIGEST

    def _open_writer(self) -> tuple[str, IO[bytes]]:
        """Return the name and the file of a shard that this process has locked."""
        if self._writer is not None:
            name, file, lock = self._writer
            if file.seek(0, os.SEEK_END) < SHARD_BYTES:
                return name, file
            file.close()
            lock.release()
        for number in count():
            path = self.folder / f"{number:06d}.bin"
            lock = Lock(path.with_suffix(".lock"), str(self.folder))
            try:
                lock.acquire()
            except UserError:  # another process appends to it
                continue
            self._describe()  # if another process removed the store
            self._scan_shards()
            size = path.stat().st_size if path.is_file() else 0
            if size < SHARD_BYTES and size == self._scanned.get(path.name, 0):  # no incomplete record at its end
                break
            lock.release()
        file = open_file(path, "ab", buffering=0)
        self._writer = path.name, file, lock
        self._used.add(path.name)
        return path.name, file


@dataclass(frozen=True)
class StoreSummary:
    """Description of a store for listings.

    Args:
        folder: Folder of the store.
        kind: `embeddings` or `files`.
        model: Name of the encoder, such as `musicnn msd`.
        readout: Read-out of the encoder, such as `all_mean_std`, or `default`; "" for a store of files.
        entries: Number of different keys.
        size: Size in bytes.
        last_used: Time of the last use, in seconds since 1970.
    """

    folder: Path
    kind: str
    model: str
    readout: str
    entries: int
    size: int
    last_used: float


def list_stores(root: Path) -> list[StoreSummary]:
    """Return a summary of each store below the folder of stores, the most recently used first."""
    summaries = []
    for folder in root.iterdir() if root.is_dir() else ():
        if not re.fullmatch(r"(embeddings|files)-[0-9a-f]{16}", folder.name):
            continue
        kind, model, readout = _read_description(folder) or (folder.name.partition("-")[0], "unknown", "")
        keys, size, times = set[bytes](), 0, [0.0]
        for path in (*folder.glob("*.bin"), folder / DESCRIPTION):
            with suppress(OSError):  # another process removed it
                status = path.stat()
                times.append(status.st_mtime)
                if path.suffix == ".bin":
                    with path.open("rb") as file:
                        keys.update(key for key, *_ in scan_records(file))
                    size += status.st_size
        summaries.append(StoreSummary(folder, kind, model, readout, len(keys), size, max(times)))
    return sorted(summaries, key=lambda summary: -summary.last_used)


def clear_stores(root: Path, model: str | None = None, older_than: float | None = None) -> list[StoreSummary]:
    """Remove stores, but only the files that Étude wrote, and return the summaries of the removed stores.

    Args:
        root: Folder of all stores.
        model: Name of the encoder whose stores are removed, such as `musicnn msd`, or of its backbone. None removes the
            stores of all encoders.
        older_than: Number of days; stores that were used since then are kept. None removes them as well.
    """
    before = time.time() - (older_than or 0.0) * DAY
    selected = [
        store
        for store in list_stores(root)
        if model in (None, store.model, store.model.partition(" ")[0])
        and (older_than is None or store.last_used < before)
    ]
    return [store for store in selected if _remove_store(store.folder)]


def trim(root: Path, limit: int = LIMIT) -> int:
    """Remove the least recently used shards until all stores together meet a limit. Shards in use are kept.

    Args:
        root: Folder of all stores.
        limit: Maximum size in bytes.

    Returns:
        Number of removed bytes.
    """
    shards = []
    for path in root.glob("*/*.bin"):
        with suppress(OSError):
            status = path.stat()
            shards.append((status.st_mtime, status.st_size, path))
    excess, removed = sum(size for _, size, _ in shards) - limit, 0
    for _, size, path in sorted(shards):
        if removed < excess and _remove_shard(path):
            removed += size
    if removed:
        log.info("%s: removed %.0f MB that were not used for the longest time", root, removed / 1e6)
    return removed


def scan_records(file: IO[bytes], start: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """Yield key, offset and size of the value of each record of a shard. Damaged parts are skipped.

    Args:
        file: The shard, opened for reading.
        start: Offset of the first record.
    """
    end = file.seek(0, os.SEEK_END)
    while start + HEADER.size + DIGEST <= end:
        file.seek(start)
        header = file.read(HEADER.size)
        magic, key, size, check = HEADER.unpack(header)
        if magic != MAGIC or check != zlib.crc32(header[:-4]):
            file.seek(start + 1)
            position = file.read().find(MAGIC)  # a shard is small enough for memory
            start = end if position < 0 else start + 1 + position
            continue
        value = start + HEADER.size
        if value + size + DIGEST > end:  # incomplete
            return
        yield key, value, size
        start = value + size + DIGEST


def _read_description(folder: Path) -> tuple[str, str, str] | None:
    """Return kind, encoder and read-out of a store, or None if its description is missing or damaged."""
    try:
        description = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        kind, model = str(description["kind"]), str(description["model"])
        readout = readout_name(description["identity"].get("readout")) if kind == "embeddings" else None
        return kind, model, readout or ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _remove_shard(path: Path) -> bool:
    """Remove a shard and its lock file, unless another process appends to it."""
    lock = Lock(path.with_suffix(".lock"), str(path.parent))
    try:
        lock.acquire()
    except (UserError, OSError):
        return False
    try:
        return remove(path)
    finally:
        lock.release()


def _remove_store(folder: Path) -> bool:
    """Remove the shards of a store that no process uses, and then its folder. Files of others are kept."""
    removed = [_remove_shard(path) for path in folder.glob("*.bin")]
    if not all(removed):
        log.warning(
            "%s: %d of %d files are in use or not of Étude, and are kept", folder, removed.count(False), len(removed)
        )
        return False
    remove_folder(folder)
    return not (folder / DESCRIPTION).exists()


def _digest(key: bytes, value: bytes) -> bytes:
    """Return the checksum of a record."""
    return hashlib.blake2b(key + value, digest_size=DIGEST).digest()
