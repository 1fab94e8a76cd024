"""Any table of sound files: a row per clip, a column per thing that is known about it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.data.collection import (
    NO_GROUP,
    RESERVED,
    Collection,
    LeftOut,
    existing_path,
    expand_path,
    join_inside,
    label_target,
    log_left_out,
    merge_classes,
    parse_mapping,
    slug,
    to_nfc,
)
from etude.data.table_reader import ABSENT, infer_target, normalize_class_names, parse_declared_target, read_table
from etude.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


log = logging.getLogger(__name__)
OWN = ("id", "path", "group", "split")  # where a clip is and belongs
ABOUT = ("title", "artist", "licence", "license")  # of no interest as targets, unless somebody declares one
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

Columns = dict[str, list[str]]


def collection(
    table: str,
    audio: str | None = None,
    targets: Mapping[str, Any] | str | None = None,
    name: str | None = None,
    classes: Mapping[str, Mapping[Any, Any]] | str | None = None,
    missing: Any = (),
) -> Collection:
    """The clips of a table.

    Args:
        table: A file .csv, .tsv, .xlsx or .parquet. It must have a column `path`. It may have `id` (else the path
            without suffix), `group` (else `artist`), `split` (train, val, test) and `title`, `artist`, `licence`; any
            other column may be a target. An empty cell is a missing value; no word stands for one unless `missing`
            has it.
        audio: Folder from which the paths go on; none means the table's own.
        targets: By column, `label`, `scalar` or a range such as [40, 220]; a mapping, or one as YAML text. None takes
            every column that can be one.
        name: Name of the collection; none means that of the file.
        classes: By label, by new class, the old classes that it stands for. Other classes become missing labels.
        missing: A cell or a list of cells that stand for a missing value, such as NA, in upper or lower case; in all
            columns but `path` and `id`.

    Returns:
        The collection, without the clips that have no label at all and rows without a path; these are in `left_out`.

    Raises:
        DataError: The file cannot be read, or what stands in it cannot be used; the message names the row.
    """
    file = expand_path(table)
    home = file.parent if audio is None else expand_path(audio)
    cells, where = read_table(file)
    if "path" not in cells:
        raise DataError(f"{file}: has no column path; it has {', '.join(cells) or 'none at all'}")
    if not where:
        raise DataError(f"{file}: has a header and no rows")
    if not home.is_dir():
        raise DataError(f"audio: there is no folder {home}")
    cells, where, left_out = _with_path(file, cells, where)
    cells = _clean(file, cells, missing if isinstance(missing, list | tuple) else [missing])
    said = parse_mapping(targets, "targets")
    wanted = None if said is None else {to_nfc(str(key)): value for key, value in said.items()}
    merging = {to_nfc(str(key)): value for key, value in (parse_mapping(classes, "classes") or {}).items()}
    frame = _clips(file, home, cells, where, wanted or {})
    specs = _targets(file, cells, wanted, merging, where)
    before = _labels(frame, cells, specs, merging)
    unlabelled = frame[list(specs)].isna().all(axis=1)
    left_out += [LeftOut(clip, "clip has no label") for clip in frame["id"][unlabelled]]
    frame = frame[~unlabelled].reset_index(drop=True)
    log_left_out(file, left_out)
    spelt = "licence" if "licence" in frame else "license"
    licences = _counts(frame[spelt]) if spelt in frame else {}
    grouped = int(frame["group"].notna().sum())
    title = f"{name or file.stem}: {len(frame)} clips with {', '.join(specs)}"
    known = f"{grouped} of them are in {frame['group'].nunique()} groups" if grouped else "no groups are known"
    card = f"# {title}\n\nClips of the table `{file.name}`; {known}.\n"
    if licences:
        card += "\nLicences:\n\n" + "".join(f"- {key}: {count} clips\n" for key, count in licences.items())
    return Collection(
        name=slug(name or file.stem),
        title=title,
        table=frame,
        targets=specs,
        card=card,
        note="" if grouped or "artist" in specs else NO_GROUP,
        extra={key: value for key, value in (("before", before), ("licences", licences)) if value},
        left_out=tuple(left_out),
    ).check()


def _with_path(file: Path, cells: Columns, where: list[str]) -> tuple[Columns, list[str], list[LeftOut]]:
    """Return the rows that have a path, and the others as left out.

    Raises:
        DataError: No row has one.
    """
    has = [bool(Path(cell.replace("\\", "/")).name) for cell in cells["path"]]
    if not any(has):
        raise DataError(f"{file}: the column path is empty in all {len(where)} rows")
    left_out = [
        LeftOut(place.removeprefix(f"{file}, "), "path is empty", clip=True)
        for place, there in zip(where, has, strict=True)
        if not there
    ]
    if left_out:
        cells = {key: [c for c, there in zip(column, has, strict=True) if there] for key, column in cells.items()}
        where = [place for place, there in zip(where, has, strict=True) if there]
    return cells, where, left_out


def _clean(file: Path, cells: Columns, missing: Sequence[Any]) -> Columns:
    """Return the columns in Unicode's composed form, with words for a missing value as empty cells."""
    absent = {"null" if word is None else str(word).lower() for word in missing}  # YAML reads null and nan as values
    words = {cell.lower() for key, column in cells.items() if key not in ("path", "id") for cell in column}
    if unused := absent - words:
        raise DataError(f"missing: {file} has no cell {', '.join(sorted(unused))}")
    clean = {}
    for key, column in cells.items():
        if key in ("path", "id"):
            clean[key] = column
            continue
        composed = {cell: to_nfc(cell) for cell in set(column)}
        if twice := [form for form, count in Counter(composed.values()).items() if count > 1]:
            log.warning("%s: column %s has %r in two Unicode forms, which are read as one", file, key, twice[0])
        clean[key] = ["" if cell.lower() in absent else composed[cell] for cell in column]
    return clean


def _counts(column: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in column.value_counts().items()}


def _clips(file: Path, home: Path, cells: Columns, where: list[str], targets: Mapping[str, Any]) -> pd.DataFrame:
    """Id, path, group, split and what else is about a clip and no target."""
    import pandas as pd

    paths = [cell.replace("\\", "/") for cell in cells["path"]]  # the table may have been written on Windows
    rows: dict[str, list[Any]] = {"id": [], "path": [], "group": _groups(file, cells, targets)}
    other_form = []
    for path, place in zip(paths, where, strict=True):
        named = join_inside(home, path, place)
        rows["path"].append(str(found := existing_path(named)))
        if found != named:
            other_form.append(path)
    if other_form:
        log.warning("%s: %d paths are found in another Unicode form, such as %s", file, len(other_form), other_form[0])
    rows["id"] = cells.get("id") or [Path(path).with_suffix("").as_posix() for path in paths]
    seen: dict[str, str] = {}
    for clip, place in zip(rows["id"], where, strict=True):
        if not clip:
            raise DataError(f"{place}: id is empty")
        if clip in seen:
            cure = "" if "id" in cells else ", the path without suffix; a column id can tell them apart"
            raise DataError(f"{seen[clip]} and {place.rpartition(', ')[2]} both have id {clip!r}{cure}")
        seen[clip] = place
    if "split" in cells:
        for cell, place in zip(cells["split"], where, strict=True):
            if cell.lower() not in SPLIT_NAMES:
                raise DataError(f"{place}: split is {cell!r}, which must be train, val or test")
        rows["split"] = [SPLIT_NAMES[cell.lower()] for cell in cells["split"]]
    rows |= {key: [cell or None for cell in cells[key]] for key in ABOUT if key in cells}
    return pd.DataFrame(rows, dtype=object)


def _groups(file: Path, cells: Columns, targets: Mapping[str, Any]) -> list[str | None]:
    """The group of each clip; its artist where the table has no groups."""
    key = "group" if "group" in cells else "artist"
    if key not in cells or key in targets:
        return [None] * len(cells["path"])
    if key == "artist":
        log.info("%s: has no column group; the clips of an artist are one", file)
    if missing := cells[key].count(""):
        log.info("%s: %d clips have no %s; each is a group of its own", file, missing, key)
    if words := [cell for cell in dict.fromkeys(cells[key]) if cell.lower() in ABSENT]:
        log.warning("%s: clips whose %s is %r are one group; if it is missing, set missing=[%r]",
                    file, key, words[0], words[0])  # fmt: skip
    return [cell or None for cell in cells[key]]


def _targets(
    file: Path, cells: Columns, targets: Mapping[str, Any] | None, classes: Mapping[str, Any], where: list[str]
) -> dict[str, dict[str, Any]]:
    """What each target holds: as declared, or as its cells look."""
    able = [key for key in cells if key not in OWN]
    if unknown := [key for key in [*(targets or {}), *classes] if key not in able]:
        raise DataError(f"targets: {file} has no column {unknown[0]} to learn; it has {', '.join(able) or 'none'}")
    specs = {}
    if targets is not None:
        if idle := [key for key in classes if targets.get(key) != "label"]:
            raise DataError(f"classes: {idle[0]} is not declared as a label in targets, so that it has no classes")
        specs = {key: parse_declared_target(key, cells[key], said, where) for key, said in targets.items()}
    for key in able if targets is None else []:
        if key in classes:
            specs[key] = parse_declared_target(key, cells[key], "label", where)
        elif key in RESERVED:
            log.warning(
                "%s: column %s is not taken as a target: packs have a column of this name; rename it", file, key
            )
        elif key not in ABOUT:
            found, remarks = infer_target(key, cells[key], where)
            for remark in remarks:
                log.warning("%s: column %s: %s", file, key, remark)
            if isinstance(found, str):
                log.warning("%s: column %s is not taken as a target: %s", file, key, found)
            else:
                specs[key] = found
    if not specs:
        raise DataError(f"{file}: has no column to learn; name one in data.source.targets, such as {{genre: label}}")
    log.info("%s: targets are %s", file, ", ".join(f"{key} ({spec['kind']})" for key, spec in specs.items()))
    return specs


def _labels(
    frame: pd.DataFrame, cells: Columns, specs: dict[str, dict[str, Any]], classes: Mapping[str, Any]
) -> dict[str, dict[str, int]]:
    """Put a column per target into the table; counts of the classes that were merged, by target."""
    import pandas as pd

    before = {}
    for key, spec in specs.items():
        if spec["kind"] == "scalar":
            frame[key] = pd.Series([float(cell) if cell else float("nan") for cell in cells[key]], dtype=float)
            continue
        frame[key] = pd.Series([cell or None for cell in normalize_class_names(cells[key])], dtype=object)
        if key in classes:
            before[key] = _counts(frame[key])
            frame[key] = merge_classes(frame[key], classes[key])
            spec |= label_target(frame[key].dropna())
    return before
