"""Parsers of audio file formats that complement libsndfile, and decoding by ffmpeg."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

STEP = 16 << 20  # bytes that are searched before their pages are released


class DecodeError(ValueError):
    """Error for a file that cannot be decoded, with a message that names the file and the reason."""


class TooLongError(DecodeError):
    """Error for an audio file that is longer than the caller accepts."""


def find_all(data: mmap.mmap | bytes, pattern: bytes) -> Iterator[int]:
    """Yield every position of a pattern in a file, without keeping the file in memory."""
    for start in range(0, len(data), STEP):
        at, end = start - 1, start + STEP + len(pattern) - 1
        while (at := data.find(pattern, at + 1, end)) >= 0:
            yield at
        release(data, start)


def release(data: mmap.mmap | bytes, start: int) -> None:
    """Release the memory of `STEP` bytes of a mapped file, which are reloaded on access."""
    if isinstance(data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") and start < len(data):
        data.madvise(mmap.MADV_DONTNEED, start - start % mmap.PAGESIZE, min(STEP, len(data) - start))
