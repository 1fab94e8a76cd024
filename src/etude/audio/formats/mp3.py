"""Counting of MP3 frames to determine the actual length of files and to detect concatenated files.

An MP3 file has no file header. libsndfile reads the number of frames from a Xing header in the first frame, or else
estimates the length from the first bit rate, and stops there. The estimate can be wrong, and in concatenated files the
Xing header is wrong. Therefore the frames are counted here. A Xing header with the count is prepended where the length
would be wrong.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field

from etude.audio.formats import STEP, find_all, release

LAYER_3 = 0x02  # bits 1 and 2 of the second byte
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz, by version: 1, 2, 2.5
BIT_RATES = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # kbit/s; the key is whether the version is 1
FEWEST = 8  # minimum frames of a run; fewer may be other bytes that resemble frames
JUNK = 1024  # maximum bytes between frames that a decoder skips
TRIES = 1 << 18  # maximum failed attempts to find a frame in a file
MARGIN = 0.02  # accepted relative difference between the count and a decoder's estimate


def _frame_lengths() -> dict[int, int]:
    """Return a mapping from the second and third byte of a frame to its length in bytes."""
    table = {}
    for key in range(0xE000, 0x10000):
        version, rate, bits = key >> 11 & 3, key >> 2 & 3, key >> 4 & 15
        if key >> 9 & 3 == LAYER_3 >> 1 and version != 1 and rate != 3 and 0 < bits < 15:
            coefficient = 144_000 if version == 3 else 72_000
            table[key] = coefficient * BIT_RATES[version == 3][bits] // RATES[version][rate] + (key >> 1 & 1)
    return table


LENGTHS = _frame_lengths()


@dataclass
class FrameRun:
    """Consecutive frames of one version, rate and number of channels.

    Args:
        start: First byte.
        end: Byte after the last.
        first: The first four bytes.
        frames: Number of frames, not counting the Xing header.
        stated: Number of frames that a Xing header states; None without one.
        kinds: Distinct third header bytes, ignoring the padding and private bits; more than one means a variable bit
            rate.
        header: Xing header to prepend; b"" if decoders determine the length correctly.
    """

    start: int
    end: int
    first: bytes
    frames: int = 0
    stated: int | None = None
    kinds: set[int] = field(default_factory=set)
    header: bytes = b""

    @property
    def share(self) -> float:
        """Share of the stated frames that are present, in [0, 1]."""
        return min(1.0, self.frames / self.stated) if self.stated else 1.0


def find_repaired_runs(data: mmap.mmap | bytes) -> list[FrameRun]:
    """Return the runs of frames in a file. A run gets a Xing header if decoders would estimate its length wrongly.

    Args:
        data: Content of the file.

    Returns:
        At least one run; a single run from the first to the last byte if there is nothing to repair.
    """
    runs = find_runs(data)
    for run in runs:
        slack = len(data) - run.end if len(runs) == 1 else 0  # tags after the frames are included in the estimate
        if run.stated is None:
            wrong = len(run.kinds) > 1 or slack > MARGIN * (run.end - run.start)
        else:
            wrong = run.frames > (1 + MARGIN) * run.stated + FEWEST
        if wrong:
            run.header = xing_frame(run.first, run.frames + (run.stated is not None), run.end - run.start)
    if (len(runs) == 1 and not runs[0].header) or not runs:
        complete = runs[0] if runs else FrameRun(0, 0, b"")
        complete.start, complete.end = 0, len(data)
        return [complete]
    return runs


def find_runs(data: mmap.mmap | bytes) -> list[FrameRun]:
    """Return the runs of Layer III frames in a file, without runs of very few frames."""
    stated_counts = _find_stated_counts(data)
    runs: list[FrameRun] = []
    at = end = seen = tries = 0
    while at + 4 <= len(data) and tries < TRIES:
        length = LENGTHS.get(data[at + 1] << 8 | data[at + 2], 0) if data[at] == 0xFF else 0
        if not length:
            end = end if data[at : at + 3] != b"ID3" else -JUNK - 1  # another file begins after a tag
            at = _next_frame_start(data, at)
            tries += 1
            continue
        first = data[at : at + 4]
        if not runs or at in stated_counts or at - end > JUNK or _frame_format(first) != _frame_format(runs[-1].first):
            if not _is_followed_by_frame(data, at, length):  # bytes that resemble a frame
                at += 1
                tries += 1
                continue
            runs.append(FrameRun(at, at, first, stated=stated_counts.get(at)))
            runs[-1].frames -= at in stated_counts
        run = runs[-1]
        run.frames += at + length <= len(data)
        run.kinds.add(first[2] & 0xFC)
        at = end = min(at + length, len(data))
        run.end = end
        if at - seen > STEP:
            release(data, seen)
            seen += STEP
    return [run for run in runs if run.frames >= FEWEST]


def xing_frame(first: bytes, frames: int, size: int) -> bytes:
    """Return a frame with a Xing header.

    Args:
        first: The first four bytes of a frame of the file.
        frames: Number of frames that follow.
        size: Number of bytes of these frames.
    """
    head = bytes([0xFF, first[1] | 1, 0x50 | first[2] & 0x0C, first[3]])  # no checksum, and space for the count
    length = LENGTHS[head[1] << 8 | head[2]]
    numbers = (0b11, frames, size + length)  # flags of the fields, and both fields
    body = (
        head
        + bytes(_side_information_size(first))
        + b"Xing"
        + b"".join(number.to_bytes(4, "big") for number in numbers)
    )
    return body.ljust(length, b"\0")


def _frame_format(first: bytes) -> tuple[int, int, bool]:
    """Return the version, the rate, and whether a frame is mono."""
    return first[1] & 0x18, first[2] & 0x0C, first[3] >> 6 == 3


def _side_information_size(first: bytes) -> int:
    """Return the number of bytes of side information between the frame header and a Xing header."""
    version_1, mono = first[1] & 0x18 == 0x18, first[3] >> 6 == 3
    return {(True, True): 17, (True, False): 32, (False, True): 9, (False, False): 17}[version_1, mono]


def _find_stated_counts(data: mmap.mmap | bytes) -> dict[int, int | None]:
    """Return the number of frames stated in each Xing, Info or VBRI header, by the position of its frame."""
    counts: dict[int, int | None] = {}
    for name in (b"Xing", b"Info", b"VBRI"):
        for at in find_all(data, name):
            for side in (32,) if name == b"VBRI" else (32, 17, 9):
                first = data[max(0, at - 4 - side) : at - side]
                if len(first) == 4 and first[0] == 0xFF and first[1] << 8 | first[2] in LENGTHS:
                    if name == b"VBRI":
                        counts[at - 36] = int.from_bytes(data[at + 14 : at + 18], "big")
                    elif _side_information_size(first) == side:
                        counted = data[at + 7 : at + 8] != b"" and data[at + 7] & 1
                        counts[at - 4 - side] = int.from_bytes(data[at + 8 : at + 12], "big") if counted else None
    return counts


def _next_frame_start(data: mmap.mmap | bytes, at: int) -> int:
    """Return the position of the next byte at which a frame may begin. Tags are skipped."""
    if data[at : at + 3] == b"ID3" and at + 10 <= len(data):
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        return at + 10 + size + (10 if data[at + 5] & 0x10 else 0)
    if data[at : at + 3] == b"TAG":
        return at + 128
    after = data.find(b"\xff", at + 1)
    after = len(data) if after < 0 else after
    tags = (data.find(name, at + 1, after) for name in (b"ID3", b"TAG"))
    return min((tag for tag in tags if tag >= 0), default=after)


def _is_followed_by_frame(data: mmap.mmap | bytes, at: int, length: int) -> bool:
    """Return whether a frame is followed by a frame of the same format, or by the end of the file."""
    after = at + length
    if after + 4 > len(data):
        return True
    other = data[after : after + 4]
    same_format = (
        other[0] == 0xFF
        and other[1] << 8 | other[2] in LENGTHS
        and _frame_format(other) == _frame_format(data[at : at + 4])
    )
    return same_format or other[:3] in (b"TAG", b"ID3", b"APE")
