"""Frames of clips for pages, and the choice of clips to show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.beats import track_beats
from etude.audio.decode import decode
from etude.audio.frontend import FrontEnd
from etude.data.collection import Collection
from etude.data.readers import read_sound
from etude.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from etude.data.pack import Pack


SYNCS = ("none", "beat")
PACKED = "The pack has frames by the {there} only, and the files that it was made from are not at hand."
NAMES = {"none": "hop", "beat": "beat"}


@dataclass
class ClipView:
    """Frames of a clip for a page.

    Args:
        frames: Frames by what they are synchronised to, `none` and `beat`: (T, F) float32; those that could be made.
        why: Why the others could not, by the same names.
        beats: Times of the beats (K,), in seconds; None where they are not known.
        seconds: Length of the clip, in seconds, where it is known.
    """

    frames: dict[str, np.ndarray]
    why: dict[str, str]
    beats: np.ndarray | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class ClipFile:
    """File of a clip, and the collection that knows how it is read."""

    path: Path
    collection: Collection

    def under(self, front: FrontEnd) -> Path:
        """Return the file that serves a front end."""
        locate = self.collection.locate
        return locate(self.path, front) if locate else self.path

    @property
    def is_sound(self) -> bool:
        """Whether it holds sound, and not frames."""
        return self.collection.reader is read_sound


def files(source: Any) -> dict[str, ClipFile]:
    """Return the file of each clip by its id; none for a pack that was opened by its folder."""
    if isinstance(source, Collection):
        table = source.table
        return {str(clip): ClipFile(Path(path), source) for clip, path in zip(table["id"], table["path"], strict=True)}
    found: dict[str, ClipFile] = {}
    for name, member in getattr(source, "members", {}).items():
        prefix = "" if source.shared_ids else f"{name}/"
        found = {prefix + clip: file for clip, file in files(member).items()} | found
    return found


def load_view(clip: str, row: int, pack: Pack, front: FrontEnd, known: dict[str, ClipFile]) -> ClipView:
    """Return the frames of a clip, and its beats where there is sound.

    Args:
        clip: Its id.
        row: Its row in the pack.
        pack: Used where there is no file.
        front: Front end of the pack; both ways of synchronising are shown, whatever its own.
        known: Files by id, as `files` returns them.
    """
    if clip not in known:
        there = {front.sync: np.asarray(pack.clip(row), dtype=np.float32)}
        return ClipView(there, {sync: PACKED.format(there=NAMES[front.sync]) for sync in SYNCS if sync not in there})
    made, why, file = {}, {}, known[clip]
    for sync in SYNCS:
        try:
            one = replace(front, sync=sync)
            made[sync] = file.collection.reader(file.under(one), one, 0.0)
        except (ValueError, NotImplementedError) as error:  # no such file, or a front end that knows no beats
            why[sync] = str(error) or "This front end does not make such frames."
    seconds = len(made["none"]) / front.frames_per_second if "none" in made else None
    return ClipView(made, why, _beats(file, front) if file.is_sound and made else None, seconds)


def named_clips(words: str, index: pd.DataFrame, skipped: dict[str, str], key: str = "clips") -> list[int]:
    """Return rows of the clips that a command names.

    Args:
        words: Ids with commas between; an id may hold a comma itself when it is the only one.
        index: Table of the pack, with `id`.
        skipped: Why clips gave no frames, by id.
        key: Name of the option.

    Raises:
        UserError: One of them is not there; the message names ids that are spelt like it.
    """
    place = {str(clip): row for row, clip in enumerate(index["id"])}
    ids = [words] if words in place else list(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    if not ids:
        raise UserError(f"{key}=: names no clip; give ids with commas between, or leave {key}= out")
    for clip in ids:
        if clip in skipped:
            raise UserError(f"{key}={clip}: this clip was skipped: {skipped[clip]}")
        if clip not in place:
            raise UserError(f"{key}={clip}: there is no such clip; {_near(clip, place)}")
    return [place[clip] for clip in ids]


def random_clips(index: pd.DataFrame, targets: dict[str, dict[str, Any]], count: int, seed: int) -> list[int]:
    """Return random rows, one of each class before a second of any.

    Args:
        index: Table of the pack.
        targets: What its columns mean; the first label tells the classes.
        count: How many; fewer when there are fewer clips.
        seed: Another seed, other clips.
    """
    order = np.random.default_rng(seed).permutation(len(index))
    name = next((name for name, spec in targets.items() if spec["kind"] == "label"), None)
    column = None if name is None else index[name].astype(object)
    classes: Sequence[Any] = [""] * len(index) if column is None else list(column.where(column.notna(), None))
    seen: dict[Any, int] = {}
    turns: list[tuple[int, int, int]] = []
    for row in order:
        kind = classes[row]
        # a clip without a label waits until every class had its turn
        turns.append((seen.get(kind, 0) + (len(index) if kind is None else 0), len(turns), int(row)))
        seen[kind] = seen.get(kind, 0) + 1
    return [row for _, _, row in sorted(turns)[:count]]


def _beats(file: ClipFile, front: FrontEnd) -> np.ndarray:
    """Return the times of the beats of a sound (K,), in seconds."""
    return track_beats(decode(file.under(front), front.rate), front) / front.frames_per_second


def _near(clip: str, ids: Iterable[str]) -> str:
    """Return ids like one, as a clause: spelt alike, or containing it."""
    known = list(ids)
    near = get_close_matches(clip, known, n=3, cutoff=0.5) or [one for one in known if clip.lower() in one.lower()][:3]
    return f"near it are {', '.join(near)}" if near else f"ids look like {', '.join(known[:3])}"
