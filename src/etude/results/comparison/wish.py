"""What is asked of a comparison: words such as `rows=backbone cols=feature metric=macro_f1`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from etude import settings
from etude.errors import UserError
from etude.results.comparison.cell import Labels
from etude.results.text import NAMES
from etude.words import pair

PARTS = ("test", "val")
FORMATS = ("csv", "md", "tex", "html")


@dataclass(frozen=True)
class Wish:
    """A table over runs.

    Args:
        rows: Axes in rows; none: what the view has.
        cols: Axes in columns.
        metrics: Metrics; none: the one that leads each target, or a report's where `metric` is an axis.
        part: test or val.
        view: A table that has a name: runs, classes, metrics or settings.
        only: Values by axis: runs that are elsewhere are left out.
        to: Folder that the files are written into; none: that of a sweep.
        formats: Which files are written.
        stem: What they are called.
    """

    rows: Labels = ()
    cols: Labels = ()
    metrics: Labels = ()
    part: str = "test"
    view: str = "runs"
    only: dict[str, Labels] = field(default_factory=dict)
    to: Path | None = None
    formats: Labels = FORMATS
    stem: str = "compare"


VIEWS = {
    "runs": Wish(rows=("run",), cols=("target",)),
    "classes": Wish(rows=("class",), cols=("feature", "metric"), metrics=("precision", "recall", "f1")),
    "metrics": Wish(rows=("target", "backbone"), cols=("metric",)),
    "settings": Wish(rows=("backbone", "setting", "pretrained"), cols=("target",)),
}
NUMBERS = dict(zip("123", ("classes", "metrics", "settings"), strict=True))
"""The tables of the source work."""


def parse(words: Sequence[str]) -> tuple[Wish, list[Path]]:
    """The words of the command line.

    Args:
        words: Folders, and settings as name=value; a word that names an existing path is a folder.

    Raises:
        UserError: A word is neither, or a value is not among those there are.
    """
    wish, folders, only = Wish(), [], {}
    for word in words:
        if "=" not in word or settings.exists(word):
            folders.append(settings.path(word))
            continue
        key, text = pair(word)
        values = tuple(part for part in text.split(",") if part)
        if not values:
            raise UserError(f"{word}: needs a value")
        if key == "rows":
            wish = replace(wish, rows=values)
        elif key == "cols":
            wish = replace(wish, cols=values)
        elif key == "metric":
            _among(word, values, {*NAMES})
            wish = replace(wish, metrics=values)
        elif key == "part":
            _among(word, (text,), set(PARTS))
            wish = replace(wish, part=text)
        elif key == "table":
            _among(word, (text,), {*VIEWS, *NUMBERS})
            wish = replace(wish, view=NUMBERS.get(text, text))
        elif key == "format":
            _among(word, values, set(FORMATS))
            wish = replace(wish, formats=values)
        elif key == "to":
            wish = replace(wish, to=settings.path(text))
        else:
            only[key] = values  # an axis; whether there is such a one is known when the runs are read
    both = set(wish.rows) & set(wish.cols)
    if both:
        raise UserError(f"{', '.join(sorted(both))}: stands in rows and in cols; leave it out of one")
    return replace(wish, only=only), folders


def _among(word: str, values: Sequence[str], known: set[str]) -> None:
    for value in values:
        if value not in known:
            raise UserError(f"{word}: there is no {value}; there are {', '.join(sorted(known))}")
