"""Seeded mutations of bytes, texts and nested values."""

from __future__ import annotations

import struct
from random import Random
from typing import Any

SIZES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
TEXTS = (
    "", " ", "a", "é", "日本語", "🎵", "\u202eabc", "a\tb", "a\nb", "..", "../x", "a/b", "%s%n", "{x}", "${x}",
    "$x", "'", '"',
    "\\", "null", "nan", "inf", "-1", "1e400", "true", "[1, 2]", "<b>", "x" * 300, "\ud800",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    -float("inf"), [], {},
    [None], [[]], {"": None}, {"a": {"b": []}}, [1, "a", None], "a", "", "1", "🎵",
)  # fmt: skip


def damage(data: bytes, rng: Random, other: bytes = b"") -> tuple[bytes, str]:
    """Return bytes with one or more faults, and what was done.

    Args:
        data: Content of a file.
        rng: Source of all choices.
        other: Content of a second file, for splices.
    """
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        name = rng.choice(tuple(_KINDS))
        data = _KINDS[name](data, rng, other)
        done.append(name)
    return data, "+".join(done)


def _flip(data: bytes, rng: Random, other: bytes) -> bytes:
    made = bytearray(data)
    for _ in range(rng.choice((1, 4, 32, 200))):
        if made:
            made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    return bytes(made)


def _header(data: bytes, rng: Random, other: bytes) -> bytes:
    made = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        if made:
            made[rng.randrange(min(len(made), 128))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(made)


def _size(data: bytes, rng: Random, other: bytes) -> bytes:
    """Write a length of 2, 4 or 8 bytes into the first part of a file, in either byte order."""
    value, width = rng.choice(SIZES), rng.choice((2, 4, 4, 8))
    packed = (value % (1 << 8 * width)).to_bytes(width, rng.choice(("little", "big")))
    where = rng.randrange(0, max(1, min(len(data), 160)), 2)
    return data[:where] + packed + data[where + width :]


def _truncate(data: bytes, rng: Random, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)] if rng.random() < 0.6 else data[: rng.randrange(80)]


def _behead(data: bytes, rng: Random, other: bytes) -> bytes:
    return data[rng.randrange(min(len(data), 300) + 1) :]


def _insert(data: bytes, rng: Random, other: bytes) -> bytes:
    where = rng.randrange(len(data) + 1)
    return data[:where] + rng.randbytes(rng.choice((1, 3, 64, 4096))) + data[where:]


def _duplicate(data: bytes, rng: Random, other: bytes) -> bytes:
    first, last = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    return data[:last] + data[first:last] + data[last:]


def _delete(data: bytes, rng: Random, other: bytes) -> bytes:
    first = rng.randrange(len(data) + 1)
    return data[:first] + data[first + rng.choice((1, 2, 100, 5000)) :]


def _zero(data: bytes, rng: Random, other: bytes) -> bytes:
    first = rng.randrange(len(data) + 1)
    length = min(rng.choice((4, 64, 4096)), len(data) - first)
    return data[:first] + bytes([rng.choice((0, 255))]) * length + data[first + length :]


def _splice(data: bytes, rng: Random, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _join(data: bytes, rng: Random, other: bytes) -> bytes:
    return data + other if rng.random() < 0.5 else other + data


def _number(data: bytes, rng: Random, other: bytes) -> bytes:
    """Replace a number that stands there in binary by one that is near, huge or not finite."""
    if len(data) < 8:
        return data
    where = rng.randrange(len(data) - 7)
    value = rng.choice((float("nan"), float("inf"), 1e300, -1.0, 0.0))
    return data[:where] + struct.pack(rng.choice("<>") + rng.choice("fd"), min(value, 3e38)) + data[where + 8 :]


_KINDS = {
    "flip": _flip, "header": _header, "size": _size, "truncate": _truncate, "behead": _behead, "insert": _insert,
    "duplicate": _duplicate, "delete": _delete, "zero": _zero, "splice": _splice, "join": _join, "number": _number,
}  # fmt: skip


def nested(value: Any, rng: Random) -> tuple[Any, str]:
    """Return nested data in which one value is removed, renamed or of another type, and what was done."""
    paths = [path for path, _ in _walk(value) if path]
    if not paths:
        return rng.choice(VALUES), "all replaced"
    path = rng.choice(paths)
    made = _copy(value)
    home = made
    for key in path[:-1]:
        home = home[key]
    kind, where = rng.choice(("replace", "replace", "replace", "text", "remove", "rename")), ".".join(map(str, path))
    if kind == "remove":
        del home[path[-1]]
    elif kind == "rename" and isinstance(home, dict):
        home[rng.choice(TEXTS[:-1])] = home.pop(path[-1])
    else:
        home[path[-1]] = rng.choice(TEXTS[:-1] if kind == "text" else VALUES)
        kind = f"set to {str(home[path[-1]])[:30]!r}"
    return made, f"{where} {kind}"


def _walk(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    found = [(path, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += _walk(item, (*path, key))
    return found


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
