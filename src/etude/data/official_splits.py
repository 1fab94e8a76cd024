"""Official splits and folds that are columns of a table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from etude.data.table_reader import normalize_class_names, parse_number
from etude.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


SPLITS = ("train", "val", "test")
UNUSED = "none"  # split of a clip that is not used
COLUMNS = ("split", "fold")  # columns of official splits that `auto` finds
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    "test": "test",
}
log = logging.getLogger(__name__)


def find_column(table: pd.DataFrame, kind: str, column: str | None, targets: Sequence[str]) -> str | None:
    """Return the column of official splits of a table, or None if clips are split otherwise.

    Args:
        table: Table of clips.
        kind: `data.split.kind`.
        column: `data.split.column`.
        targets: Columns of targets, which are not columns of splits.

    Raises:
        DataError: The table has no such column.
    """
    names = COLUMNS if column == "auto" else () if column is None else (column,)
    present = [name for name in names if name in table.columns and name not in targets and table[name].notna().any()]
    if kind not in ("auto", "official"):
        if present and column == "auto":
            log.info("data.split.kind=%s: the column %s of the table is not used", kind, present[0])
        return None
    if not present:
        if column not in ("auto", None):
            reason = "is a target" if column in targets else "is no column of official splits or folds in this data"
            raise DataError(f"data.split.column={column}: {column} {reason}")
        if kind == "official":
            raise DataError("data.split.kind=official needs a column `split` or `fold`, or data.split.column=<name>")
        return None
    name = present[0]
    missing = table[name].isna()
    values, folds = official_folds([cell for cell in table[name][~missing].tolist() if cell != ""], f"column {name}")
    reason = ""
    if missing.any():  # not an empty cell, but no value at all, as in a union in which one collection has no splits
        reason = f"{int(missing.sum())} of {len(table)} clips lack a value, such as {table['id'][missing].iloc[0]}"
    elif len(folds) < 2 and not {"train", "test"} <= set(values):
        reason = "it has no training and test clips"
    if reason and kind == "auto" and column == "auto":
        log.warning("the column %s is not used, because %s; clips are split by data.split.fractions", name, reason)
        return None
    if missing.any():
        raise DataError(f"data.split.kind=official needs a split or fold in the column {name} for every clip; {reason}")
    if kind == "auto" and column == "auto":
        log.info("clips are split by the column %s; data.split.column=null splits them otherwise", name)
    return name


def official_folds(cells: Sequence[Any], location: str) -> tuple[list[str], tuple[int | str, ...]]:
    """Return the split or the fold of each cell of a column, and the names of the folds in order.

    Args:
        cells: Cells without missing values.
        location: Column for error messages.

    Returns:
        Names of splits and no folds, if all cells are train, val, test or another name of a split, in any case. Else
        the names of folds, which are integers if all of them are.

    Raises:
        DataError: Some cells are names of splits and others are not.
    """
    texts = normalize_class_names([str(cell).strip() for cell in cells])
    known = {text: SPLIT_NAMES.get(text.lower()) for text in dict.fromkeys(texts)}
    others = [text for text, split in known.items() if split is None]
    if not others:
        return [str(known[text]) for text in texts], ()
    if len(others) < len(known):
        first = next(text for text, split in known.items() if split is not None)
        raise DataError(
            f"{location}: has {first!r} and {others[0]!r}; all cells must be train, val or test, or all must be folds"
        )
    numbers = {text: parse_number(text) for text in others}
    if all(number is not None for number in numbers.values()):
        others.sort(key=lambda text: float(text))
    else:
        others.sort()
    if all(text.isdecimal() and str(int(text)) == text for text in others):
        return [int(text) for text in texts], tuple(int(text) for text in others)  # type: ignore[misc]
    return texts, tuple(others)


def select_fold(fold: int | str | None, folds: tuple[int | str, ...], column: str) -> int | str | None:
    """Return the test fold of a column of official folds, or None for a column of splits.

    Args:
        fold: `data.split.fold`. None selects the first fold.
        folds: Names of the folds. Empty if the column has splits.
        column: Name of the column.

    Raises:
        DataError: The column has no such fold.
    """
    if not folds:
        if fold is not None:
            raise DataError(
                f"data.split.fold={fold}: the column {column} has train, val and test and no folds; add "
                "data.split.kind=grouped or stratified"
            )
        return None
    if len(folds) == 1:
        raise DataError(f"data.split.column: the column {column} has the single fold {folds[0]}")
    if fold is None:
        log.warning("the test split is fold %s of the column %s; for all folds, use -m data.split.fold=%s",
                    folds[0], column, ",".join(map(str, folds)))  # fmt: skip
        return folds[0]
    by_text = dict(zip(normalize_class_names([str(name) for name in folds]), folds, strict=True))
    (text,) = normalize_class_names([str(fold)])
    if text not in by_text:
        raise DataError(
            f"data.split.fold={fold}: the folds of the column {column} are {', '.join(map(str, folds))}; for all of "
            f"them, use -m data.split.fold={','.join(map(str, folds))}"
        )
    return by_text[text]
