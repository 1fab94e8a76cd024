"""Decoding by ffmpeg of what libsndfile cannot read, such as M4A and WMA."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from etude.audio.formats import DecodeError

PATIENCE = 600  # seconds without a sample after which ffmpeg is ended
BLOCK = 1 << 20  # samples that are read at a time, over all channels
AU_FLOAT = 6  # encoding of an AU header
# formats without a table of contents: of these the length is an estimate from the bit rate
ESTIMATED = {"aac", "ac3", "eac3", "mp3", "dts", "truehd", "loas", "amr", "amrnb", "amrwb"}
# demuxers that ffmpeg may use: none that opens other files, as those of playlists do, whatever a file begins with
CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,g722,gsm,iff,loas,matroska,webm,mlp,"
    "mov,mp4,m4a,3gp,3g2,mj2,mp3,mpc,mpc8,mpeg,mpegts,nistsphere,nut,ogg,oma,qcp,rm,sds,shorten,sox,spdif,tak,truehd,"
    "tta,voc,w64,wav,wv,xwma"
)
LOCAL = ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS]  # a playlist must not fetch anything


@dataclass
class FfmpegStream:
    """Sound that ffmpeg decodes.

    Args:
        rate: Sample rate of the file, in Hz.
        seconds: Length by its header; None where there is none, or an estimate.
        blocks: Samples of one channel, (N,) float32 each. The caller must close it unless it is exhausted.
    """

    rate: int
    seconds: float | None
    blocks: Generator[np.ndarray, None, None]


def open_stream(path: Path, reason: str) -> FfmpegStream:
    """Start ffmpeg on the first audio stream of a file.

    Args:
        path: The file.
        reason: Why libsndfile cannot read it.

    Raises:
        DecodeError: ffmpeg is not installed or cannot read the file.
    """
    if shutil.which("ffmpeg") is None:
        raise DecodeError(f"{path}: cannot be decoded ({reason}; ffmpeg is not installed)")
    # AU: a header that needs no length
    command = ["ffmpeg", "-v", "error", "-nostats", "-nostdin", *LOCAL, "-i", f"file:{path}",
               "-map", "0:a:0", "-f", "au", "-c:a", "pcm_f32be", "-"]  # fmt: skip
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        why = error.strerror or error
        raise DecodeError(f"{path}: cannot be decoded ({reason}; ffmpeg does not start: {why})") from error
    errors: list[str] = []
    drain = threading.Thread(target=_keep_first_line, args=(process.stderr, errors), daemon=True)
    drain.start()
    header = _read(path, process, 24)
    first, _, encoding, rate, channels = (int.from_bytes(header[at : at + 4], "big") for at in range(4, 24, 4))
    if len(header) < 24 or header[:4] != b".snd" or encoding != AU_FLOAT or not rate or not channels:
        _end(process)
        drain.join()
        why = f": {errors[0]}" if errors else ""
        raise DecodeError(f"{path}: cannot be decoded ({reason}; ffmpeg cannot read it either{why})")
    _read(path, process, first - len(header))  # its annotation
    return FfmpegStream(rate, stated_seconds(path), _blocks(path, process, channels))


def stated_seconds(path: Path) -> float | None:
    """Return the length of the first audio stream by the header of a file, in seconds.

    Text that people may have written, such as a comment, has no influence.

    Returns:
        The length; None where the file has no table that it could be read from.
    """
    try:
        if shutil.which("ffprobe") is None:
            return _printed_seconds(path)
        fields = "stream=duration:format=duration,format_name,nb_streams"
        command = ["ffprobe", "-v", "error", *LOCAL, "-select_streams", "a:0", "-show_entries", fields, "-of", "json"]
        done = subprocess.run([*command, f"file:{path}"], capture_output=True, timeout=PATIENCE, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        whole = found.get("format", {})
        if set(str(whole.get("format_name", "")).split(",")) & ESTIMATED:
            return None
        if (seconds := found["streams"][0].get("duration")) is None and whole.get("nb_streams") == 1:
            seconds = whole.get("duration")  # with a single stream both are one
        return None if seconds is None else float(seconds)
    except (OSError, ValueError, TypeError, AttributeError, LookupError, subprocess.SubprocessError):
        return None


def _printed_seconds(path: Path) -> float | None:
    """Return the length that ffmpeg prints of a file with one stream; tags are indented further than its own line."""
    command = ["ffmpeg", "-hide_banner", "-nostdin", *LOCAL, "-i", f"file:{path}"]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL)
    kind = re.match(rb"(?:.*\n)*?Input #0, (.*), from '", done.stderr)
    if kind is None or set(kind[1].decode(errors="replace").split(",")) & ESTIMATED:
        return None
    found = re.findall(rb"^  Duration: (\d+):(\d+):([\d.]+), ", done.stderr, re.MULTILINE)
    streams = re.findall(rb"^  Stream #0:", done.stderr, re.MULTILINE)
    if len(found) != 1 or len(streams) != 1:
        return None
    hours, minutes, seconds = (float(part) for part in found[0])
    return 3600 * hours + 60 * minutes + seconds


def _blocks(path: Path, process: subprocess.Popen[bytes], channels: int) -> Generator[np.ndarray, None, None]:
    """Yield samples as ffmpeg decodes them, channels averaged."""
    step = 4 * channels * max(1, BLOCK // channels)
    try:
        while data := _read(path, process, step):
            whole = len(data) - len(data) % (4 * channels)
            block = np.frombuffer(data[:whole], ">f4").reshape(-1, channels).astype(np.float32)
            yield block.mean(axis=1, dtype=np.float32)
        if process.wait():
            raise DecodeError(f"{path}: is broken (ffmpeg could not decode all of it)")
    finally:
        _end(process)


def _read(path: Path, process: subprocess.Popen[bytes], count: int) -> bytes:
    """Return so many bytes, or fewer at the end; end a process that gives nothing for too long."""
    assert process.stdout is not None
    stuck = threading.Event()

    def stop() -> None:
        stuck.set()
        process.kill()

    timer = threading.Timer(PATIENCE, stop)
    timer.daemon = True
    timer.start()
    try:
        data = process.stdout.read(count)
    finally:
        timer.cancel()
    if stuck.is_set():
        _end(process)
        raise DecodeError(f"{path}: cannot be decoded (ffmpeg gave nothing for {PATIENCE} s)")
    return data


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and let go of its pipes."""
    process.kill()
    if process.stdout is not None:
        process.stdout.close()
    process.wait()


def _keep_first_line(pipe: IO[bytes] | None, lines: list[str]) -> None:
    """Read a pipe to its end, so that the process never waits for a reader."""
    if pipe is not None:
        with pipe:
            for line in pipe:
                text = re.sub(r"^\[[^]]*\] *", "", line.decode(errors="replace")).strip()
                if text and not lines:
                    lines.append(text)
