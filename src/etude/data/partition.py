"""Seeded partitions of clips into balanced subsets, and official splits and folds of a table.

A partition keeps groups together and classes in proportion.

With few groups, few partitions are balanced, and a search for the best one returns the same partition for every seed.
Therefore all balanced partitions are collected first, independently of the seed. The best one is put first and the
others into a fixed random order, and the seed is the index in this order. Seeds 0 ... n - 1 thus select n different
partitions. With many groups, the number of balanced partitions is practically unlimited, and a seeded search returns
one of them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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

TOLERANCE = 0.05
"""Largest additional deviation of a class. A partition is balanced if it has no more empty subsets and missing classes
than the best partition, and if no class deviates from its shares by more than TOLERANCE above the best partition."""
FEW_UNITS = 30  # units up to which all balanced partitions are collected
MAX_POOL = 1000  # balanced partitions that are collected; with this number or more they are practically unlimited
MAX_PLACEMENTS = 20_000  # units assigned over all restarts, so that a collection with fewer units has more restarts
MAX_ENUMERATED = 2**23  # numbers in the largest array of a complete enumeration, 32 MB
EPSILON = 1e-5  # shares of a class that are rounding errors of float32


@dataclass(frozen=True)
class Partition:
    """Subset of each clip.

    Args:
        subsets: Index of the subset of each clip (n,).
        count: Number of balanced partitions, after which seeds repeat. None if it is practically unlimited.
    """

    subsets: np.ndarray
    count: int | None


def partition(
    units: np.ndarray, strata: np.ndarray, fractions: tuple[float, ...], seed: int, interchangeable: bool = False
) -> Partition:
    """Assign each clip to a subset.

    Args:
        units: Unit of each clip (n,), 0 ... G - 1. Clips of a unit are in one subset.
        strata: Class of each clip (n,), 0 ... C - 1, kept in proportion.
        fractions: Share of clips in each of the S subsets; they add up to 1.
        seed: Seed of the partition.
        interchangeable: Whether subsets are interchangeable, as folds are. Partitions that differ only in the order of
            their subsets then count once.
    """
    counts = np.zeros((units.max() + 1, strata.max() + 1))
    np.add.at(counts, (units, strata), 1)
    share = counts[:, counts.sum(0) > 0]
    # the last column is the share of all clips, so that subsets also have the right sizes
    share = np.hstack([share / share.sum(0), counts.sum(1, keepdims=True) / counts.sum()])
    rng = np.random.default_rng(seed)
    if len(share) > FEW_UNITS:
        best = min(_greedy_assignments(share, fractions, rng), key=lambda candidate: _cost(candidate, share, fractions))
        return Partition(best[units], None)
    pool = _balanced_assignments(share, np.array(fractions), interchangeable)
    chosen = pool[seed % len(pool)]
    if interchangeable:  # otherwise the first subset would contain the first unit for every seed
        chosen = rng.permutation(len(fractions))[chosen]
    return Partition(chosen[units], len(pool) if len(pool) < MAX_POOL else None)


def _cost(subsets: np.ndarray, share: np.ndarray, fractions: tuple[float, ...]) -> float:
    """Return the sum of squared deviations, to which empty subsets and missing classes add much more."""
    assigned = np.stack([share[subsets == subset].sum(0) for subset in range(len(fractions))])
    missing, empty = (assigned == 0).sum(), (assigned == 0).all(1).sum()
    return float(((assigned - np.array(fractions)[:, None]) ** 2).sum() + 10 * missing + 1000 * empty)


def _greedy_assignments(
    share: np.ndarray, fractions: tuple[float, ...], rng: np.random.Generator, most: int = 500
) -> np.ndarray:
    """Return the subset of each unit (n, G), assigned greedily in several random orders, large units first.

    Args:
        share: Share of each class, and of all clips, that is in each unit (G, C + 1).
        fractions: Share of each subset (S,).
        rng: Random generator of the orders.
        most: Largest number of assignments n.
    """
    target, n_units = np.array(fractions)[:, None], len(share)
    rows = np.arange(max(2, min(most, MAX_PLACEMENTS // n_units)))
    orders, noise = np.zeros((len(rows), n_units), int), np.zeros((n_units, len(rows), len(target)))
    for row in rows:
        order = rng.permutation(n_units)
        orders[row] = order[np.argsort(-share[order].max(1) * rng.uniform(0.5, 1.0, n_units), kind="stable")]
        noise[:, row] = rng.uniform(0, 1e-9, (n_units, len(target)))
    assigned, subsets = np.zeros((len(rows), len(target), share.shape[1])), np.zeros((len(rows), n_units), int)
    for units, of_units in zip(orders.T, noise, strict=True):
        missing, added = target - assigned, share[units][:, None]
        # decrease of the squared distance to the target in each subset
        gain = (missing**2 - (missing - added) ** 2).sum(2) / target[:, 0]
        absent = assigned[1::2] == 0  # in half of the orders, an empty subset or one that lacks a class comes first
        gain[1::2] += 100.0 * absent.all(2) + (absent & (added[1::2] > 0)).sum(2)
        chosen = np.argmax(gain + of_units, axis=1)
        subsets[rows, units] = chosen
        assigned[rows, chosen] += added[:, 0]
    return subsets


def _balanced_assignments(share: np.ndarray, fractions: np.ndarray, interchangeable: bool) -> np.ndarray:
    """Return balanced assignments of few units (n, G) in a fixed random order, at most MAX_POOL of them.

    Args:
        share: Share of each class, and of all clips, that is in each unit (G, C + 1).
        fractions: Share of each subset (S,).
        interchangeable: Whether assignments that differ only in the order of their subsets are equal.
    """
    rng = np.random.default_rng(0)  # the same pool for every seed of the user
    n_units, n_subsets = len(share), len(fractions)
    if float(n_subsets) ** n_units * n_subsets * share.shape[1] <= MAX_ENUMERATED:
        pool, assigned = np.zeros((1, 0), np.int8), np.zeros((1, n_subsets, share.shape[1]), np.float32)
        for unit in share.astype(np.float32):  # each assignment of the previous units, with the unit in each subset
            assigned = np.repeat(assigned, n_subsets, axis=0)
            for subset in range(n_subsets):
                assigned[subset::n_subsets, subset] += unit
            new = np.tile(np.arange(n_subsets, dtype=np.int8), len(pool))
            pool = np.hstack([np.repeat(pool, n_subsets, axis=0), new[:, None]])
        pool = pool[_is_balanced(assigned, fractions)]
        pool = np.unique(_sort_subsets(pool) if interchangeable else pool, axis=0)
    else:
        pool = _search_balanced(share, fractions, interchangeable, rng)
    greedy = _greedy_assignments(share[:, :-1], tuple(fractions), np.random.default_rng(0))
    best = min(greedy, key=lambda candidate: _cost(candidate, share, tuple(fractions)))[None].astype(pool.dtype)
    is_best = (pool == (_sort_subsets(best) if interchangeable else best)).all(1)
    order = rng.permutation(len(pool))
    order = np.concatenate([order[is_best[order]], order[~is_best[order]]])  # seed 0 selects the best partition
    return pool[order[:MAX_POOL]]


def _search_balanced(
    share: np.ndarray, fractions: np.ndarray, interchangeable: bool, rng: np.random.Generator
) -> np.ndarray:
    """Return balanced assignments (n, G) from greedy ones and their neighbours, until no other one is found."""
    pool = _greedy_assignments(share, tuple(fractions), rng, most=MAX_POOL)
    expanded: set[bytes] = set()
    while True:
        pool = np.unique(_sort_subsets(pool) if interchangeable else pool, axis=0)
        pool = pool[_is_balanced(_sum_shares(pool, share, len(fractions)), fractions)]
        new = [row for row in pool if row.tobytes() not in expanded]
        # the best one is always expanded, because a better neighbour changes which partitions are balanced
        best = pool[_best(*_deviations(_sum_shares(pool, share, len(fractions)), fractions))]
        if best.tobytes() not in expanded:
            new = [best]
        elif not new or len(pool) >= MAX_POOL:
            return pool
        expanded |= {row.tobytes() for row in new[:20]}
        pool = np.vstack([pool, *(_neighbours(row, len(fractions)) for row in new[:20])])


def _neighbours(subsets: np.ndarray, n_subsets: int) -> np.ndarray:
    """Return the assignments in which one unit is moved or two units are exchanged (n, G)."""
    n_units = len(subsets)
    moved = np.repeat(subsets[None], n_units * n_subsets, axis=0)
    moved[np.arange(len(moved)), np.repeat(np.arange(n_units), n_subsets)] = np.tile(np.arange(n_subsets), n_units)
    first, second = np.triu_indices(n_units, 1)
    swapped, rows = np.repeat(subsets[None], len(first), axis=0), np.arange(len(first))
    swapped[rows, first], swapped[rows, second] = subsets[second], subsets[first]
    return np.vstack([moved, swapped])


def _sum_shares(pool: np.ndarray, share: np.ndarray, n_subsets: int) -> np.ndarray:
    """Return the share of each class in each subset (n, S, C), for assignments (n, G) and shares (G, C)."""
    units = share.astype(np.float32)
    return np.stack([(pool == subset).astype(np.float32) @ units for subset in range(n_subsets)], axis=1)


def _deviations(assigned: np.ndarray, fractions: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return, for shares (n, S, C), empty subsets (n,), missing classes (n,), largest deviation (n, C) and cost (n,).

    The deviation of a class is the difference between its share in a subset and the fraction of the subset.
    """
    absent = assigned < EPSILON
    difference = assigned - fractions[:, None].astype(np.float32)
    empty, missing = absent[:, :, -1].sum(1), absent[:, :, :-1].sum((1, 2))
    return empty, missing, np.abs(difference).max(1), (difference**2).sum((1, 2))


def _best(empty: np.ndarray, missing: np.ndarray, deviation: np.ndarray, cost: np.ndarray) -> int:
    """Return the index of the best assignment: by empty subsets, missing classes, cost, and largest deviation.

    Numbers are rounded, so that the order of equal assignments does not depend on rounding errors.
    """
    keys = (empty, missing, np.round(cost, 4), np.round(deviation.max(1), 4))
    rows = np.arange(len(cost))
    for key in keys:
        rows = rows[key[rows] == key[rows].min()]
    return int(rows[0])


def _is_balanced(assigned: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Return whether each assignment (n,) with shares (n, S, C) is balanced, as defined by TOLERANCE."""
    empty, missing, deviation, cost = _deviations(assigned, fractions)
    best = _best(empty, missing, deviation, cost)
    close = (deviation <= deviation[best] + TOLERANCE + EPSILON).all(1)
    return np.asarray(close & (empty == empty[best]) & (missing == missing[best]))


def _sort_subsets(pool: np.ndarray) -> np.ndarray:
    """Return assignments (n, G) with subsets numbered in the order of their first units."""
    result = np.full_like(pool, -1)
    number = np.zeros(len(pool), pool.dtype)
    for unit in range(pool.shape[1]):
        new = result[:, unit] < 0
        result = np.where(new[:, None] & (pool == pool[:, [unit]]), number[:, None], result)
        number = number + new
    return result


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
        log.warning("the test split is fold %s of the column %s; for all folds, use -m sweep=folds", folds[0], column)
        return folds[0]
    by_text = dict(zip(normalize_class_names([str(name) for name in folds]), folds, strict=True))
    (text,) = normalize_class_names([str(fold)])
    if text not in by_text:
        raise DataError(
            f"data.split.fold={fold}: the folds of the column {column} are {', '.join(map(str, folds))}; for all of "
            "them, use -m sweep=folds"
        )
    return by_text[text]
