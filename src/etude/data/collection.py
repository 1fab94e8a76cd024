"""Collections of clips, their target specifications, and helpers of sources."""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.config.instantiate import resolve
from etude.data.audio_files import SkippedItem, read_sound
from etude.errors import DataError, one_line_message
from etude.files.safe_read import to_nfc

if TYPE_CHECKING:
    import pandas as pd


# Function that returns frames (T, F), given a path, a front end and a minimum length in seconds. It is a module-level
# function, so that it can be pickled. It raises DecodeError if the file has no usable frames.
Reader = Callable[[Path, FrontEnd, float], np.ndarray]
Locator = Callable[[Path, FrontEnd], Path]
RESERVED = {"id", "path", "group", "split", "start", "frames", "content", "member", "row"} | {
    "sound_hash",
    "id_space",
    "source_id",
}
SLUG_BYTES = 96  # file names are limited to 255 bytes, and packs add a hash, a dot and suffixes
NO_GROUP = "The artists of these clips are unknown, so one artist may be in both training and test."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collection:
    """Table of clips and the specifications of its targets.

    Args:
        name: Short name, used for files and folders.
        title: Title of one line.
        table: One row per clip. `id` is unique, and `path` is the path of the file. `group` is often the artist. A
            split never separates the clips of a group, and a clip without a group forms its own group. `split` (train,
            val or test) is optional. Each target has a column, in which a missing value is a missing label.
        targets: Specification of each target column by name: `{"kind": "label", "classes": [...], "note": ""}` or
            `{"kind": "scalar", "low": 0.0, "high": 1.0, "note": ""}`. The note is shown next to its scores.
        card: The data card, in Markdown.
        note: One sentence that is shown in every report on this data.
        extra: Optional statistics. `licences` is the number of clips by licence. `before` is, for each label with
            merged classes, the number of clips by class before merging.
        reader: Function that reads the frames of a file, by decoding audio or from a precomputed array.
        locate: Function that returns the file of a clip for a front end, if a collection has several files of each
            clip. None uses `path`.
        skipped_items: Rows, files and folders that the source skips. They are listed in the pack's skipped.csv.
        id_space: Archive whose ids and groups these are, such as `fma`. Clips of two collections with the same space
            and id are the same clip. None means that the ids have no meaning outside of this collection.
        missing_note: Where the missing files were searched, or which option selects the existing files. It is added to
            the error or warning about skipped clips.
        unused_columns: Reason for each column of the source that is not a target.
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
    skipped_items: tuple[SkippedItem, ...] = ()
    id_space: str | None = None
    missing_note: str = ""
    unused_columns: dict[str, str] = field(default_factory=dict)

    def check(self) -> Collection:
        """Check the table and the targets.

        Returns:
            The collection itself.

        Raises:
            DataError: The table is empty or lacks a column, an id is not unique, a value is outside the classes or the
                range of its target, or a class has a single clip.
        """
        table = self.table
        if missing := {"id", "path", "group", *self.targets} - set(table.columns):
            raise DataError(f"{self.name}: the table of clips has no column {', '.join(sorted(missing))}")
        if reserved := sorted(RESERVED & set(self.targets)):
            raise DataError(f"{self.name}: {', '.join(reserved)} is a reserved column of packs; rename the target")
        if table.empty:
            raise DataError(f"{self.name}: the table of clips is empty")
        if (duplicates := table["id"][table["id"].duplicated()]).size:
            raise DataError(f"{self.name}: id {duplicates.iloc[0]!r} occurs more than once; ids must be unique")
        for name, target in self.targets.items():
            values = table[name].dropna()
            if target["kind"] == "label":
                invalid = values[~values.isin(target["classes"])]
            else:
                invalid = values[~((values >= target["low"]) & (values <= target["high"]))]
            if len(invalid):
                clip = table["id"][invalid.index[0]]
                allowed = "classes" if target["kind"] == "label" else "range"
                raise DataError(
                    f"{self.name}: clip {clip!r} has {name} = {invalid.tolist()[0]!r}, which is outside the "
                    f"{allowed} of the target"
                )
            if target["kind"] == "label" and len(single := (counts := values.value_counts())[counts == 1]):
                clip = table["id"][values.index[values == single.index[0]][0]]
                raise DataError(
                    f"{self.name}: {name} {single.index[0]!r} has a single clip ({clip}), which cannot be in both "
                    "training and test; add clips, merge the class with another, or remove it"
                )
        return self

    def sample(self, count: int) -> Collection:
        """Return a part of the collection for trying settings, such as `demo-64` of 64 clips.

        The clips are evenly spaced in the table sorted by split, fold, classes and group, so that the shares of these
        are about the same. A collection that is not larger is returned unchanged.

        Args:
            count: Number of clips.
        """
        if count >= len(self.table):
            return self
        scalars = [name for name, target in self.targets.items() if target["kind"] == "scalar"]
        keys = self.table.assign(**{name: self.table[name].isna() for name in scalars}).astype("string")
        by = [name for name in ("split", "fold", *self.targets, "group") if name in keys]
        order = keys.sort_values(by, kind="stable").index
        rows = order[np.linspace(0, len(order) - 1, count).round().astype(int)]
        log.warning("data.max_clips=%d: %d of %d clips of %s are used", count, count, len(order), self.name)
        table = self.table.loc[self.table.index.isin(rows)]
        return replace(self, name=f"{self.name}-{count}", table=table, skipped_items=())  # these are of all clips


def check_targets(collection: Any, nodes: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that a collection has all targets of a task and their kinds, before its audio is decoded.

    Args:
        collection: A collection, or a source with its own pack.
        nodes: Config of each target by name.

    Raises:
        DataError: A target is missing, or is of another kind.
    """
    kinds = {name: spec["kind"] for name, spec in collection.targets.items()}
    for name, node in nodes.items():
        if name not in kinds:
            raise DataError(
                f"task: {collection.name} has no target {name}; it has {_list_targets(collection)}: add "
                f"task={next(iter(kinds))}, or task=auto for all of them"
            )
        kind = getattr(resolve(node["_target_"]), "kind", kinds[name])
        if kind != kinds[name]:
            raise DataError(
                f"task: target {name} is a {kinds[name]} in this data, not a {kind} as in conf/target; rename the "
                f"column, or declare it with data.targets={{{name}: {kind}}}"
            )


def check_kinds(collection: Any, kinds: Mapping[str, Any] | str | None) -> None:
    """Check that the targets of a collection are of the kinds in `data.targets`, which only tables can set.

    Args:
        collection: A collection, or a source with its own pack.
        kinds: `label`, `scalar`, a range, or None by target.

    Raises:
        DataError: A target is missing or of another kind.
    """
    for key, kind in (parse_mapping(kinds, "data.targets") or {}).items():
        spec = collection.targets.get(column_name(key))
        actual = (
            None if spec is None else spec["kind"] if isinstance(kind, str) else [spec.get("low"), spec.get("high")]
        )
        if actual != (list(kind) if isinstance(kind, list | tuple) else kind):
            raise DataError(
                f"data.targets={{{key}: {kind}}}: {collection.name} has the targets {_list_targets(collection)}, and "
                "only data=table has columns whose kind can be set; remove it"
            )


def _list_targets(collection: Any) -> str:
    """Return the targets of a collection with their kinds for a message, such as `genre (label), tempo (scalar)`."""
    return ", ".join(f"{name} ({spec['kind']})" for name, spec in collection.targets.items())


def column_name(key: Any) -> str:
    """Return the column of a key in a config, because YAML parses the names `null`, `true` and `1` as values."""
    return to_nfc("null" if key is None else str(key).lower() if isinstance(key, bool) else str(key))


def slug(name: str) -> str:
    """Return a name with letters, digits, `_` and `-` only. A long name is shortened and ends with a hash."""
    short = re.sub(r"[^\w-]+", "-", unicodedata.normalize("NFC", name).lower()).strip("-") or "data"
    if len(short.encode()) <= SLUG_BYTES:
        return short
    digest = hashlib.sha256(short.encode()).hexdigest()[:8]
    return cut_bytes(short, SLUG_BYTES - 9) + "-" + digest


def cut_bytes(text: str, n_max: int) -> str:
    """Return the beginning of a text with a limited number of bytes, as in file names."""
    return text.encode()[:n_max].decode(errors="ignore")


def log_skipped_items(source: str | Path, skipped_items: Sequence[SkippedItem]) -> None:
    """Log a warning with the number of skipped items and an example for each reason."""
    if not skipped_items:
        return
    reasons: dict[str, list[str]] = {}
    for item in skipped_items:
        reasons.setdefault(item.reason, []).append(item.item)
    ordered = sorted(reasons.items(), key=lambda pair: -len(pair[1]))
    summaries = [f"{reason}: {len(items)}, such as {items[0]}" for reason, items in ordered]
    count = "1 item" if len(skipped_items) == 1 else f"{len(skipped_items)} items"
    log.warning("%s: %s skipped (%s)", source, count, "; ".join(summaries))


def label_target(values: Iterable[Any], note: str = "") -> dict[str, Any]:
    """Return the specification of a label target whose classes are the values that occur."""
    return {"kind": "label", "classes": sorted({str(value) for value in values if value == value}), "note": note}


def scalar_target(low: float = 0.0, high: float = 1.0, note: str = "") -> dict[str, Any]:
    """Return the specification of a scalar target with its range."""
    return {"kind": "scalar", "low": float(low), "high": float(high), "note": note}


def merge_classes(column: pd.Series, classes: Mapping[Any, Any] | str | None) -> pd.Series:
    """Return a label column with merged classes. Classes that are not listed become missing values.

    Args:
        column: Class names.
        classes: Mapping from a new class to an old class or a list of old classes. Numbers are read as text. None
            returns the column unchanged.

    Raises:
        DataError: An entry is not a name or a list of names, an old name is in two lists, or the data has none of the
            names of a list.
    """
    if (classes := parse_mapping(classes, "classes")) is None:
        return column
    new: dict[str, str] = {}
    for key, value in classes.items():
        name = _class_name(key, key)
        for old in [_class_name(old, key) for old in (value if isinstance(value, list | tuple) else [value])]:
            if old in new:
                raise DataError(f"classes: {old!r} is merged into both {new[old]!r} and {name!r}")
            new[old] = name
    column = column.map(lambda value: to_nfc(value) if isinstance(value, str) else value).astype(object)
    present = set(column.dropna())
    names = list(dict.fromkeys(_class_name(key, key) for key in classes))
    if absent := [name for name in names if not present & {old for old in new if new[old] == name}]:
        raise DataError(
            f"classes: the data has no clips of {', '.join(absent)}; its classes are {', '.join(sorted(present))}"
        )
    return column.map(new).astype(object)


def merged_names(names: Iterable[str], classes: Mapping[Any, Any] | str | None) -> dict[str, str | None]:
    """Return the new class of each old class, or None for a class that is left out. See `merge_classes`."""
    import pandas as pd

    new = merge_classes(pd.Series(list(names), dtype=object), classes)
    return {old: None if pd.isna(name) else str(name) for old, name in zip(names, new, strict=True)}


def parse_mapping(value: Mapping[Any, Any] | str | None, key: str) -> Mapping[Any, Any] | None:
    """Return a mapping that is given as a mapping or as YAML text.

    Hydra's grammar allows only ASCII keys on the command line, and parses `{Größe: label}` as text.

    Raises:
        DataError: The value is not a mapping, or the text cannot be parsed.
    """
    import yaml

    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise DataError(f"{key}: cannot be read as YAML ({one_line_message(error)})") from error
    if value is not None and not isinstance(value, Mapping):
        raise DataError(f"{key}: must be a mapping such as {{genre: label}}, got {value!r}")
    return value


def _class_name(value: Any, key: Any) -> str:
    """Return a class name of a config as text, because YAML parses 1 and 1.0 as numbers."""
    if value is None or isinstance(value, Mapping | list | tuple):
        raise DataError(f"classes: {key} must name a class or a list of classes, such as [Rock, Punk], got {value!r}")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return to_nfc(str(value))
