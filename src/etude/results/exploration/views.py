"""Frames of a clip by the hop and by the beat: from its sound, from frames that are ready, or from the pack."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.front import Front
from etude.data.collection import Collection
from etude.data.read import sound

if TYPE_CHECKING:
    from etude.data.pack import Pack

BEAT = ("none", "beat")
PACKED = "The pack has frames by the {there} only, and the files that it was made from are not at hand."
NAMES = {"none": "hop", "beat": "beat"}


@dataclass
class View:
    """A clip as it is shown.

    Args:
        frames: Frames by what they are synchronised to, `none` and `beat`: (T, F) float32; those that could be had.
        why: Why the others could not, by the same names.
        beats: Where the beats are (K,), in seconds; none where they are not known.
        seconds: Length of the clip, in seconds, where it is known.
    """

    frames: dict[str, np.ndarray]
    why: dict[str, str]
    beats: np.ndarray | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class File:
    """Where a clip comes from: the file, and the collection that knows how it is read."""

    path: Path
    collection: Collection

    def under(self, front: Front) -> Path:
        """The file that serves a front end."""
        locate = self.collection.locate
        return locate(self.path, front) if locate else self.path

    @property
    def is_sound(self) -> bool:
        """Whether it holds sound, and not frames."""
        return self.collection.reader is sound


def hears(front: Front) -> bool:
    """Whether the bands of a front end are frequencies; else its frames are of something that is no sound."""
    return hasattr(front, "fmin") and hasattr(front, "fmax")


def files(source: Any) -> dict[str, File]:
    """The file of each clip by its id; of a pack that was opened by its folder there is none."""
    if isinstance(source, Collection):
        table = source.table
        return {str(clip): File(Path(path), source) for clip, path in zip(table["id"], table["path"], strict=True)}
    found: dict[str, File] = {}
    for name, member in getattr(source, "members", {}).items():
        prefix = "" if source.shared_ids else f"{name}/"
        found = {prefix + clip: file for clip, file in files(member).items()} | found
    return found


def view(clip: str, row: int, pack: Pack, front: Front, known: dict[str, File]) -> View:
    """Frames of a clip, and its beats where there is sound.

    Args:
        clip: Its id.
        row: Its row in the pack.
        pack: Used where there is no file.
        front: Front end of the pack; both ways of synchronising are shown, whatever its own.
        known: Files by id, as `files` gives them.
    """
    if clip not in known:
        there = {front.sync: np.asarray(pack.clip(row), dtype=np.float32)}
        return View(there, {sync: PACKED.format(there=NAMES[front.sync]) for sync in BEAT if sync not in there})
    made, why, file = {}, {}, known[clip]
    for sync in BEAT:
        try:
            one = replace(front, sync=sync)
            made[sync] = file.collection.reader(file.under(one), one, 0.0)
        except (ValueError, NotImplementedError) as error:  # no such file, or a front end that knows no beats
            why[sync] = str(error) or "This front end does not make such frames."
    seconds = len(made["none"]) / front.frames_per_second if "none" in made else None
    return View(made, why, _beats(file, front) if file.is_sound and made else None, seconds)


def _beats(file: File, front: Front) -> np.ndarray:
    """Where the beats of a sound are (K,), in seconds."""
    from etude.audio.beats import track
    from etude.audio.decode import decode

    return track(decode(file.under(front), front.rate), front) / front.frames_per_second
