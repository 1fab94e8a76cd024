"""A sound file to mono float32 samples at a given rate: soundfile reads, ffmpeg what it cannot, soxr resamples.

A file is decoded in blocks, so that memory is that of the samples that are kept, whatever a file claims to hold.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from etude.audio.formats import DecodeError, TooLongError, ffmpeg
from etude.audio.formats.containers import Segment, SegmentFile, segments
from etude.audio.plausibility import SoundStatistics

if TYPE_CHECKING:
    from soundfile import SoundFile


WHOLE = 0.95  # share of the length that a header states; below it, the rest of the file is lost
BLOCK = 1 << 20  # samples that are read at a time, over all channels
LOWEST, HIGHEST = 1_000, 768_000  # Hz; heart sounds have 2 kHz, ultrasound 768 kHz
LARGEST = 1e10  # absolute value of a sample: 32-bit integers without a scale stay below, powers of it are finite
UNKNOWN = 1 << 60  # samples; libsndfile has no other word for a length that it does not know
HEAD = 1024  # bytes by which a file is recognised that is no sound
Blocks = Generator[np.ndarray, None, None]


@dataclass
class _Part:
    """One sound of a file: rate in Hz, stated length in seconds, and blocks of mono samples (N,) float32."""

    rate: int
    seconds: float | None
    blocks: Blocks


def decode(
    path: Path, rate: int, longest: float | None = None, statistics: SoundStatistics | None = None
) -> np.ndarray:
    """Read a sound file as one channel.

    Args:
        path: Any file that libsndfile reads (wav, flac, ogg, mp3, ...), or ffmpeg if that is installed (m4a, wma, ...).
        rate: Sample rate of the result, in Hz. Another one is resampled by soxr at high quality.
        longest: Length from which a file is refused, in seconds; None accepts any.
        statistics: Receives the samples before they are resampled.

    Returns:
        Samples (N,), float32, channels averaged. Files that were joined into one follow each other.

    Raises:
        DecodeError: The file is missing, is not sound, is empty, is cut off, or holds NaN or infinity.
        TooLongError: There is more sound in it than `longest`.
    """
    blocks = list(stream(path, rate, longest, statistics))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def stream(path: Path, rate: int, longest: float | None = None, statistics: SoundStatistics | None = None) -> Blocks:
    """Yield what `decode` returns in blocks (N,); together they are the same to the last bit.

    Args:
        path: As of `decode`.
        rate: As of `decode`.
        longest: As of `decode`.
        statistics: As of `decode`.

    Raises:
        DecodeError, TooLongError: As of `decode`; possibly after some blocks.
    """
    import soxr

    total = native = 0
    for part in _parts(path):
        with closing(part.blocks):
            if not LOWEST <= part.rate <= HIGHEST:
                raise DecodeError(
                    f"{path}: has a sample rate of {part.rate:,} Hz; rates from {LOWEST:,} to {HIGHEST:,} Hz are read"
                )
            _refuse_long(path, total / rate + (part.seconds or 0.0), longest)
            resampler = None if part.rate == rate else soxr.ResampleStream(part.rate, rate, 1, dtype="float32")
            for block in part.blocks:
                _check_samples(path, block)
                native += len(block)
                if statistics is not None:
                    statistics.add(block)
                audio = block if resampler is None else resampler.resample_chunk(block)
                total += len(audio)
                _refuse_long(path, total / rate, longest)
                if len(audio):
                    yield audio
            if resampler is not None and len(rest := resampler.resample_chunk(np.empty(0, np.float32), last=True)):
                total += len(rest)
                yield rest
    if not total:
        few = f" at {rate} Hz: it has {native}" if native else ""
        raise DecodeError(f"{path}: holds no samples{few}")


def _refuse_long(path: Path, seconds: float, longest: float | None) -> None:
    """Refuse more seconds than are accepted."""
    if longest is not None and seconds > longest:
        raise TooLongError(f"{path}: is too long ({seconds:.0f} s or more; at most {longest:g} s are accepted)")


def _check_samples(path: Path, block: np.ndarray) -> None:
    """Refuse samples that make no finite frames."""
    if not np.isfinite(block).all():
        raise DecodeError(f"{path}: holds NaN or infinite samples")
    if len(block) and (peak := max(float(block.max()), -float(block.min()))) > LARGEST:
        raise DecodeError(f"{path}: holds samples of {peak:.3g}, where 1 is full scale")


def _parts(path: Path) -> Iterator[_Part]:
    """Yield the sounds of a file; more than one where files were joined."""
    import soundfile

    if not path.is_file():
        raise DecodeError(f"{path}: there is no such file")
    size = path.stat().st_size
    if not size:
        raise DecodeError(f"{path}: is empty, 0 bytes")
    if why := _not_sound(path):
        raise DecodeError(f"{path}: {why}")
    found = segments(path)
    for segment in found:
        if segment.damage:
            raise DecodeError(f"{path}: is cut off: {segment.damage}")
    if not found[0].covers(size):
        yield from _joined(path, found)
        return
    try:
        # names may hold any bytes
        file = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path)
    except soundfile.LibsndfileError as error:
        reason = _reason(error)
        if "does not exist" in reason:  # libsndfile's message for an MP3 that is none
            reason = "it holds no sound that libsndfile knows"
        if found[0].share < WHOLE:  # ffmpeg would read what is there
            raise DecodeError(f"{path}: is cut off, {100 * found[0].share:.0f} % of it are there") from error
        opened = ffmpeg.open_stream(path, reason)
        yield _Part(opened.rate, opened.seconds, _complete(path, opened))
        return
    with file:
        yield _part(path, file, found[0])


def _joined(path: Path, found: list[Segment]) -> Iterator[_Part]:
    """Yield the sounds of a file that libsndfile would not read to its end."""
    import soundfile

    for segment in found:
        with SegmentFile(path, segment) as source:
            try:
                file = soundfile.SoundFile(source)
            except soundfile.LibsndfileError as error:
                where = f"; it holds {len(found)} joined files: use them one by one" if len(found) > 1 else ""
                raise DecodeError(f"{path}: is broken ({_reason(error)} at byte {segment.start:,}{where})") from error
            with file:
                yield _part(path, file, segment)


def _reason(error: Exception) -> str:
    """Return a message of libsndfile without the file's name."""
    return str(error).split(": ")[-1].strip(" .")


def _part(path: Path, file: SoundFile, segment: Segment) -> _Part:
    """Return an opened sound as a part, unless its header says more than is there."""
    seconds = len(file) / file.samplerate if file.samplerate >= LOWEST else 0.0
    if len(file) > UNKNOWN:
        raise DecodeError(f"{path}: is broken (its length is not known)")
    # libsndfile takes what an MP3 states for its length, and of a container what it finds
    if file.format == "MP3":
        _refuse_cut(path, segment.share * seconds, seconds)
    elif seconds:
        _refuse_cut(path, seconds, seconds / max(segment.share, 1e-9))
    return _Part(file.samplerate, seconds, _blocks(path, file))


def _blocks(path: Path, file: SoundFile) -> Blocks:
    """Yield the samples of a file that libsndfile reads, channels averaged; blocks are small if there are many."""
    import soundfile

    frames, count = max(1, BLOCK // file.channels), 0
    try:
        while len(block := file.read(frames, dtype="float32", always_2d=True)):
            count += len(block)
            yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise DecodeError(f"{path}: is broken ({_reason(error)})") from error
    _refuse_cut(path, count / file.samplerate, len(file) / file.samplerate)


def _complete(path: Path, opened: ffmpeg.FfmpegStream) -> Blocks:
    """Yield the samples that ffmpeg decodes, and refuse fewer than the header states."""
    count = 0
    with closing(opened.blocks):
        for block in opened.blocks:
            count += len(block)
            yield block
    _refuse_cut(path, count / opened.rate, opened.seconds or 0.0)


def _refuse_cut(path: Path, there: float, stated: float) -> None:
    """Refuse a file that has lost its end; seconds that it has, and that it should have."""
    if there < WHOLE * stated:
        raise DecodeError(f"{path}: is cut off, {there:.1f} s of {stated:.1f} s are there")


def _not_sound(path: Path) -> str:
    """Return what a file is that stands in the place of a sound; "" for any other."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"version https://git-lfs.github.com/spec"):
        return "is a pointer of Git LFS and not the sound itself; git lfs pull fetches it"
    if b"/annex/objects/" in text and len(head) < HEAD:
        return "is a pointer of git-annex and not the sound itself; git annex get fetches it"
    if text.startswith((b"<!doctype html", b"<html")) or (text.startswith(b"<?xml") and b"<html" in text):
        return "is an HTML page and no sound; the address that it was downloaded from answered with a page"
    if not head.strip(b"\0") and path.stat().st_size >= HEAD:
        return "begins with zeros instead of a header; its download may not be complete"
    return ""
