"""FLAC files of unknown length, as programs write them that cannot seek back to their header.

libsndfile cannot read them to their end. The number in the header of the last frame gives the length, which goes into a
repaired header.
"""

from __future__ import annotations

import mmap

FIRST_FRAMES = 26  # bytes of a file up to the end of the count of samples
COUNT = slice(21, 26)  # bytes of which the last 36 bits are the count
REACH = 1 << 20  # bytes before the end in which the last frame begins
# samples of a frame by its code; of 6 and 7 they follow
SIZES = {
    1: 192,
    **{code: 576 << (code - 2) for code in range(2, 6)},
    **{code: 256 << (code - 8) for code in range(8, 16)},
}


def repaired_header(data: mmap.mmap | bytes, start: int, end: int) -> bytes:
    """Return the first bytes of a FLAC file with its length in samples.

    Args:
        data: Content of the file.
        start: Where the sound begins.
        end: Where it ends.

    Returns:
        `FIRST_FRAMES` bytes for the place of those at `start`; b"" where the length is known, or cannot be found.
    """
    header = bytearray(data[start : start + FIRST_FRAMES])
    if len(header) < FIRST_FRAMES or header[COUNT][0] & 0x0F or any(header[COUNT][1:]):
        return b""
    fixed = int.from_bytes(header[10:12], "big")  # samples of a frame, where all have as many
    at = end
    while (at := data.rfind(b"\xff", max(start, end - REACH), at)) >= 0:
        if samples := _end_of_frame(data[at : at + 16], fixed):
            header[COUNT] = (int.from_bytes(header[COUNT], "big") | samples).to_bytes(5, "big")
            return bytes(header)
    return b""


def _end_of_frame(head: bytes, fixed: int) -> int:
    """Return the number of the sample after a frame; 0 for what is no header of a frame."""
    if len(head) < 6 or head[1] & 0xFE != 0xF8 or head[3] & 1 or head[3] >> 4 > 10:
        return 0
    code, rate = head[2] >> 4, head[2] & 0x0F
    ones = next((bit for bit in range(8) if not head[4] >> (7 - bit) & 1), 8)  # as in UTF-8, up to seven bytes
    length = max(1, ones)
    if ones in (1, 8) or code == 0 or rate == 15:
        return 0
    number = head[4] & (0x7F >> ones if ones else 0x7F)
    for byte in head[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    at = 4 + length
    more = {6: 1, 7: 2}.get(code, 0)
    size = int.from_bytes(head[at : at + more], "big") + 1 if more else SIZES[code]
    at += more + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if at >= len(head) or _crc8(head[:at]) != head[at]:
        return 0
    return (number if head[1] & 1 else number * fixed) + size


def _crc8(data: bytes) -> int:
    """Return the checksum of a header: polynomial x^8 + x^2 + x + 1."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ (0x07 if value & 0x80 else 0)) & 0xFF
    return value
