"""How long the clips are, and how loud."""

from __future__ import annotations

from typing import Any

import numpy as np

from etude.audio.decode import DecodeError
from etude.audio.front import Front
from etude.progress import track
from etude.results.exploration.counts import histogram
from etude.results.exploration.views import File, hears

HEARD = 200  # clips whose loudness is measured: enough for a distribution, and seconds to decode
FLOOR = -100.0  # dB of full scale; what is below is silence
UNKNOWN = "The loudness of these clips is not known: their sound is not at hand, and frames do not tell it."


def lengths(frames: np.ndarray, front: Front) -> dict[str, Any]:
    """Distribution of lengths (N,), in seconds; in beats where frames are as long as a beat; in frames of no sound.

    Returns:
        As `histogram`, and `unit`.
    """
    unit = "beats" if front.sync == "beat" else "s" if hears(front) else "frames"
    values = frames / (front.frames_per_second if unit == "s" else 1.0)
    return histogram(values, float(values.min()), float(values.max())) | {"unit": unit}


def loudness(known: dict[str, File], ids: list[str], front: Front, seed: int) -> dict[str, Any]:
    """Distribution of the level of random clips, from their sound.

    Args:
        known: Files of the clips.
        ids: Clips of the pack.
        front: Gives the rate, in Hz.
        seed: Of the choice, when there are more than 200.

    Returns:
        As `histogram`, of the root mean square in dB of full scale, where a full square wave has 0 dB; `why` alone when
        no sound is at hand.
    """
    sounds = [clip for clip in ids if clip in known and known[clip].is_sound]
    if not sounds:
        return {"why": UNKNOWN}
    if len(sounds) > HEARD:
        sounds = [sounds[i] for i in sorted(np.random.default_rng(seed).choice(len(sounds), HEARD, replace=False))]
    values = [_level(known[clip], front) for clip in track(sounds, len(sounds), "Loudness", "clips")]
    levels = np.array([value for value in values if value is not None])
    if not len(levels):
        return {"why": UNKNOWN}
    low, high = 3 * np.floor(levels.min() / 3), max(0.0, 3 * np.ceil(levels.max() / 3))
    return histogram(levels, float(low), float(high)) | {"unit": "dB of full scale"}


def _level(file: File, front: Front) -> float | None:
    """RMS level of a file, in dB of full scale; None when it cannot be read any more."""
    from etude.audio.decode import decode

    try:
        audio = decode(file.under(front), front.rate)
    except DecodeError:
        return None
    power = float(np.mean(np.square(audio, dtype=np.float64)))
    return max(FLOOR, 10 * np.log10(power)) if power > 0 else FLOOR
