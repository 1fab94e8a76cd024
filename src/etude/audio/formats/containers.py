"""Detection of truncated and concatenated WAV, AIFF, AU, CAF, W64, FLAC and Ogg files by their headers.

libsndfile decodes the samples that are present. It does not report if the header states more samples than are present,
or if another file follows the first one, as after concatenation with cat.

libsndfile cannot decode a FLAC file of unknown length completely. The length of such a file is computed from the header
of its last frame and written into a repaired header.
"""

from __future__ import annotations

import io
import mmap
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.audio.formats import STEP, find_all, mp3, release

FIRST_FRAMES = 26  # bytes of a FLAC file up to the end of the number of samples
COUNT = slice(21, 26)  # bytes whose last 36 bits are the number of samples
REACH = 1 << 20  # bytes before the end that contain the start of the last frame
# samples of a frame by code; for codes 6 and 7 the number follows the header
SIZES = {
    1: 192,
    **{code: 576 << (code - 2) for code in range(2, 6)},
    **{code: 256 << (code - 8) for code in range(8, 16)},
}


def repaired_header(data: mmap.mmap | bytes, start: int, end: int) -> bytes:
    """Return the first bytes of a FLAC file with its length in samples.

    Args:
        data: Content of the file.
        start: First byte of the FLAC file.
        end: Byte after the last.

    Returns:
        `FIRST_FRAMES` bytes that replace those at `start`; b"" if the length is stated or cannot be determined.
    """
    header = bytearray(data[start : start + FIRST_FRAMES])
    if len(header) < FIRST_FRAMES or header[COUNT][0] & 0x0F or any(header[COUNT][1:]):
        return b""
    fixed = int.from_bytes(header[10:12], "big")  # samples of a frame, if constant
    at = end
    while (at := data.rfind(b"\xff", max(start, end - REACH), at)) >= 0:
        if samples := _next_sample_index(data[at : at + 16], fixed):
            header[COUNT] = (int.from_bytes(header[COUNT], "big") | samples).to_bytes(5, "big")
            return bytes(header)
    return b""


def _next_sample_index(head: bytes, fixed: int) -> int:
    """Return the index of the sample after a frame, or 0 if `head` is not a frame header."""
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
    """Return the CRC-8 checksum of a header, with polynomial x^8 + x^2 + x + 1."""
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ (0x07 if value & 0x80 else 0)) & 0xFF
    return value


Content = mmap.mmap | bytes
MAPPED = 32 << 20  # bytes above which a file is mapped instead of read
FLAC_START = b"fLaC\x00\x00\x00\x22"  # the marker, and the header of the first block
BOS, EOS = 0x02, 0x04  # flags of an Ogg page: first and last of a stream
W64_RIFF, W64_DATA = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb", b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0"


@dataclass(frozen=True)
class Segment:
    """Segment of a file that is a complete audio file by itself.

    Args:
        start: First byte.
        end: Byte after the last.
        header: Repaired header to prepend.
        share: Share of the stated length that is present, in [0, 1].
        damage: Reason why the segment is incomplete; "" if no damage was detected.
    """

    start: int
    end: int
    header: bytes = b""
    share: float = 1.0
    damage: str = ""

    def covers(self, size: int) -> bool:
        """Return whether the segment is the complete file of `size` bytes, without a new header."""
        return not self.header and self.start == 0 and self.end == size


class SegmentFile(io.RawIOBase):
    """Readable and seekable file object of one segment of a file.

    Args:
        path: The file.
        segment: Segment of the file.
    """

    def __init__(self, path: Path, segment: Segment) -> None:
        self._file, self._segment, self._at = path.open("rb"), segment, 0
        self._size = len(segment.header) + segment.end - segment.start

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer and return the number of bytes."""
        view, header = memoryview(buffer).cast("B"), self._segment.header
        count = max(0, min(len(view), self._size - self._at))
        first = header[self._at : self._at + count]
        view[: len(first)] = first
        if count > len(first):
            self._file.seek(self._segment.start + self._at + len(first) - len(header))
            count = len(first) + self._file.readinto(view[len(first) : count])  # type: ignore[attr-defined]
        self._at += count
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def find_segments(path: Path) -> list[Segment]:
    """Return the segments of a file, several if files were concatenated.

    Args:
        path: The file; it must not be empty.

    Returns:
        At least one segment; an ordinary file is a single segment that covers it.
    """
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        data: Content = file.read(MAPPED + 1)
        # only large files are mapped, because truncation of a mapped file by another program crashes the process
        if len(data) > MAPPED:
            data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if data[:3] == b"ID3" or (data[0] == 0xFF and data[1:2] >= b"\xe0"):
            return [Segment(run.start, run.end, run.header, run.share) for run in mp3.find_repaired_runs(data)]
        if data[:4] == b"OggS":
            return _find_ogg_segments(data)
        if data[:4] == b"fLaC":
            return _find_flac_segments(data)
        if data[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
            return _find_riff_segments(data)
        return [Segment(0, len(data), share=_present_share(data))]


def _find_riff_segments(data: Content) -> list[Segment]:
    """Return the segments of a WAV or AIFF file."""
    segments: list[Segment] = []
    start = 0
    while True:
        order: Any = "little" if data[start : start + 4] in (b"RIFF", b"RF64") else "big"
        size = int.from_bytes(data[start + 4 : start + 8], order)
        if data[start : start + 4] == b"RF64" and data[start + 12 : start + 16] == b"ds64":
            size = int.from_bytes(data[start + 20 : start + 28], order)
        end = start + 8 + size + size % 2
        following = data[end : end + 4] + data[end + 8 : end + 12]
        if following not in (b"RIFFWAVE", b"RIFXWAVE", b"RF64WAVE", b"FORMAIFF", b"FORMAIFC"):
            return [*segments, _last_riff_segment(data, start, order)]
        segments.append(Segment(start, end))
        start = end


def _last_riff_segment(data: Content, start: int, order: Any) -> Segment:
    """Return the last segment of a WAV or AIFF file, with a repaired header if its sizes were never written."""
    at, long = start + 12, 0
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], order)
        if name == b"ds64":
            long = int.from_bytes(data[at + 16 : at + 24], order)
        if name in (b"data", b"SSND"):
            present = len(data) - at - 8
            stated = long if size == 0xFFFFFFFF and long else size
            if name == b"data" and not size and present and not _only_chunks(data, at + 8, order):
                # the writing program ended before it wrote the sizes
                sizes = [min(number, 0xFFFFFFFF) for number in (len(data) - start - 8, present)]
                riff, body = (number.to_bytes(4, order) for number in sizes)
                header = data[start : start + 4] + riff + data[start + 8 : at + 4] + body
                return Segment(at + 8, len(data), header)
            share = 1.0 if not stated or _is_unknown_size(stated) else min(1.0, present / stated)
            return Segment(start, len(data), share=share)
        at += 8 + size + size % 2
    return Segment(start, len(data))


def _is_unknown_size(size: int) -> bool:
    """Return whether a size means unknown, as in files written to a pipe.

    sox writes 0x7FFFF000, arecord 0x80000000, ffmpeg 0xFFFFFFFF; some programs subtract the size of the header.
    """
    return any(top - 0x1200 <= size <= top for top in (0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF))


def _only_chunks(data: Content, at: int, order: Any) -> bool:
    """Return whether the rest of a file consists of complete chunks. Otherwise it is samples without a stated size."""
    while at + 8 <= len(data) and data[at : at + 4].isalnum():
        size = int.from_bytes(data[at + 4 : at + 8], order)
        at += 8 + size + size % 2
    return at in (len(data), len(data) + 1)


def _present_share(data: Content) -> float:
    """Return the share of the stated size that is present in an AU, W64 or CAF file, or 1 for other formats."""
    if data[:4] in (b".snd", b"dns."):
        order: Any = "big" if data[:4] == b".snd" else "little"
        first, stated = (int.from_bytes(data[at : at + 4], order) for at in (4, 8))
    elif data[:12] == W64_RIFF:
        if (at := data.find(W64_DATA, 0, 1 << 20)) < 0:
            return 1.0
        first, stated = at + 24, int.from_bytes(data[at + 16 : at + 24], "little") - 24
    elif data[:4] == b"caff":
        at = 8
        while data[at : at + 4] not in (b"data", b""):
            at += 12 + int.from_bytes(data[at + 4 : at + 12], "big")
        first, stated = at + 12, int.from_bytes(data[at + 4 : at + 12], "big")
    else:
        return 1.0
    return 1.0 if stated <= 0 or _is_unknown_size(stated) else min(1.0, max(0, len(data) - first) / stated)


def _find_flac_segments(data: Content) -> list[Segment]:
    """Return the segments of a FLAC file."""
    starts = [0, *(at for at in find_all(data, FLAC_START) if at)]
    segments = []
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        header = repaired_header(data, start, end)
        segments.append(Segment(start + len(header), end, header))
    return segments


def _find_ogg_segments(data: Content) -> list[Segment]:
    """Return the segments of an Ogg file.

    A new segment begins where new streams start after the data of earlier streams.
    """
    segments: list[Segment] = []
    start = at = seen = 0
    ended, begun = False, False

    def close(end: int, damage: str = "") -> None:
        """Append the current segment."""
        damage = damage or ("" if ended else "its end-of-stream flag is missing")
        segments.append(Segment(start, end, damage=damage))

    while (at := data.find(b"OggS", at)) >= 0:
        flags, count = data[at + 5 : at + 6], data[at + 26 : at + 27]
        table = data[at + 27 : at + 27 + count[0]] if count else b""
        if not count or len(table) < count[0] or at + 27 + len(table) + sum(table) > len(data):
            close(len(data), "its last page is incomplete")
            return segments
        if flags[0] & BOS and begun:
            close(at)
            start, ended, begun = at, False, False
        begun, ended = begun or not flags[0] & BOS, ended or bool(flags[0] & EOS)
        at += 27 + len(table) + sum(table)
        if at - seen > STEP:
            release(data, seen)
            seen += STEP
    close(len(data))
    return segments
