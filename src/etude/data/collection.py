"""A collection of clips as every source describes it: a table with one row per clip, and what its columns mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.front import Front
from etude.data.read import sound
from etude.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from etude.data.pack import Pack
    from etude.data.prepare import Rules

# A path, the front end and the shortest length that counts, in seconds, to frames (T, F). A function of a module, so
# that another process can be handed it. Raises DecodeError when the file gives none.
Reader = Callable[[Path, Front, float], np.ndarray]
Locator = Callable[[Path, Front], Path]
RESERVED = {"id", "path", "group", "split", "start", "frames", "content", "member", "row"}
NO_GROUP = "The artists of these clips are not known, so nothing keeps one artist out of both training and test."


@dataclass(frozen=True)
class Collection:
    """Clips, their labels, and where both come from.

    Args:
        name: Short name, used for files and folders.
        title: One line for people.
        table: One row per clip, with `id` (unique), `path` (to the sound), `group` (what must never cross a split,
            often the artist; missing: the clip is a group of its own), optionally `split` (train, val or test), and a
            column per target, in which a missing value is a missing label.
        targets: What each target column holds, by name: `{"kind": "label", "classes": [...], "note": ""}` or
            `{"kind": "scalar", "low": 0.0, "high": 1.0, "note": ""}`. The note is shown wherever its scores are.
        card: The data card, in Markdown.
        note: One sentence that every report on this data shows.
        extra: What only some readers want: `licences`, counts by licence; `before`, the classes of a label before they
            were merged, by target.
        reader: How a file becomes frames: by the front end from its sound, or as frames that are ready in it.
        locate: Which file serves a front end, for collections that have several of a clip; none: `path` itself.
    """

    name: str
    title: str
    table: pd.DataFrame
    targets: dict[str, dict[str, Any]]
    card: str = ""
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    reader: Reader = sound
    locate: Locator | None = None

    def check(self) -> Collection:
        """Refuse what would go wrong later.

        Returns:
            Itself.

        Raises:
            DataError: No clips, a column that is missing, an id that occurs twice, a label outside its classes, or a
                class of a single clip.
        """
        table = self.table
        if missing := {"id", "path", "group", *self.targets} - set(table.columns):
            raise DataError(f"{self.name}: the table of clips has no column {', '.join(sorted(missing))}")
        if taken := sorted(RESERVED & set(self.targets)):
            raise DataError(f"{self.name}: {', '.join(taken)} is a column of packs; give the target another name")
        if table.empty:
            raise DataError(f"{self.name}: the table of clips is empty")
        if (twice := table["id"][table["id"].duplicated()]).size:
            raise DataError(
                f"{self.name}: id {twice.iloc[0]!r} occurs more than once; ids name clips and must be unique"
            )
        for name, target in self.targets.items():
            values = table[name].dropna()
            if target["kind"] == "label":
                wrong = values[~values.isin(target["classes"])]
            else:
                wrong = values[~((values >= target["low"]) & (values <= target["high"]))]
            if len(wrong):
                where = table["id"][wrong.index[0]]
                raise DataError(
                    f"{self.name}: clip {where!r} has {name} = {wrong.tolist()[0]!r}, which the target does not allow"
                )
            if target["kind"] == "label" and len(alone := (counts := values.value_counts())[counts == 1]):
                where = table["id"][values.index[values == alone.index[0]][0]]
                raise DataError(
                    f"{self.name}: {name} {alone.index[0]!r} has a single clip ({where}), which cannot be both learned "
                    "and tested; give it more clips, merge it with another class, or leave it out"
                )
        return self

    def pack(self, front: Front, rules: Rules) -> Pack:
        """The pack of this collection, from disk or made now."""
        from etude.data.prepare import prepare

        return prepare(self, front, rules)


def slug(name: str) -> str:
    """A name as that of a file: letters, digits, `_` and `-`."""
    return re.sub(r"[^\w-]+", "-", name.lower()).strip("-") or "data"


def label(values: Iterable[Any], note: str = "") -> dict[str, Any]:
    """The specification of a label target whose classes are the values that occur."""
    return {"kind": "label", "classes": sorted({str(value) for value in values if value == value}), "note": note}


def scalar(low: float = 0.0, high: float = 1.0, note: str = "") -> dict[str, Any]:
    """The specification of a scalar target with its range."""
    return {"kind": "scalar", "low": float(low), "high": float(high), "note": note}


def merged(column: pd.Series, classes: Mapping[str, Iterable[str]] | None) -> pd.Series:
    """A label column with its classes merged; those that no list names become missing.

    Args:
        column: Class names.
        classes: By new name, the old names that it stands for; none leaves the column as it is.

    Raises:
        DataError: An old name stands in two lists, or in the data there is none of a list's names.
    """
    if classes is None:
        return column
    new: dict[str, str] = {}
    for name, olds in classes.items():
        for old in [olds] if isinstance(olds, str) else olds:
            if old in new:
                raise DataError(f"classes: {old!r} is merged into both {new[old]!r} and {name!r}")
            new[old] = name
    present = set(column.dropna())
    if absent := [name for name in classes if not present & {old for old in new if new[old] == name}]:
        raise DataError(f"classes: the data has nothing for {', '.join(absent)}; it has {', '.join(sorted(present))}")
    return column.map(new).astype(object)


def expanded(path: str) -> Path:
    """A path of the user's, with ~ as their home.

    Raises:
        DataError: There is no user whose home it would be.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: there is no such user; write ./{path} for a file of that name") from error


def inside(folder: Path, name: str, where: str) -> Path:
    """A path below a folder.

    Args:
        folder: The folder that it must not leave.
        name: Relative path from a table of the user's, or of somebody else's.
        where: What to blame in the message, such as the file and its row.

    Raises:
        DataError: The path is absolute or climbs out of the folder.
    """
    path = Path(name)
    depth = 0
    for part in path.parts:
        depth += -1 if part == ".." else 1
        if depth < 0 or path.is_absolute():
            raise DataError(f"{where}: path {name!r} leads out of {folder}; only files below it are read")
    return folder / path
