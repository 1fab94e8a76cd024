"""Decoding of audio files to mono float32 samples at a given rate, by soundfile, ffmpeg and soxr.

ffmpeg decodes files that soundfile cannot read, and soxr resamples. A file is decoded in blocks. Memory usage therefore
depends only on the samples that are kept, not on the length stated in the header.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from etude.audio.clip_statistics import SoundStatistics
from etude.audio.formats import DecodeError, TooLongError, ffmpeg
from etude.audio.formats.containers import Segment, SegmentFile, find_segments

if TYPE_CHECKING:
    from soundfile import SoundFile


VERSION = 1  # increased when the samples of an equal file change, so that stored results are computed again
COMPLETE = 0.95  # share of the length stated in the header; a file with less is truncated
BLOCK = 1 << 20  # samples that are read at a time, over all channels
LOWEST, HIGHEST = 1_000, 768_000  # Hz; recordings of heart sounds use 2 kHz, of ultrasound 768 kHz
LARGEST = 1e10  # largest absolute value of a sample; above any 32-bit integer, and its power is still finite
UNKNOWN = 1 << 60  # samples; libsndfile reports a larger length when the length is unknown
HEAD = 1024  # bytes that are examined to recognise files that are not audio files
Blocks = Generator[np.ndarray, None, None]


@dataclass
class _AudioStream:
    """Stream of one segment, with its rate in Hz, stated length in seconds, and blocks of mono samples (N,) float32."""

    rate: int
    seconds: float | None
    blocks: Blocks


def decode(
    path: Path, rate: int, longest: float | None = None, statistics: SoundStatistics | None = None
) -> np.ndarray:
    """Read an audio file as one channel.

    Args:
        path: Any file that libsndfile reads (wav, flac, ogg, mp3, ...), or ffmpeg if that is installed (m4a, wma, ...).
        rate: Sample rate of the result, in Hz. Files of another rate are resampled by soxr at high quality.
        longest: Maximum length, in seconds; None accepts any.
        statistics: Statistics that are updated with the samples before resampling.

    Returns:
        Samples (N,), float32, averaged over channels. The samples of concatenated files are joined.

    Raises:
        DecodeError: The file is missing, is not an audio file, is empty, is truncated, or contains NaN or infinity.
        TooLongError: The file is longer than `longest`.
    """
    blocks = list(stream(path, rate, longest, statistics))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def stream(path: Path, rate: int, longest: float | None = None, statistics: SoundStatistics | None = None) -> Blocks:
    """Yield exactly the samples that `decode` returns, in blocks (N,).

    Args:
        path: As in `decode`.
        rate: As in `decode`.
        longest: As in `decode`.
        statistics: As in `decode`.

    Raises:
        DecodeError, TooLongError: As in `decode`; they may be raised after some blocks.
    """
    import soxr

    total = native = 0
    for source in _open_streams(path):
        with closing(source.blocks):
            if not LOWEST <= source.rate <= HIGHEST:
                raise DecodeError(
                    f"{path}: has a sample rate of {source.rate:,} Hz; "
                    f"rates from {LOWEST:,} to {HIGHEST:,} Hz are supported"
                )
            _check_length(path, total / rate + (source.seconds or 0.0), longest)
            if statistics is not None:
                statistics.rate = source.rate
            resampler = None if source.rate == rate else soxr.ResampleStream(source.rate, rate, 1, dtype="float32")
            for block in source.blocks:
                _check_samples(path, block)
                native += len(block)
                if statistics is not None:
                    statistics.add(block)
                audio = block if resampler is None else resampler.resample_chunk(block)
                total += len(audio)
                _check_length(path, total / rate, longest)
                if len(audio):
                    yield audio
            if resampler is not None and len(rest := resampler.resample_chunk(np.empty(0, np.float32), last=True)):
                total += len(rest)
                yield rest
    if not total:
        detail = f" at {rate} Hz: it has {native}" if native else ""
        raise DecodeError(f"{path}: contains no samples{detail}")


def decoder_versions() -> dict[str, str | int]:
    """Return the version of the decoder and of the libraries that determine its samples."""
    import soundfile
    import soxr

    return {
        "decoder": VERSION,
        "libsndfile": soundfile.__libsndfile_version__,
        "soundfile": soundfile.__version__,
        "soxr": soxr.__version__,
    }


def _check_length(path: Path, seconds: float, longest: float | None) -> None:
    """Raise TooLongError if the length is more than `longest` seconds."""
    if longest is not None and seconds > longest:
        raise TooLongError(f"{path}: is too long ({seconds:.0f} s or more; at most {longest:g} s are accepted)")


def _check_samples(path: Path, block: np.ndarray) -> None:
    """Raise DecodeError for samples that do not give finite frames."""
    if not np.isfinite(block).all():
        raise DecodeError(f"{path}: contains NaN or infinite samples")
    if len(block) and (peak := max(float(block.max()), -float(block.min()))) > LARGEST:
        raise DecodeError(f"{path}: contains samples of {peak:.3g}, but full scale is 1")


def _open_streams(path: Path) -> Iterator[_AudioStream]:
    """Yield the stream of a file, or several if files were concatenated."""
    import soundfile

    if not path.is_file():
        raise DecodeError(f"{path}: there is no such file")
    size = path.stat().st_size
    if not size:
        raise DecodeError(f"{path}: is empty, 0 bytes")
    if reason := _why_not_audio(path):
        raise DecodeError(f"{path}: {reason}")
    segments = find_segments(path)
    for segment in segments:
        if segment.damage:
            raise DecodeError(f"{path}: is truncated: {segment.damage}")
    if not segments[0].covers(size):
        yield from _decode_segments(path, segments)
        return
    try:
        # file names may contain any bytes
        file = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path)
    except soundfile.LibsndfileError as error:
        reason = _libsndfile_reason(error)
        if "does not exist" in reason:  # libsndfile's message for a file that is not an MP3
            reason = "it contains no audio in a format that libsndfile supports"
        if segments[0].share < COMPLETE:  # ffmpeg would accept the truncated file
            raise DecodeError(f"{path}: is truncated, only {100 * segments[0].share:.0f} % of it is present") from error
        opened = ffmpeg.open_stream(path, reason)
        yield _AudioStream(opened.rate, opened.seconds, _decode_ffmpeg_blocks(path, opened))
        return
    with file:
        yield _open_stream(path, file, segments[0])


def _decode_segments(path: Path, segments: list[Segment]) -> Iterator[_AudioStream]:
    """Yield the streams of a file that libsndfile would not decode completely."""
    import soundfile

    for segment in segments:
        with SegmentFile(path, segment) as source:
            try:
                file = soundfile.SoundFile(source)
            except soundfile.LibsndfileError as error:
                joined = f"; it contains {len(segments)} concatenated files: split them" if len(segments) > 1 else ""
                raise DecodeError(
                    f"{path}: is broken ({_libsndfile_reason(error)} at byte {segment.start:,}{joined})"
                ) from error
            with file:
                yield _open_stream(path, file, segment)


def _libsndfile_reason(error: Exception) -> str:
    """Return libsndfile's message without the file name."""
    return str(error).split(": ")[-1].strip(" .")


def _open_stream(path: Path, file: SoundFile, segment: Segment) -> _AudioStream:
    """Return the stream of an opened file.

    Raises:
        DecodeError: The file is shorter than its header states, or its length is unknown.
    """
    seconds = len(file) / file.samplerate if file.samplerate >= LOWEST else 0.0
    if len(file) > UNKNOWN:
        raise DecodeError(f"{path}: is broken (its length is unknown)")
    # libsndfile reports the stated length of an MP3, and the actual length of other formats
    if file.format == "MP3":
        _check_complete(path, segment.share * seconds, seconds)
    elif seconds:
        _check_complete(path, seconds, seconds / max(segment.share, 1e-9))
    return _AudioStream(file.samplerate, seconds, _decode_blocks(path, file))


def _decode_blocks(path: Path, file: SoundFile) -> Blocks:
    """Yield samples that libsndfile decodes, averaged over channels.

    The block size includes all channels.
    """
    import soundfile

    frames, count = max(1, BLOCK // file.channels), 0
    try:
        while len(block := file.read(frames, dtype="float32", always_2d=True)):
            count += len(block)
            yield block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise DecodeError(f"{path}: is broken ({_libsndfile_reason(error)})") from error
    _check_complete(path, count / file.samplerate, len(file) / file.samplerate)


def _decode_ffmpeg_blocks(path: Path, opened: ffmpeg.FfmpegStream) -> Blocks:
    """Yield samples that ffmpeg decodes.

    Raises:
        DecodeError: There are fewer samples than the header states.
    """
    count = 0
    with closing(opened.blocks):
        for block in opened.blocks:
            count += len(block)
            yield block
    _check_complete(path, count / opened.rate, opened.seconds or 0.0)


def _check_complete(path: Path, present: float, stated: float) -> None:
    """Raise DecodeError if less than 95 % of the stated seconds are present."""
    if present < COMPLETE * stated:
        raise DecodeError(f"{path}: is truncated, only {present:.1f} s of {stated:.1f} s are present")


def _why_not_audio(path: Path) -> str:
    """Return the reason why a file is not an audio file, such as a Git LFS pointer, or "" for any other file."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"version https://git-lfs.github.com/spec"):
        return "is a Git LFS pointer and not the audio file itself; run git lfs pull to download it"
    if b"/annex/objects/" in text and len(head) < HEAD:
        return "is a git-annex pointer and not the audio file itself; run git annex get to download it"
    if text.startswith((b"<!doctype html", b"<html")) or (text.startswith(b"<?xml") and b"<html" in text):
        return "is an HTML page and not an audio file; the download address returned a web page"
    if not head.strip(b"\0") and path.stat().st_size >= HEAD:
        return "begins with zeros instead of a header; its download may be incomplete"
    return ""
