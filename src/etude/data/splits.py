"""Splits into training, validation and test sets, which by default do not separate a group.

Clips of one artist share voice, room and mastering. If an artist is in both training and test, scores measure memorised
artists (Pampalk, Flexer & Widmer, 2005, "Improvements of audio-based music similarity and genre classification"). Two
copies of a recording under different ids are the same kind of leak (Sturm, 2014, "The state of the art ten years after
a state of the art").
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.data.partition import SPLITS, UNUSED, find_column, official_folds, partition, select_fold
from etude.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


KINDS = ("auto", "grouped", "stratified", "random", "official")
DUPLICATES = ("refuse", "drop", "allow")
FEW_GROUPS = ("keep", "train", "drop")
QUANTILES = 5  # strata of a scalar
FEW_PARTITIONS = 10  # with fewer balanced partitions, the log states their number
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assignment:
    """Split of each clip, with the facts that the log, the record and the pages state.

    Args:
        splits: Split of each clip (N,): `train`, `val`, `test`, or `none` for a clip that is not used.
        kind: `grouped`, `stratified`, `random` or `official`.
        column: Column of official splits or folds. None for other kinds.
        fold: Test fold, an index, or the name of an official fold. None without folds.
        folds: Names of all folds. Empty without folds.
        partitions: Number of balanced partitions, after which seeds repeat. None if it is practically unlimited or if
            no seed is used.
        shared_groups: Groups with clips in more than one split.
        left_out: Reason why a clip is not used, by id.
    """

    splits: np.ndarray
    kind: str
    column: str | None = None
    fold: int | str | None = None
    folds: tuple[int | str, ...] = ()
    partitions: int | None = None
    shared_groups: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def unused(self) -> dict[str, int]:
        """Number of clips that are not used by reason."""
        return dict(Counter(self.left_out.values()))


@dataclass(frozen=True)
class Split:
    """Splitter of a table of clips into training, validation and test.

    Args:
        kind: `grouped` keeps groups together and the classes of `stratify` in proportion. `stratified` ignores groups.
            `random` ignores groups and classes. `official` reads a column of the table. `auto` is `official` if the
            table has such a column, else `grouped`.
        column: Column of official splits (train, val, test) or of official folds (any other names). `auto` is `split`
            or else `fold`. None does not use a column. If no clips are for validation, they are taken from the
            training clips, grouped and stratified.
        fractions: Shares of clips for training, validation and test.
        folds: Number of folds in cross-validation. Official folds have their own number.
        fold: Test fold: an index, or the name of an official fold. The next fold is validation, the others are
            training. None uses `fractions`, or the first official fold.
        seed: Seed of the assignment.
        stratify: Column whose classes (or fifths, for a scalar) have the same proportions in all splits. `auto` is the
            first target. None, or a column that the table lacks, disables stratification.
        few_groups: Handling of classes of `stratify` with fewer than three groups, which cannot be in all splits:
            `keep` assigns them like others, `train` puts their groups into training, `drop` leaves their clips out.
        allow_shared_groups: Accept that a group is in two splits. Scores then also measure memorised groups. An
            official split is always accepted.
        duplicates: Handling of the same audio under two ids: `refuse`, `drop` all but the first, or `allow`.
    """

    kind: str = "auto"
    fractions: tuple[float, float, float] = (0.6, 0.15, 0.25)
    folds: int = 5
    fold: int | str | None = None
    seed: int = 0
    stratify: str | None = "auto"
    allow_shared_groups: bool = False
    duplicates: str = "refuse"
    column: str | None = "auto"
    few_groups: str = "keep"

    def __post_init__(self) -> None:
        for name, choices in (("kind", KINDS), ("duplicates", DUPLICATES), ("few_groups", FEW_GROUPS)):
            if (value := getattr(self, name)) not in choices:
                raise DataError(f"data.split.{name} must be one of {', '.join(choices)}, got {value!r}")
        if len(self.fractions) != 3 or min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise DataError(
                f"data.split.fractions must be three positive shares that add up to 1, got {self.fractions}"
            )
        if self.folds < 3:
            raise DataError(f"data.split.folds must be at least 3 (training, validation, test), got {self.folds}")
        if self.kind not in ("auto", "official"):
            if self.column not in ("auto", None):
                raise DataError(
                    f"data.split.column={self.column} contradicts data.split.kind={self.kind}; use "
                    "data.split.kind=official, or data.split.column=null"
                )
            self._fold_index()
        elif self.kind == "official" and self.column is None:
            raise DataError("data.split.kind=official needs a column; name it with data.split.column")

    def assign(self, table: pd.DataFrame, targets: Sequence[str] = ()) -> np.ndarray:
        """Return the split of each clip (n,), as in `plan`."""
        return self.plan(table, targets).splits

    def plan(self, table: pd.DataFrame, targets: Sequence[str] = ()) -> Assignment:
        """Assign each clip to a split.

        Args:
            table: Clips with `id`, `group` and the `stratify` column; the column of official splits; and `content`, by
                which duplicates are found.
            targets: Columns of targets. `stratify=auto` uses the first.

        Raises:
            DataError: A split is empty. Or a group is in two splits, or the same audio has two ids, and the options do
                not allow it. Or the column of official splits is missing or has invalid values.
        """
        column = find_column(table, self.kind, self.column, targets)
        if column is None and self.kind == "auto":
            return replace(self, kind="grouped", column=None).plan(table, targets)
        left_out: dict[str, str] = {}
        used = np.ones(len(table), bool)
        if column is not None:
            used = (table[column] != "").to_numpy()
            if count := int((~used).sum()):
                left_out |= dict.fromkeys(table["id"][~used], f"empty cell in column {column}")
                log.warning("%d of %d clips have an empty cell in the column %s and are not used: %s",
                            count, len(table), column, _first_five(table["id"][~used].tolist()))  # fmt: skip
        rows = np.flatnonzero(used)
        unique = self._without_duplicates(table[used])
        left_out |= dict.fromkeys(table["id"].iloc[rows[~unique]], "duplicate")
        rows = rows[unique]
        strata, few = self._strata(table.iloc[rows], targets, official=column is not None)
        if self.few_groups == "drop" and few.any():
            left_out |= dict.fromkeys(table["id"].iloc[rows[few]], "class with few groups")
            rows, strata, few = rows[~few], strata[~few], few[~few]
        clips = table.iloc[rows].reset_index(drop=True)
        groups = group_codes(clips)
        if column is not None:
            result = self._official(clips, column, groups, strata)
        else:
            in_training = np.isin(groups, groups[few]) if self.few_groups == "train" else np.zeros(len(clips), bool)
            result = self._partitioned(len(clips), groups, strata, in_training)
        shared = self._check_splits(clips, groups, result)
        splits = np.full(len(table), UNUSED, dtype="<U5")
        splits[rows] = result.splits
        return replace(result, splits=splits, shared_groups=shared, left_out=left_out)

    def _partitioned(self, count: int, groups: np.ndarray, strata: np.ndarray, in_training: np.ndarray) -> Assignment:
        """Return a partition of the clips by fractions or into folds, with some clips in training."""
        units = groups if self.kind == "grouped" else np.arange(count)
        rest = np.flatnonzero(~in_training)
        splits = np.full(count, "train", dtype="<U5")
        fold = self._fold_index()
        if not len(rest):
            return Assignment(splits, self.kind)
        _, codes = np.unique(units[rest], return_inverse=True)
        fractions = self.fractions if fold is None else (1 / self.folds,) * self.folds
        found = partition(codes, strata[rest], fractions, self.seed, interchangeable=fold is not None)
        names = np.array(SPLITS)
        if fold is not None:
            names = np.full(self.folds, "train", dtype="<U5")
            names[[fold, (fold + 1) % self.folds]] = "test", "val"
        splits[rest] = names[found.subsets]
        self._log_partitions(found.count)
        folds = () if fold is None else tuple(range(self.folds))
        return Assignment(splits, self.kind, fold=fold, folds=folds, partitions=found.count)

    def _official(self, clips: pd.DataFrame, column: str, groups: np.ndarray, strata: np.ndarray) -> Assignment:
        """Return the splits of a column of the table, with validation from training if there is none."""
        values, folds = official_folds(clips[column].tolist(), f"column {column}")
        fold = select_fold(self.fold, folds, column)
        splits = np.array(values, dtype=object)
        if fold is not None:
            index = folds.index(fold)
            following = folds[(index + 1) % len(folds)] if len(folds) > 2 else None
            splits = np.select([splits == fold, splits == following], ["test", "val"], "train").astype(object)
        train = np.flatnonzero(splits == "train")
        count = None
        if not (splits == "val").any() and len(train):
            share = self.fractions[1] / (self.fractions[0] + self.fractions[1])
            _, units = np.unique(groups[train], return_inverse=True)
            found = partition(units, strata[train], (1 - share, share), self.seed)
            splits[train[found.subsets == 1]] = "val"
            self._log_partitions(count := found.count)
        return Assignment(splits.astype(str), "official", column, fold, folds, count)

    def _fold_index(self) -> int | None:
        """Return the index of the test fold, if folds are not official.

        Raises:
            DataError: It is not an index.
        """
        if self.fold is None:
            return None
        index = int(self.fold) if isinstance(self.fold, str) and self.fold.isdecimal() else self.fold
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < self.folds:
            raise DataError(f"data.split.fold must be in 0 ... {self.folds - 1}, got {self.fold}")
        return index

    def _log_partitions(self, count: int | None) -> None:
        """Log the number of balanced partitions if it is small, or if the seed repeats one of them."""
        if count is not None and self.seed >= count:
            log.warning("data.split.seed=%d gives the same split as data.split.seed=%d: only %d %s balanced",
                        self.seed, self.seed % count, count, "split is" if count == 1 else "splits are")  # fmt: skip
        elif count is not None and count < FEW_PARTITIONS:
            log.info("only %d %s balanced, so values of data.split.seed repeat after %d",
                     count, "split is" if count == 1 else "splits are", count)  # fmt: skip

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

    def _strata(self, table: pd.DataFrame, targets: Sequence[str], official: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the stratum of each clip (n,), and a mask of the clips whose class has fewer than three groups.

        Clips without a label form their own stratum. The mask is empty for `few_groups=keep` and for official splits.
        """
        import pandas as pd

        none = np.zeros(len(table), bool)
        name = next(iter(targets), None) if self.stratify == "auto" else self.stratify
        if self.kind == "random" or name not in table.columns:
            return np.zeros(len(table), int), none
        column = table[name]
        is_numeric = pd.api.types.is_numeric_dtype(column)
        if is_numeric and column.nunique() > QUANTILES:
            column = pd.qcut(column, QUANTILES, labels=False, duplicates="drop")
        strata = column.astype("category").cat.codes.to_numpy().astype(int) + 1
        if is_numeric or official or self.few_groups == "keep":
            return strata, none
        groups = pd.Series(group_codes(table)).groupby(column.to_numpy()).nunique()
        classes = [str(value) for value in groups.index[groups < len(SPLITS)]]
        few = column.isin(groups.index[groups < len(SPLITS)]).to_numpy()
        if classes:
            action = "in training alone" if self.few_groups == "train" else "left out"
            log.warning("%s: classes with fewer than three groups are %s: %s (%d clips)",
                        name, action, ", ".join(classes), few.sum())  # fmt: skip
        return strata, few

    def _check_splits(self, table: pd.DataFrame, groups: np.ndarray, result: Assignment) -> tuple[str, ...]:
        """Check that no split is empty, and return the groups that are in several splits.

        Raises:
            DataError: A split is empty, or groups are in several splits and the options do not allow it.
        """
        splits = result.splits
        if empty := [split for split in SPLITS if not (splits == split).any()]:
            raise DataError(
                f"no clips are left for {' and '.join(empty)}: {len(table)} clips in "
                f"{len(np.unique(groups))} groups are too few for data.split"
            )
        pairs = {(int(group), str(split)) for group, split in zip(groups, splits, strict=True)}
        shared = sorted({group for group, _ in pairs if sum((group, split) in pairs for split in SPLITS) > 1})
        first = dict(zip(groups[::-1].tolist(), table["group"][::-1], strict=True))
        names = tuple(str(first[group]) for group in shared)
        if not shared:
            return ()
        message = f"{len(shared)} of {len(np.unique(groups))} groups are in more than one split ({_first_five(names)})"
        if result.kind == "official":
            log.warning("%s: the column %s separates them, so scores can be optimistic", message, result.column)
        elif not self.allow_shared_groups:
            raise DataError(
                f"{message}: use data.split.kind=grouped, or allow it with data.split.allow_shared_groups=true"
            )
        return names


def class_counts(
    table: pd.DataFrame, splits: np.ndarray, targets: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, dict[str, int]]]:
    """Return the number of clips of each label, class and split."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for name, spec in targets.items():
        if spec["kind"] == "label":
            column = table[name].to_numpy()
            masks = {split: column[splits == split] for split in SPLITS}
            counts[name] = {
                value: {split: int((of_split == value).sum()) for split, of_split in masks.items()}
                for value in spec["classes"]
            }
    return counts


def unlearnable_classes(counts: Mapping[str, Mapping[str, int]]) -> tuple[list[str], list[str]]:
    """Return the classes in validation or test without training clips, and the classes in training alone."""
    evaluated = {name: row["val"] + row["test"] for name, row in counts.items()}
    untrained = [name for name, row in counts.items() if evaluated[name] and not row["train"]]
    return untrained, [name for name, row in counts.items() if row["train"] and not evaluated[name]]


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


def _first_five(names: Sequence[str]) -> str:
    """Return the first five names, and an ellipsis if there are more."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
