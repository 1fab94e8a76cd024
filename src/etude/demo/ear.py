"""A sound of the page to what is said of it: numbers, bars, and the same piece of a page that predictions have."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from etude.demo.bars import bars
from etude.demo.limits import Limits
from etude.prediction import engine
from etude.prediction.columns import Columns
from etude.prediction.engine import Said
from etude.prediction.hearing import Heard, hear
from etude.prediction.lines import clock, plots
from etude.prediction.model import Model
from etude.prediction.piece import hertz, piece
from etude.prediction.shown import shown
from etude.prediction.windows import Plan
from etude.results.template import template

log = logging.getLogger(__name__)
BATCH = 32  # windows at a time


class Refused(Exception):
    """A sound of which nothing can be said; the message is one sentence for the page."""


@dataclass
class Told:
    """What was said of a sound, and the windows in which it was heard."""

    said: Said
    heard: Heard

    def decisive(self, columns: Columns) -> int:
        """The window that speaks most clearly for what is said of the whole sound.

        Of a label that is the one in which the class of the whole is most probable, of a scalar the furthest from the
        middle of its range; the first target counts.
        """
        name, spec = next(iter(columns.targets.items()))

        def clear(values: list[float] | None) -> float:
            if values is None:  # silent
                return -1.0
            one, whole = columns.split(values)[name], columns.split(self.said.values or [])[name]
            if spec["kind"] == "label":
                return float(one[max(range(len(whole)), key=whole.__getitem__)])
            return abs(float(one[0]) - (spec["low"] + spec["high"]) / 2)

        every = [clear(values) for *_, values in self.said.windows]
        return max(range(len(every)), key=every.__getitem__)


class Ear:
    """Hears sounds with a network; one at a time.

    Args:
        model: The network.
        plan: How sounds are cut for it.
        limits: What is taken.
    """

    def __init__(self, model: Model, plan: Plan, limits: Limits) -> None:
        self.model, self.plan, self.limits = model, plan, limits
        self._told = lru_cache(maxsize=4)(self._judged)  # the last sounds: what is asked of one after the other

    def hear(self, path: Path) -> Told:
        """What is said of a sound.

        Raises:
            Refused: It is too large or too long, silent, empty, or no sound.
        """
        if why := self.limits.refuse(path):
            raise Refused(why)
        return self._told(path, path.stat().st_mtime_ns)

    def _judged(self, path: Path, modified: int) -> Told:
        heard = hear((path, self.plan), None)
        if why := self.limits.long(heard.seconds):
            raise Refused(why)
        windows = [(window, list(window.crops)) for window in heard.windows]
        try:
            (said,) = engine.judge(self.model, [heard], BATCH)
        except Exception as error:  # the memory of a GPU may be full; the page goes on
            log.warning("%s: the network failed", path.name, exc_info=True)
            raise Refused(f"The network failed on this sound: {' '.join(str(error).split())[:200]}") from error
        if said.reason:
            raise Refused(f"This sound cannot be heard: it {_verb(said.reason)}.")
        for window, crops in windows:
            window.crops = crops  # which judging lets go of
        return Told(said, heard)

    def page(self, told: Told, name: str) -> str:
        """What is said of a sound as a part of the page.

        Args:
            told: What was said.
            name: What the sound is called.
        """
        said, columns = told.said, self.model.columns
        shows = shown((said.path, self.model.front))
        drawn = plots(said, columns) if len(said.windows) > 1 else []  # one window has no lines over time
        file = piece(said, shows, drawn, columns, hertz(self.model.front)) | {"name": name, "folder": ""}
        return template("demo_heard.html.j2").render(file=file, bars=bars(said, columns))


def moments(told: Told) -> list[str]:
    """The windows of a sound by their times."""
    return [f"{clock(start)} – {clock(end)}" for start, end, _ in told.said.windows]


def _verb(reason: str) -> str:
    """A reason as the end of a sentence that begins with "it"."""
    text = reason.rstrip(".")
    return text if text.split(" ")[0] in ("is", "has", "holds", "cannot", "gives") else f"fails: {text}"
