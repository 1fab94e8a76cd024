"""Seeded mutations of bytes and nested values, and unusual texts and values."""

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
    """Return damaged bytes and a description of the damage.

    Args:
        data: Content of a file.
        rng: Generator of all random choices.
        other: Content of a second file, for splices.
    """
    names = []
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        name = rng.choice(tuple(_MUTATIONS))
        data = _MUTATIONS[name](data, rng, other)
        names.append(name)
    return data, "+".join(names)


def _flip_bits(data: bytes, rng: Random, other: bytes) -> bytes:
    """Flip one or more random bits."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 4, 32, 200))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _change_header(data: bytes, rng: Random, other: bytes) -> bytes:
    """Replace one or more of the first 128 bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        if changed:
            changed[rng.randrange(min(len(changed), 128))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


def _write_size(data: bytes, rng: Random, other: bytes) -> bytes:
    """Write a size of 2, 4 or 8 bytes into the first 160 bytes of a file, in either byte order."""
    value, width = rng.choice(SIZES), rng.choice((2, 4, 4, 8))
    packed = (value % (1 << 8 * width)).to_bytes(width, rng.choice(("little", "big")))
    start = rng.randrange(0, max(1, min(len(data), 160)), 2)
    return data[:start] + packed + data[start + width :]


def _truncate(data: bytes, rng: Random, other: bytes) -> bytes:
    """Remove the end."""
    return data[: rng.randrange(len(data) + 1)] if rng.random() < 0.6 else data[: rng.randrange(80)]


def _remove_start(data: bytes, rng: Random, other: bytes) -> bytes:
    """Remove up to 300 bytes at the start."""
    return data[rng.randrange(min(len(data), 300) + 1) :]


def _insert(data: bytes, rng: Random, other: bytes) -> bytes:
    """Insert random bytes."""
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.choice((1, 3, 64, 4096))) + data[start:]


def _duplicate(data: bytes, rng: Random, other: bytes) -> bytes:
    """Repeat a range."""
    first, last = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    return data[:last] + data[first:last] + data[last:]


def _delete(data: bytes, rng: Random, other: bytes) -> bytes:
    """Delete a range."""
    first = rng.randrange(len(data) + 1)
    return data[:first] + data[first + rng.choice((1, 2, 100, 5000)) :]


def _fill(data: bytes, rng: Random, other: bytes) -> bytes:
    """Fill a range with zeros or ones."""
    first = rng.randrange(len(data) + 1)
    length = min(rng.choice((4, 64, 4096)), len(data) - first)
    return data[:first] + bytes([rng.choice((0, 255))]) * length + data[first + length :]


def _splice(data: bytes, rng: Random, other: bytes) -> bytes:
    """Join the start of the file and the end of another file."""
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _join(data: bytes, rng: Random, other: bytes) -> bytes:
    """Join the file and another file."""
    return data + other if rng.random() < 0.5 else other + data


def _write_number(data: bytes, rng: Random, other: bytes) -> bytes:
    """Write a floating-point number that is huge, negative, zero or not finite."""
    if len(data) < 8:
        return data
    start = rng.randrange(len(data) - 7)
    value = rng.choice((float("nan"), float("inf"), 1e300, -1.0, 0.0))
    return data[:start] + struct.pack(rng.choice("<>") + rng.choice("fd"), min(value, 3e38)) + data[start + 8 :]


_MUTATIONS = {
    "flip": _flip_bits, "header": _change_header, "size": _write_size, "truncate": _truncate, "start": _remove_start,
    "insert": _insert, "duplicate": _duplicate, "delete": _delete, "fill": _fill, "splice": _splice, "join": _join,
    "number": _write_number,
}  # fmt: skip


def change_nested_value(value: Any, rng: Random) -> tuple[Any, str]:
    """Remove, rename or replace one value of nested data.

    Returns:
        The changed copy, and a description of the change.
    """
    paths = [path for path, _ in _list_values(value) if path]
    if not paths:
        return rng.choice(VALUES), "all replaced"
    path = rng.choice(paths)
    changed = _copy(value)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    kind, name = rng.choice(("replace", "replace", "replace", "text", "remove", "rename")), ".".join(map(str, path))
    if kind == "remove":
        del parent[path[-1]]
    elif kind == "rename" and isinstance(parent, dict):
        parent[rng.choice(TEXTS[:-1])] = parent.pop(path[-1])
    else:
        parent[path[-1]] = rng.choice(TEXTS[:-1] if kind == "text" else VALUES)
        kind = f"set to {str(parent[path[-1]])[:30]!r}"
    return changed, f"{name} {kind}"


def _list_values(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    """Return the path and the value of every node of nested data."""
    nodes = [(path, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        nodes += _list_values(item, (*path, key))
    return nodes


def _copy(value: Any) -> Any:
    """Return a copy of nested data."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
