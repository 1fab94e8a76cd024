"""A file to the frames of its windows, in whatever process: what cannot be heard is a sentence, and ends nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from etude.audio.decode import DecodeError, decode
from etude.data.read import SILENT
from etude.prediction.inputs import text
from etude.prediction.windows import Plan, Window, windows


@dataclass
class Heard:
    """What was heard of a file.

    Args:
        path: The file.
        size, modified: Of the file, in bytes and in nanoseconds since 1970; -1 and 0 when there is none.
        seconds: Its length.
        windows: Its windows in order.
        reason: Why there are none.
    """

    path: Path
    size: int = -1
    modified: int = 0
    seconds: float = 0.0
    windows: list[Window] = field(default_factory=list)
    reason: str = ""


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of change of a file, by which it is known."""
    try:
        status = path.stat()
    except OSError:
        return -1, 0
    return status.st_size, status.st_mtime_ns


def hear(job: tuple[Path, Plan]) -> Heard:
    """Decode a file, cut it, and make the frames of its windows."""
    path, plan = job
    heard = Heard(path, *stamp(path))
    try:
        audio = decode(path, plan.front.rate)
        heard.seconds = len(audio) / plan.front.rate
        if heard.seconds < plan.shortest:
            raise DecodeError(f"is too short ({heard.seconds:.2f} s, at least {plan.shortest:g} s are needed)")
        if np.abs(audio).max() < SILENT:
            raise DecodeError("is silent")
        heard.windows = windows(audio, plan)
    except OSError as error:
        heard.reason = f"cannot be read ({error.strerror or error})"
    except MemoryError:
        heard.reason = "is too long for the memory of this machine"
    except Exception as error:  # whatever a file of somebody's does, the others go on
        heard.reason = " ".join(str(error).split()) or type(error).__name__
    # a table of files need not say the path twice
    heard.reason = text(heard.reason).removeprefix(f"{text(path)}: ")
    return heard
