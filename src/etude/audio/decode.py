"""A sound file to mono float32 samples at the asked rate: soundfile reads, ffmpeg what it cannot, soxr resamples."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np

WHOLE = 0.95  # share of the length that a header states; below it, the rest of the file is lost
BLOCK = 1 << 20  # samples that are read at a time
PATIENCE = 600  # seconds that ffmpeg gets for one file
# demuxers that ffmpeg may use: none that opens other files, as those of playlists do, whatever a file begins with
CONTAINERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,g722,gsm,iff,loas,matroska,webm,mlp,"
    "mov,mp4,m4a,3gp,3g2,mj2,mp3,mpc,mpc8,mpeg,mpegts,nistsphere,nut,ogg,oma,qcp,rm,sds,shorten,sox,spdif,tak,truehd,"
    "tta,voc,w64,wav,wv,xwma"
)


class DecodeError(ValueError):
    """A file that gives no usable sound; the message names it and says what was wrong."""


def decode(path: Path, rate: int) -> np.ndarray:
    """Read a sound file as one channel.

    Args:
        path: Any file that libsndfile reads (wav, flac, ogg, mp3, ...), or ffmpeg if that is installed (m4a, wma, ...).
        rate: Sample rate of the result, in Hz. Another one is resampled by soxr at high quality.

    Returns:
        Samples (N,), float32, channels averaged.

    Raises:
        DecodeError: The file is missing, is not sound, is empty, is cut off, or holds NaN or infinity.
    """
    import soxr

    if not path.is_file():
        raise DecodeError(f"{path}: there is no such file")
    if not path.stat().st_size:
        raise DecodeError(f"{path}: is empty, 0 bytes")
    audio, native = _read(path)
    if not len(audio):
        raise DecodeError(f"{path}: holds no samples")
    if not np.isfinite(audio).all():
        raise DecodeError(f"{path}: holds NaN or infinite samples")
    return audio if native == rate else soxr.resample(audio, native, rate)


def _read(path: Path) -> tuple[np.ndarray, int]:
    """Mono samples (N,) at the file's own rate, and that rate in Hz."""
    import soundfile

    try:
        file = soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else path)  # names may hold any bytes
    except soundfile.LibsndfileError as error:
        reason = str(error).split(": ")[-1].strip(" .")
        if "does not exist" in reason:  # libsndfile's word for an MP3 that is none
            reason = "it holds no sound that libsndfile knows"
        return _ffmpeg(path, reason)
    with file:
        try:
            blocks = []  # all channels of a long file at once would be most of the memory that it takes
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                blocks.append(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32))
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise DecodeError(f"{path}: is broken ({str(error).split(': ')[-1].strip(' .')})") from error
        audio = blocks[0] if len(blocks) == 1 else np.concatenate(blocks) if blocks else np.empty(0, np.float32)
        _whole(path, len(audio) / file.samplerate, len(file) / file.samplerate / _there(path))
        return audio, file.samplerate


def _whole(path: Path, there: float, stated: float) -> None:
    """Refuse a file that has lost its end; seconds that it has, and that it should have."""
    if there < WHOLE * stated:
        raise DecodeError(f"{path}: is cut off, {there:.1f} s of {stated:.1f} s are there")


def _there(path: Path) -> float:
    """Share of a WAV or AIFF file that is there, by the size in its header; libsndfile reads what it finds."""
    with path.open("rb") as file:
        head = file.read(8)
    order = {b"RIFF": "little", b"FORM": "big"}.get(head[:4])
    size = int.from_bytes(head[4:], "little" if order == "little" else "big") + 8
    if order is None or not 8 < size < 0xFFFFFF00:  # of a stream the size is not known
        return 1.0
    return min(1.0, path.stat().st_size / size)


def _ffmpeg(path: Path, reason: str) -> tuple[np.ndarray, int]:
    """What libsndfile cannot read for some reason, through ffmpeg."""
    import soundfile

    if shutil.which("ffmpeg") is None:
        raise DecodeError(f"{path}: cannot be decoded ({reason}; ffmpeg is not installed)")
    # of the protocols only files: a playlist must not fetch anything. AU: a header that needs no length
    command = ["ffmpeg", "-hide_banner", "-nostats", "-nostdin", "-protocol_whitelist", "file",
               "-format_whitelist", CONTAINERS, "-i", f"file:{path}",
               "-map", "0:a:0", "-f", "au", "-c:a", "pcm_f32be", "-"]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True, stdin=subprocess.DEVNULL)
        audio, native = soundfile.read(io.BytesIO(done.stdout), dtype="float32", always_2d=True)
    except subprocess.TimeoutExpired as error:
        raise DecodeError(f"{path}: cannot be decoded (ffmpeg was not done after {PATIENCE} s)") from error
    except (subprocess.CalledProcessError, soundfile.LibsndfileError) as error:
        raise DecodeError(f"{path}: cannot be decoded ({reason}; nor does ffmpeg know it)") from error
    said = re.search(rb"Duration: (\d+):(\d+):([\d.]+)", done.stderr)
    if said and native:
        hours, minutes, seconds = (float(part) for part in said.groups())
        _whole(path, len(audio) / native, 3600 * hours + 60 * minutes + seconds)
    return audio.mean(axis=1, dtype=np.float32), native
