"""What a page has of a file: its spectrogram as a picture, and its sound small enough for a page."""

from __future__ import annotations

import base64
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from etude.audio.front import Front

SPAN, MEAN = 300.0, 8  # a sound of more seconds is drawn by spans of them, as means over so many frames
COLUMNS, RANGE = 900, 80.0  # of a picture; dB below the file's loudest value
LONGEST, COPIED = 600, 1_500_000  # seconds of a sound that are kept; bytes of one that is kept as it is


@dataclass
class Shown:
    """Picture and sound of a file.

    Args:
        picture: As a data URI.
        sound: As a data URI; empty where there is none.
        heard: Seconds of the sound.
        why: Why something is not there.
    """

    picture: str = ""
    sound: str = ""
    heard: float = 0.0
    why: str = ""


def shown(job: tuple[Path, Front]) -> Shown:
    """Make both; what cannot be made is left out."""
    from etude.audio.excerpt import excerpt

    path, front = job
    made = Shown()
    try:
        made.picture = uri(_spectrogram(path, front), "image/png")
        with tempfile.TemporaryDirectory() as home:
            kept = excerpt(path, Path(home) / "sound", LONGEST, COPIED)
            kind = "audio/mpeg" if kept["audio"].endswith(".mp3") else "audio/ogg"
            made.sound, made.heard = uri((Path(home) / kept["audio"]).read_bytes(), kind), float(kept["heard"])
    except Exception as error:  # the numbers are there, and a page without a picture still says them
        made.why = " ".join(str(error).split()) or type(error).__name__
    return made


def uri(content: bytes, kind: str) -> str:
    """Bytes as the address of themselves."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _spectrogram(path: Path, front: Front) -> bytes:
    """Mel bands in dB below the loudest, frequency upwards and time to the right, as PNG."""
    from etude.results.exploration.spectra import shrink
    from etude.results.shades import png

    mel = shrink(_bands(path, replace(front, sync="none")), COLUMNS)
    return png((mel - mel.max()).T[::-1], (-RANGE, 0.0))


def _bands(path: Path, front: Front) -> np.ndarray:
    """Return mel bands (T, n_mels) in dB; those of a long sound as means over a few frames, a span at a time."""
    from etude.audio.decode import stream
    from etude.prediction.windows import Tape
    from etude.results.exploration.spectra import shrink

    def bands(part: np.ndarray, front: Front) -> np.ndarray:
        return front.frames(part)[:, : front.n_mels] / front.decibel[: front.n_mels]

    tape, count = Tape(stream(path, front.rate)), MEAN * round(SPAN * front.frames_per_second / MEAN)
    samples = count * front.hop_length
    if not tape.reach(samples + 1):
        return bands(tape.part(0, tape.end), front)
    if hasattr(front, "ref"):
        absolute: dict[str, Any] = {"ref": "one"}  # spans are compared with each other
        front = replace(front, **absolute)
    parts, start = [], 0
    while tape.reach(start + samples):
        frames = bands(tape.part(start, start + samples), front)[:count]
        parts.append(shrink(frames, -(-len(frames) // MEAN)))
        start += samples
        tape.drop(start)
    if tape.end > start:
        rest = bands(tape.part(start, tape.end), front)
        parts.append(shrink(rest, -(-len(rest) // MEAN)))
    return np.concatenate(parts)
