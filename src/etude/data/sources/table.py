"""Collections from a table of audio files, with a row per clip and a column per target."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.data.audio_files import SkippedItem
from etude.data.collection import (
    NO_GROUP,
    RESERVED,
    Collection,
    column_name,
    label_target,
    log_skipped_items,
    merge_classes,
    merged_names,
    parse_mapping,
    slug,
)
from etude.data.partition import COLUMNS as OFFICIAL_COLUMNS
from etude.data.partition import official_folds
from etude.data.table_reader import ABSENT, infer_target, normalize_class_names, parse_declared_target, read_table
from etude.errors import DataError
from etude.files.safe_read import (
    ListedFile,
    expand_path,
    locate_files,
    to_nfc,
)

if TYPE_CHECKING:
    import pandas as pd


log = logging.getLogger(__name__)
COLUMNS_OF_CLIPS = ("id", "path", "group", "split")  # columns that are never targets
DESCRIPTION = "it describes clips; to use it as a target, set data.targets={{{0}: label}}"
DESCRIPTIVE_COLUMNS = ("title", "artist", "licence", "license")  # columns that are targets only if declared

Columns = dict[str, list[str]]


def collection(
    table: str,
    audio: str | None = None,
    targets: Mapping[str, Any] | str | None = None,
    name: str | None = None,
    classes: Mapping[str, Mapping[Any, Any]] | str | None = None,
    missing: Any = (),
    id_space: str | None = None,
    split_column: str | None = "auto",
    kinds: Mapping[str, Any] | str | None = None,
) -> Collection:
    """Return the collection of a table.

    Args:
        table: A file .csv, .tsv, .xlsx or .parquet. It must have a column `path`. It may have `id` (default: the path
            without suffix), `group` (default: `artist`), and `split` or `fold` with official splits or folds. The
            columns `title`, `artist`, `licence` and `license` describe clips and are targets only if `targets` or
            `kinds` names them. Any other column may be a target. An empty cell is a missing value; other texts are not,
            unless listed in `missing`.
        audio: Folder to which the paths are relative. A path that does not exist there, or any path if it is None, is
            relative to the folder of the table, or else to the working folder. A path may also be absolute, unless the
            table is inside a pack or a run.
        targets: Kind of each target by column, `label`, `scalar` or a range such as [40, 220], as a mapping or YAML
            text. Other columns are not targets. None infers the targets.
        name: Name of the collection. None means the name of the file.
        classes: For each label, a mapping from a new class to an old class or a list of old classes. Other classes
            become missing labels.
        missing: A cell or a list of cells that mean a missing value, such as NA, in upper or lower case. It applies to
            all columns but `path` and `id`.
        id_space: Archive whose ids and groups these are, such as `fma`. None means that they have no meaning outside of
            this table.
        split_column: Column of official splits or folds (`data.split.column`), which is not a target.
        kinds: Kinds of some columns (`data.targets`), in the form of `targets`; None leaves a column out. Other columns
            are as without it.

    Returns:
        The collection. Clips without a label and rows without a path are left out, and listed in `skipped_items`.

    Raises:
        DataError: The file cannot be read, or a cell is invalid; the message names the row.
    """
    file = expand_path(table)
    folder = None if audio is None else expand_path(audio)
    cells, locations = read_table(file)
    if "path" not in cells:
        content = f"its columns are {', '.join(cells)}" if cells else "it has no columns"
        raise DataError(f"{file}: has no column named 'path'; {content}; give the column of audio files this name")
    if not locations:
        raise DataError(f"{file}: has a header but no rows")
    if folder is not None and not folder.is_dir():
        raise DataError(f"audio: there is no folder {folder}")
    cells, locations, skipped_items = _drop_rows_without_path(file, cells, locations)
    cells = _clean_cells(file, cells, missing if isinstance(missing, list | tuple) else [missing])
    given = {column_name(key): kind for key, kind in (parse_mapping(kinds, "data.targets") or {}).items()}
    left_out = {key: "data.targets leaves it out" for key, kind in given.items() if kind is None}
    given = {key: kind for key, kind in given.items() if kind is not None}
    mapping = parse_mapping(targets, "targets")
    only = None if mapping is None else {**{column_name(key): kind for key, kind in mapping.items()}, **given}
    declared = given if only is None else only
    merging = {to_nfc(str(key)): value for key, value in (parse_mapping(classes, "classes") or {}).items()}
    frame, missing_note = _build_table(file, folder, cells, locations, declared)
    official = _official_columns(file, cells, split_column, declared)
    frame = frame.assign(**official)
    candidates = {key: cells[key] for key in cells if key not in official}
    specs, unused = _find_targets(file, candidates, declared, only is None, left_out, merging, locations)
    unused |= {key: f"it contains the {key} of each clip" for key in ("id", "path", "group") if key in cells}
    unused |= dict.fromkeys(official, "it contains official splits or folds")
    before = _add_targets(frame, cells, specs, merging)
    unlabelled = frame[list(specs)].isna().all(axis=1)
    skipped_items += [SkippedItem(clip, "clip has no label") for clip in frame["id"][unlabelled]]
    frame = frame[~unlabelled].reset_index(drop=True)
    log_skipped_items(file, skipped_items)
    merged = {key: merged_names(counts, merging[key]) for key, counts in before.items()}
    column = "licence" if "licence" in frame else "license"
    licences = _count_values(frame[column]) if column in frame else {}
    extra = {"before": before, "merged": merged, "licences": licences}
    grouped = int(frame["group"].notna().sum())
    title = f"{name or file.stem}: {len(frame)} clips with {', '.join(specs)}"
    groups = f"{grouped} of them are in {frame['group'].nunique()} groups" if grouped else "their groups are unknown"
    card = f"# {title}\n\nClips of the table `{file.name}`; {groups}.\n"
    if licences:
        card += "\nLicences:\n\n" + "".join(f"- {key}: {count} clips\n" for key, count in licences.items())
    return Collection(
        name=slug(name or file.stem),
        title=title,
        table=frame,
        targets=specs,
        card=card,
        note="" if grouped or "artist" in specs else NO_GROUP,
        extra={key: value for key, value in extra.items() if value},
        skipped_items=tuple(skipped_items),
        id_space=id_space,
        missing_note=missing_note,
        unused_columns=unused,
    ).check()


def _drop_rows_without_path(
    file: Path, cells: Columns, locations: list[str]
) -> tuple[Columns, list[str], list[SkippedItem]]:
    """Return the rows with a path, and the others as skipped items.

    Raises:
        DataError: No row has a path.
    """
    has = [bool(Path(cell.replace("\\", "/")).name) for cell in cells["path"]]
    if not any(has):
        raise DataError(f"{file}: the column path is empty in all {len(locations)} rows")
    skipped_items = [
        SkippedItem(location.removeprefix(f"{file}, "), "path is empty", clip=True)
        for location, valid in zip(locations, has, strict=True)
        if not valid
    ]
    if skipped_items:
        cells = {key: [c for c, valid in zip(column, has, strict=True) if valid] for key, column in cells.items()}
        locations = [location for location, valid in zip(locations, has, strict=True) if valid]
    return cells, locations, skipped_items


def _clean_cells(file: Path, cells: Columns, missing: Sequence[Any]) -> Columns:
    """Return the columns in Unicode's composed form, with missing values as empty cells."""
    absent = {"null" if text is None else str(text).lower() for text in missing}  # YAML parses null and nan as values
    present = {cell.lower() for key, column in cells.items() if key not in ("path", "id") for cell in column}
    if unused := absent - present:
        raise DataError(f"missing: {file} has no cell {', '.join(sorted(unused))}")
    clean = {}
    for key, column in cells.items():
        if key in ("path", "id"):
            clean[key] = column
            continue
        composed = {cell: to_nfc(cell) for cell in set(column)}
        if duplicates := [form for form, count in Counter(composed.values()).items() if count > 1]:
            log.warning("%s: column %s has %r in two Unicode forms, which are merged", file, key, duplicates[0])
        clean[key] = ["" if cell.lower() in absent else composed[cell] for cell in column]
    return clean


def _count_values(column: pd.Series) -> dict[str, int]:
    """Return the number of rows with each value."""
    return {str(value): int(count) for value, count in column.value_counts().items()}


def _build_table(
    file: Path, audio: Path | None, cells: Columns, locations: list[str], targets: Mapping[str, Any]
) -> tuple[pd.DataFrame, str]:
    """Return a table of ids, paths, groups and descriptions, and where missing files were searched, or ""."""
    import pandas as pd

    rows: dict[str, list[Any]] = {"id": [], "path": [], "group": _find_groups(file, cells, targets)}
    files, note = locate_files(file, audio, cells["path"], locations)
    rows["path"] = [str(listed.path) for listed in files]
    rows["id"] = cells.get("id") or [
        _path_id(cell, entry, file) for cell, entry in zip(cells["path"], files, strict=True)
    ]
    seen: dict[str, str] = {}
    for clip, location in zip(rows["id"], locations, strict=True):
        if not clip:
            raise DataError(f"{location}: id is empty")
        if clip in seen:
            hint = "" if "id" in cells else ", the path without suffix; add a column id to distinguish them"
            raise DataError(f"{seen[clip]} and {location.rpartition(', ')[2]} both have id {clip!r}{hint}")
        seen[clip] = location
    rows |= {key: [cell or None for cell in cells[key]] for key in DESCRIPTIVE_COLUMNS if key in cells}
    return pd.DataFrame(rows, dtype=object), note


def _path_id(path: str, listed: ListedFile, file: Path) -> str:
    """Return the id of a clip without an id, its path without suffix, relative to the table if it is below it."""
    path = str(listed.path) if path.lower().startswith("file:") else path.replace("\\", "/")
    return Path(os.path.splitext(path.removeprefix(f"{file.absolute().parent}/"))[0]).as_posix()  # noqa: PTH122


def _official_columns(file: Path, cells: Columns, split_column: str | None, targets: Mapping[str, Any]) -> Columns:
    """Return the columns of official splits or folds, with `train`, `val` and `test` for all names of splits.

    An empty cell stays an empty text.

    Raises:
        DataError: The table has no such column, or it is a target.
    """
    named = split_column if split_column not in ("auto", None) else None
    if named is not None and (named not in cells or named in COLUMNS_OF_CLIPS[:3]):
        others = ", ".join(key for key in cells if key not in COLUMNS_OF_CLIPS[:3])
        raise DataError(f"data.split.column={named}: {file} has no such column of splits; other columns are {others}")
    if named in targets:
        raise DataError(f"data.split.column={named}: {named} is also declared as a target; remove it from one of them")
    columns = {}
    for key in dict.fromkeys((*OFFICIAL_COLUMNS, *filter(None, [named]))):
        if key not in cells or key in targets:
            continue
        texts = [cell.strip() for cell in cells[key]]
        try:
            values = iter(official_folds(list(filter(None, texts)), f"column {key}")[0])
        except DataError:  # an error only if clips are split by this column
            values = iter(list(filter(None, texts)))
        columns[key] = [str(next(values)) if text else "" for text in texts]
    return columns


def _find_groups(file: Path, cells: Columns, targets: Mapping[str, Any]) -> list[str | None]:
    """Return the group of each clip, or its artist if the table has no groups."""
    key = "group" if "group" in cells else "artist"
    if key not in cells or key in targets:
        return [None] * len(cells["path"])
    if key == "artist":
        log.info("%s: has no column group; clips are grouped by artist", file)
    if missing := cells[key].count(""):
        log.info("%s: %d clips have no %s; each is a separate group", file, missing, key)
    if suspects := [cell for cell in dict.fromkeys(cells[key]) if cell.lower() in ABSENT]:
        log.warning("%s: clips whose %s is %r are one group; if it means a missing value, set data.source.missing=[%r]",
                    file, key, suspects[0], suspects[0])  # fmt: skip
    forms: dict[str, list[str]] = {}
    for cell in dict.fromkeys(cells[key]):
        forms.setdefault(" ".join(cell.casefold().split()), []).append(cell)
    if variants := [repr(same)[1:-1] for same in forms.values() if len(same) > 1]:
        log.warning("%s: %d names in the column %s are written in several forms, which are different groups and can be "
                    "in training and test: %s", file, len(variants), key, "; ".join(variants[:5]))  # fmt: skip
    return [cell or None for cell in cells[key]]


def _find_targets(
    file: Path,
    cells: Columns,
    declared: Mapping[str, Any],
    infer: bool,
    left_out: Mapping[str, str],
    classes: Mapping[str, Any],
    locations: list[str],
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return the specifications of the targets, and the reason for each other column.

    Args:
        file: The table, for messages.
        cells: Columns of the table without official splits.
        declared: Kind of each declared target.
        infer: Whether other columns are inferred.
        left_out: Columns that are not targets, with the reason.
        classes: Merged classes by label.
        locations: The file and row of each cell, for messages.
    """
    candidates = [key for key in cells if key not in COLUMNS_OF_CLIPS]
    if unknown := [key for key in [*declared, *left_out, *classes] if key not in candidates]:
        raise DataError(
            f"targets: {file} has no target column {unknown[0]}; columns are {', '.join(candidates) or 'none'}"
        )
    inferred = [key for key in candidates if infer and key not in declared and key not in left_out]
    if unlabelled := [key for key in classes if key not in inferred and declared.get(key) != "label"]:
        raise DataError(f"classes: {unlabelled[0]} is not declared as a label in targets, so it has no classes")
    specs: dict[str, dict[str, Any]] = {}
    unused = dict(left_out)
    for key in candidates if infer else declared:
        if key in declared:
            specs[key] = parse_declared_target(key, cells[key], declared[key], locations)
        elif key in left_out:
            continue
        elif key in classes:
            specs[key] = parse_declared_target(key, cells[key], "label", locations)
        elif key in RESERVED:
            unused[key] = "the name is reserved for packs; rename it"
        elif key in DESCRIPTIVE_COLUMNS:
            unused[key] = DESCRIPTION.format(key)
            continue
        else:
            result, remarks = infer_target(key, cells[key], locations)
            for remark in remarks:
                log.warning("%s: column %s: %s", file, key, remark)
            if isinstance(result, str):
                unused[key] = result
            else:
                specs[key] = result
        if key in unused:
            log.warning("%s: column %s is not used as a target: %s", file, key, unused[key])
    if not infer:
        names = [key for key in candidates if key not in specs]
        unused |= {key: "data.source.targets does not name it" for key in names if key not in unused}
    if not specs:
        raise DataError(f"{file}: has no target column; declare one in data.targets, such as {{genre: label}}")
    log.info("%s: targets are %s", file, ", ".join(f"{key} ({spec['kind']})" for key, spec in specs.items()))
    return specs, unused


def _add_targets(
    frame: pd.DataFrame, cells: Columns, specs: dict[str, dict[str, Any]], classes: Mapping[str, Any]
) -> dict[str, dict[str, int]]:
    """Add a column per target, and return for each target the number of clips per class before merging."""
    import pandas as pd

    before = {}
    for key, spec in specs.items():
        if spec["kind"] == "scalar":
            frame[key] = pd.Series([float(cell) if cell else float("nan") for cell in cells[key]], dtype=float)
            continue
        frame[key] = pd.Series([cell or None for cell in normalize_class_names(cells[key])], dtype=object)
        if key in classes:
            before[key] = _count_values(frame[key])
            frame[key] = merge_classes(frame[key], classes[key])
            spec |= label_target(frame[key].dropna())
    return before
