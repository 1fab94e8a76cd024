"""Splits into training, validation and test sets, which by default do not separate a group.

Clips of one artist share voice, room and mastering. If an artist is in both training and test, scores measure memorised
artists (Pampalk, Flexer & Widmer, 2005, "Improvements of audio-based music similarity and genre classification"). Two
copies of a recording under different ids are the same kind of leak (Sturm, 2014, "The state of the art ten years after
a state of the art").
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from etude.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


MAX_PLACEMENTS = 20_000  # units assigned over all restarts, so that a collection with fewer units has more restarts


def partition(units: np.ndarray, strata: np.ndarray, fractions: tuple[float, ...], seed: int) -> np.ndarray:
    """Assign each clip to a subset, and return the index of its fraction (n,).

    Args:
        units: Unit of each clip (n,), 0 ... G - 1. Clips of a unit are in one subset.
        strata: Class of each clip (n,), 0 ... C - 1, kept in proportion.
        fractions: Share of clips in each subset; they add up to 1.
        seed: Seed of the partition.
    """
    return _assign_units(_count_classes(units, strata), fractions, seed)[units]


def _count_classes(units: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Return the number of clips of each class in each unit, (G, C)."""
    counts = np.zeros((units.max() + 1, strata.max() + 1))
    np.add.at(counts, (units, strata), 1)
    return counts[:, counts.sum(0) > 0]


def _assign_units(counts: np.ndarray, fractions: tuple[float, ...], seed: int) -> np.ndarray:
    """Assign units to subsets (G,) greedily in several seeded orders, and return the best assignment.

    Large units are assigned first. For each class and subset, the share of the class in the subset should equal the
    fraction of the subset. The cost of an assignment is the sum of the squared deviations. A class that is missing from
    a subset costs more than any deviation, so that each subset contains each class wherever possible.
    """
    rng = np.random.default_rng(seed)
    share = counts / counts.sum(0)
    target = np.array(fractions)[:, None]
    best, best_cost = np.zeros(len(counts), int), np.inf
    for attempt in range(max(2, min(500, MAX_PLACEMENTS // len(counts)))):
        order = rng.permutation(len(counts))
        order = order[np.argsort(-share[order].max(1) * rng.uniform(0.5, 1.0, len(order)), kind="stable")]
        assigned, subsets = np.zeros((len(fractions), counts.shape[1])), np.zeros(len(counts), int)
        for unit in order:
            # decrease of the squared distance to the target in each subset
            gain = ((target - assigned) ** 2 - (target - assigned - share[unit]) ** 2).sum(1) / target[:, 0]
            if attempt % 2:  # an empty subset comes first, then one that lacks a class of this unit
                gain += 100.0 * (assigned == 0).all(1) + ((assigned == 0) & (share[unit] > 0)).sum(1)
            subsets[unit] = int(np.argmax(gain + rng.uniform(0, 1e-9, len(gain))))
            assigned[subsets[unit]] += share[unit]
        missing, empty = (assigned == 0).sum(), (assigned == 0).all(1).sum()
        cost = float(((assigned - target) ** 2).sum() + 10 * missing + 1000 * empty)
        if cost < best_cost:
            best, best_cost = subsets, cost
    return best


SPLITS = ("train", "val", "test")
UNUSED = "none"  # split of a clip that is not used
KINDS = ("grouped", "stratified", "random", "official")
DUPLICATES = ("refuse", "drop", "allow")
QUANTILES = 5  # strata of a scalar
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Splitter of a table of clips into training, validation and test.

    Args:
        kind: `grouped` keeps groups together and the classes of `stratify` in proportion. `stratified` ignores groups.
            `random` ignores groups and classes. `official` reads the `split` column of the table; if it has no
            validation clips, they are taken from the training clips, grouped and stratified.
        fractions: Shares of clips for training, validation and test.
        folds: Number of folds in cross-validation.
        fold: Index of the test fold. The next fold is validation, the others are training. None uses `fractions`.
        seed: Seed of the assignment.
        stratify: Column whose classes (or fifths, for a scalar) have the same proportions in all splits. `auto` is the
            first target. None, or a column that the table lacks, disables stratification.
        allow_shared_groups: Accept that a group is in two splits. Scores then also measure memorised groups.
        duplicates: Handling of the same audio under two ids: `refuse`, `drop` all but the first, or `allow`.
    """

    kind: str = "grouped"
    fractions: tuple[float, float, float] = (0.6, 0.15, 0.25)
    folds: int = 5
    fold: int | None = None
    seed: int = 0
    stratify: str | None = "auto"
    allow_shared_groups: bool = False
    duplicates: str = "refuse"

    def __post_init__(self) -> None:
        for name, choices in (("kind", KINDS), ("duplicates", DUPLICATES)):
            if (value := getattr(self, name)) not in choices:
                raise DataError(f"data.split.{name} must be one of {', '.join(choices)}, got {value!r}")
        if len(self.fractions) != 3 or min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise DataError(
                f"data.split.fractions must be three positive shares that add up to 1, got {self.fractions}"
            )
        if self.folds < 3:
            raise DataError(f"data.split.folds must be at least 3 (training, validation, test), got {self.folds}")
        if self.fold is not None and not 0 <= self.fold < self.folds:
            raise DataError(f"data.split.fold must be in 0 ... {self.folds - 1}, got {self.fold}")
        if self.fold is not None and self.kind == "official":
            raise DataError(
                "data.split.fold: an official split has no folds; use data.split.kind=grouped or stratified"
            )

    def assign(self, table: pd.DataFrame, targets: Sequence[str] = ()) -> np.ndarray:
        """Return the split of each clip.

        Args:
            table: Clips with `id`, `group` and the `stratify` column; `split` for `official`; and `content`, by which
                duplicates are found.
            targets: Columns of targets. `stratify=auto` uses the first.

        Returns:
            Names of splits (n,), each of `train`, `val`, `test`, or `none` for a dropped duplicate.

        Raises:
            DataError: A split is empty. Or a group is in two splits, or the same audio has two ids, and the options do
                not allow it.
        """
        kept = self._without_duplicates(table)
        used = table[kept].reset_index(drop=True)
        groups = group_codes(used)
        strata = self._strata(used, targets)
        units = groups if self.kind in ("grouped", "official") else np.arange(len(used))
        if self.kind == "official":
            splits = self._official_splits(used, units, strata)
        elif self.fold is not None:
            folds = partition(units, strata, (1 / self.folds,) * self.folds, self.seed)
            splits = np.select([folds == self.fold, folds == (self.fold + 1) % self.folds], ["test", "val"], "train")
        else:
            splits = np.array(SPLITS)[partition(units, strata, self.fractions, self.seed)]
        self._check_splits(used, groups, splits)
        result = np.full(len(table), UNUSED, dtype="<U5")
        result[kept] = splits
        return result

    def _without_duplicates(self, table: pd.DataFrame) -> np.ndarray:
        """Return a mask (n,) that excludes clips with the same audio as an earlier clip."""
        if self.duplicates == "allow" or "content" not in table.columns:
            return np.ones(len(table), bool)
        duplicate = table["content"].duplicated().to_numpy()
        if not duplicate.any():
            return ~duplicate
        first = dict(zip(table["content"][::-1], table["id"][::-1], strict=True))
        pairs = [f"{first[row.content]} = {row.id}" for row in table[duplicate].itertuples()]
        count = f"{len(pairs)} duplicate{'s' if len(pairs) > 1 else ''}"
        if self.duplicates == "refuse":
            raise DataError(
                f"the same audio has two ids ({count}) and could be in both training and test: {_first_five(pairs)}; "
                "drop duplicates with data.split.duplicates=drop, or keep them with data.split.duplicates=allow"
            )
        log.warning("the same audio has two ids: %s dropped (%s)", count, _first_five(pairs))
        return ~duplicate

    def _strata(self, table: pd.DataFrame, targets: Sequence[str]) -> np.ndarray:
        """Return the stratum of each clip (n,). Clips without a label form their own stratum."""
        import pandas as pd

        name = next(iter(targets), None) if self.stratify == "auto" else self.stratify
        if self.kind == "random" or name not in table.columns:
            return np.zeros(len(table), int)
        column = table[name]
        if pd.api.types.is_numeric_dtype(column) and column.nunique() > QUANTILES:
            column = pd.qcut(column, QUANTILES, labels=False, duplicates="drop")
        return column.astype("category").cat.codes.to_numpy().astype(int) + 1

    def _official_splits(self, table: pd.DataFrame, units: np.ndarray, strata: np.ndarray) -> np.ndarray:
        if "split" not in table.columns or not table["split"].isin(SPLITS).all():
            raise DataError("data.split.kind=official needs a column `split` with train, val or test for every clip")
        splits = table["split"].to_numpy().astype(object)
        train = np.flatnonzero(splits == "train")
        if not (splits == "val").any() and len(train):
            share = self.fractions[1] / (self.fractions[0] + self.fractions[1])
            _, train_units = np.unique(units[train], return_inverse=True)
            splits[train[partition(train_units, strata[train], (1 - share, share), self.seed) == 1]] = "val"
        return splits.astype(str)

    def _check_splits(self, table: pd.DataFrame, groups: np.ndarray, splits: np.ndarray) -> None:
        if empty := [split for split in SPLITS if not (splits == split).any()]:
            raise DataError(
                f"no clips are left for {' and '.join(empty)}: {len(table)} clips in "
                f"{len(np.unique(groups))} groups are too few for data.split"
            )
        if self.allow_shared_groups:
            return
        pairs = {(int(group), str(split)) for group, split in zip(groups, splits, strict=True)}
        shared = sorted({group for group, _ in pairs if sum((group, split) in pairs for split in SPLITS) > 1})
        if shared:
            names = [str(table["group"].to_numpy()[groups == group][0]) for group in shared[:5]]
            raise DataError(
                f"{len(shared)} of {len(np.unique(groups))} groups are in more than one split "
                f"({_first_five(names, len(shared))}): use data.split.kind=grouped, or allow it with "
                "data.split.allow_shared_groups=true"
            )


def split_hash(ids: np.ndarray, splits: np.ndarray) -> str:
    """Return the SHA-256 of the sorted pairs of id and split, which identifies an assignment."""
    pairs = sorted(f"{i},{split}" for i, split in zip(ids, splits, strict=True))
    return hashlib.sha256("\n".join(pairs).encode()).hexdigest()


def group_codes(table: pd.DataFrame) -> np.ndarray:
    """Return the group of each clip as an integer (n,), 0 ... G - 1. A clip without a group forms its own group."""
    keys = [("", clip) if missing else ("group", name) for clip, name, missing in
            zip(table["id"], table["group"], table["group"].isna(), strict=True)]  # fmt: skip
    order = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([order[key] for key in keys])


def _first_five(names: Sequence[str], count: int | None = None) -> str:
    """Return the first five names, and an ellipsis if there are more."""
    return ", ".join(names[:5]) + (", ..." if (count or len(names)) > 5 else "")
