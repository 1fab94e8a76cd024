"""Decoding by ffmpeg of formats that libsndfile does not support, such as M4A and WMA."""

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

TIMEOUT = 600  # seconds without a sample after which ffmpeg is terminated
BLOCK = 1 << 20  # samples per block, over all channels
AU_FLOAT = 6  # encoding of an AU header
# formats without an index, whose length is estimated from the bit rate
ESTIMATED = {"aac", "ac3", "eac3", "mp3", "dts", "truehd", "loas", "amr", "amrnb", "amrwb"}
# allowed demuxers; demuxers of playlists are excluded, because they open other files
CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,g722,gsm,iff,loas,matroska,webm,mlp,"
    "mov,mp4,m4a,3gp,3g2,mj2,mp3,mpc,mpc8,mpeg,mpegts,nistsphere,nut,ogg,oma,qcp,rm,sds,shorten,sox,spdif,tak,truehd,"
    "tta,voc,w64,wav,wv,xwma"
)
LOCAL = ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS]  # a playlist must not open other addresses


@dataclass
class FfmpegStream:
    """Stream of samples decoded by ffmpeg.

    Args:
        rate: Sample rate of the file, in Hz.
        seconds: Length stated in the header; None if it is missing or only an estimate.
        blocks: Mono samples, (N,) float32 each. The caller must close the generator unless it is exhausted.
    """

    rate: int
    seconds: float | None
    blocks: Generator[np.ndarray, None, None]


def open_stream(path: Path, reason: str) -> FfmpegStream:
    """Start ffmpeg on the first audio stream of a file.

    Args:
        path: The file.
        reason: Reason why libsndfile cannot decode it.

    Raises:
        DecodeError: ffmpeg is not installed or cannot read the file.
    """
    if shutil.which("ffmpeg") is None:
        raise DecodeError(f"{path}: cannot be decoded ({reason}; ffmpeg is not installed)")
    # AU output, because its header needs no length
    command = ["ffmpeg", "-v", "error", "-nostats", "-nostdin", *LOCAL, "-i", f"file:{path}",
               "-map", "0:a:0", "-f", "au", "-c:a", "pcm_f32be", "-"]  # fmt: skip
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        problem = error.strerror or error
        raise DecodeError(f"{path}: cannot be decoded ({reason}; ffmpeg does not start: {problem})") from error
    errors: list[str] = []
    drain = threading.Thread(target=_keep_first_line, args=(process.stderr, errors), daemon=True)
    drain.start()
    header = _read_bytes(path, process, 24)
    first, _, encoding, rate, channels = (int.from_bytes(header[at : at + 4], "big") for at in range(4, 24, 4))
    if len(header) < 24 or header[:4] != b".snd" or encoding != AU_FLOAT or not rate or not channels:
        _terminate(process)
        drain.join()
        problem = f": {errors[0]}" if errors else ""
        raise DecodeError(f"{path}: cannot be decoded ({reason}; ffmpeg cannot read it either{problem})")
    _read_bytes(path, process, first - len(header))  # its annotation
    return FfmpegStream(rate, stated_seconds(path), _read_blocks(path, process, channels))


def stated_seconds(path: Path) -> float | None:
    """Return the length of a file's first audio stream as stated in the header, in seconds.

    Tags and comments have no influence.

    Returns:
        The length; None if the header does not state it.
    """
    try:
        if shutil.which("ffprobe") is None:
            return _parse_printed_seconds(path)
        fields = "stream=duration:format=duration,format_name,nb_streams"
        command = ["ffprobe", "-v", "error", *LOCAL, "-select_streams", "a:0", "-show_entries", fields, "-of", "json"]
        result = subprocess.run([*command, f"file:{path}"], capture_output=True, timeout=TIMEOUT, check=True)
        info: dict[str, Any] = json.loads(result.stdout)
        container = info.get("format", {})
        if set(str(container.get("format_name", "")).split(",")) & ESTIMATED:
            return None
        if (seconds := info["streams"][0].get("duration")) is None and container.get("nb_streams") == 1:
            seconds = container.get("duration")  # for a single stream both lengths are equal
        return None if seconds is None else float(seconds)
    except (OSError, ValueError, TypeError, AttributeError, LookupError, subprocess.SubprocessError):
        return None


def _parse_printed_seconds(path: Path) -> float | None:
    """Return the length that ffmpeg prints for a file with one stream.

    The duration of the file has a smaller indentation than tags with the same name.
    """
    command = ["ffmpeg", "-hide_banner", "-nostdin", *LOCAL, "-i", f"file:{path}"]
    result = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False, stdin=subprocess.DEVNULL)
    names = re.match(rb"(?:.*\n)*?Input #0, (.*), from '", result.stderr)
    if names is None or set(names[1].decode(errors="replace").split(",")) & ESTIMATED:
        return None
    durations = re.findall(rb"^  Duration: (\d+):(\d+):([\d.]+), ", result.stderr, re.MULTILINE)
    streams = re.findall(rb"^  Stream #0:", result.stderr, re.MULTILINE)
    if len(durations) != 1 or len(streams) != 1:
        return None
    hours, minutes, seconds = (float(number) for number in durations[0])
    return 3600 * hours + 60 * minutes + seconds


def _read_blocks(path: Path, process: subprocess.Popen[bytes], channels: int) -> Generator[np.ndarray, None, None]:
    """Yield blocks of samples decoded by ffmpeg, averaged over channels."""
    step = 4 * channels * max(1, BLOCK // channels)
    try:
        while data := _read_bytes(path, process, step):
            complete = len(data) - len(data) % (4 * channels)
            block = np.frombuffer(data[:complete], ">f4").reshape(-1, channels).astype(np.float32)
            yield block.mean(axis=1, dtype=np.float32)
        if process.wait():
            raise DecodeError(f"{path}: is broken (ffmpeg could not decode it completely)")
    finally:
        _terminate(process)


def _read_bytes(path: Path, process: subprocess.Popen[bytes], count: int) -> bytes:
    """Return `count` bytes, or fewer at the end.

    Raises:
        DecodeError: The process wrote nothing for too long, and was terminated.
    """
    assert process.stdout is not None
    timed_out = threading.Event()

    def stop() -> None:
        """Kill the process after the timeout."""
        timed_out.set()
        process.kill()

    timer = threading.Timer(TIMEOUT, stop)
    timer.daemon = True
    timer.start()
    try:
        data = process.stdout.read(count)
    finally:
        timer.cancel()
    if timed_out.is_set():
        _terminate(process)
        raise DecodeError(f"{path}: cannot be decoded (ffmpeg wrote no samples for {TIMEOUT} s)")
    return data


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Terminate a process and close its output pipe."""
    process.kill()
    if process.stdout is not None:
        process.stdout.close()
    process.wait()


def _keep_first_line(pipe: IO[bytes] | None, lines: list[str]) -> None:
    """Store the first line of a pipe, and read the pipe to its end, so that the process never blocks."""
    if pipe is not None:
        with pipe:
            for line in pipe:
                text = re.sub(r"^\[[^]]*\] *", "", line.decode(errors="replace")).strip()
                if text and not lines:
                    lines.append(text)
