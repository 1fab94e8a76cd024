"""A collection of clips as every source describes it: a table with one row per clip, and what its columns mean."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.data.readers import read_sound
from etude.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


# A path, the front end and the shortest length that counts, in seconds, to frames (T, F). A function of a module, so
# that another process can be handed it. Raises DecodeError when the file gives none.
Reader = Callable[[Path, FrontEnd, float], np.ndarray]
Locator = Callable[[Path, FrontEnd], Path]
RESERVED = {"id", "path", "group", "split", "start", "frames", "content", "member", "row"}
SLUG_BYTES = 96  # of the 255 that a file name may have; packs add a hash, a dot and suffixes
NO_GROUP = "The artists of these clips are not known, so nothing keeps one artist out of both training and test."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeftOut:
    """A row, file or folder that a source does not use.

    Args:
        item: Path from the collection's folder on, id of a clip, or row of a table.
        reason: Why, in the same words for all items of one kind, so that they can be counted.
        clip: Whether a clip was expected there. Such items count against `data.max_skipped`, as missing files do.
    """

    item: str
    reason: str
    clip: bool = False


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
        left_out: Rows, files and folders that the source does not use. They are listed in the pack's skipped.csv.
    """

    name: str
    title: str
    table: pd.DataFrame
    targets: dict[str, dict[str, Any]]
    card: str = ""
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    reader: Reader = read_sound
    locate: Locator | None = None
    left_out: tuple[LeftOut, ...] = ()

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


def slug(name: str) -> str:
    """Return a name as that of a file: letters, digits, `_` and `-`; a long one is cut and gets a hash."""
    short = re.sub(r"[^\w-]+", "-", unicodedata.normalize("NFC", name).lower()).strip("-") or "data"
    if len(short.encode()) <= SLUG_BYTES:
        return short
    digest = hashlib.sha256(short.encode()).hexdigest()[:8]
    return cut_bytes(short, SLUG_BYTES - 9) + "-" + digest


def cut_bytes(text: str, most: int) -> str:
    """Return the beginning of a text that takes at most so many bytes; names of files are limited in bytes."""
    return text.encode()[:most].decode(errors="ignore")


def log_left_out(where: str | Path, left_out: Sequence[LeftOut]) -> None:
    """Log a warning with the number of items that are left out for each reason, and one example of each."""
    if not left_out:
        return
    reasons: dict[str, list[str]] = {}
    for item in left_out:
        reasons.setdefault(item.reason, []).append(item.item)
    ordered = sorted(reasons.items(), key=lambda pair: -len(pair[1]))
    parts = [f"{reason}: {len(items)}, such as {items[0]}" for reason, items in ordered]
    count = "1 item is" if len(left_out) == 1 else f"{len(left_out)} items are"
    log.warning("%s: %s left out (%s)", where, count, "; ".join(parts))


def label_target(values: Iterable[Any], note: str = "") -> dict[str, Any]:
    """The specification of a label target whose classes are the values that occur."""
    return {"kind": "label", "classes": sorted({str(value) for value in values if value == value}), "note": note}


def scalar_target(low: float = 0.0, high: float = 1.0, note: str = "") -> dict[str, Any]:
    """The specification of a scalar target with its range."""
    return {"kind": "scalar", "low": float(low), "high": float(high), "note": note}


def merge_classes(column: pd.Series, classes: Mapping[Any, Any] | str | None) -> pd.Series:
    """A label column with its classes merged; those that no list names become missing.

    Args:
        column: Class names.
        classes: By new name, the old names that it stands for: one, or a list. Numbers are read as text. None leaves
            the column as it is.

    Raises:
        DataError: An entry is no name or list of names, an old name stands in two lists, or in the data there is none
            of a list's names.
    """
    if (classes := parse_mapping(classes, "classes")) is None:
        return column
    new: dict[str, str] = {}
    for key, olds in classes.items():
        name = _class_name(key, key)
        for old in [_class_name(old, key) for old in (olds if isinstance(olds, list | tuple) else [olds])]:
            if old in new:
                raise DataError(f"classes: {old!r} is merged into both {new[old]!r} and {name!r}")
            new[old] = name
    column = column.map(lambda value: to_nfc(value) if isinstance(value, str) else value).astype(object)
    present = set(column.dropna())
    names = list(dict.fromkeys(_class_name(key, key) for key in classes))
    if absent := [name for name in names if not present & {old for old in new if new[old] == name}]:
        raise DataError(f"classes: the data has nothing for {', '.join(absent)}; it has {', '.join(sorted(present))}")
    return column.map(new).astype(object)


def parse_mapping(value: Mapping[Any, Any] | str | None, key: str) -> Mapping[Any, Any] | None:
    """Return a mapping that is given as such or as YAML text.

    Keys on a command line are ASCII in Hydra's grammar: `{Größe: label}` is a text there.

    Raises:
        DataError: It is neither.
    """
    import yaml

    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise DataError(f"{key}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if value is not None and not isinstance(value, Mapping):
        raise DataError(f"{key}: must be a mapping such as {{genre: label}}, got {value!r}")
    return value


def _class_name(value: Any, key: Any) -> str:
    """Return a class of a config as text; YAML reads 1 and 1.0 as numbers."""
    if value is None or isinstance(value, Mapping | list | tuple):
        raise DataError(f"classes: {key} must name a class or a list of classes, such as [Rock, Punk], got {value!r}")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return to_nfc(str(value))


def to_nfc(text: str) -> str:
    """Return text in Unicode's composed form, in which equal letters are equal strings."""
    return unicodedata.normalize("NFC", text)


def existing_path(path: Path) -> Path:
    """Return a path in the Unicode form in which it exists; as it is where it exists in none.

    Some systems store an accented letter as one character and others as two, and copies keep either.
    """
    if str(path).isascii() or os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        forms = dict.fromkeys((part, to_nfc(part), unicodedata.normalize("NFD", part)))
        there = next((form for form in forms if os.path.lexists(found / form)), None)
        if there is None:
            return path
        found /= there
    return found


def expand_path(path: str) -> Path:
    """A path of the user's, with ~ as their home, in the Unicode form in which it exists.

    Raises:
        DataError: There is no user whose home it would be.
    """
    try:
        return existing_path(Path(path).expanduser())
    except RuntimeError as error:
        if os.path.lexists(path):
            return Path(path)
        raise DataError(f"{path}: there is no such user; write ./{path} for a file of that name") from error


def join_inside(folder: Path, name: str, where: str) -> Path:
    """A path below a folder.

    Args:
        folder: The folder that it must not leave.
        name: Relative path from a table of the user's, or of somebody else's.
        where: What to blame in the message, such as the file and its row.

    Raises:
        DataError: The path is absolute, climbs out of the folder or holds a zero byte.
    """
    if "\0" in name:
        raise DataError(f"{where}: path {name!r} holds a zero byte, which no name of a file has")
    path = Path(name)
    depth = 0
    for part in path.parts:
        depth += -1 if part == ".." else 1
        if depth < 0 or path.is_absolute():
            raise DataError(f"{where}: path {name!r} leads out of {folder}; only files below it are read")
    return folder / path
