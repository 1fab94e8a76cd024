"""Splits into training, validation and test sets that never separate a group.

Clips of one artist share a voice, a room and a mastering: a network that has heard the artist in training is tested on
its memory (Pampalk, Flexer & Widmer, 2005, "Improvements of audio-based music similarity and genre classification").
The same recording under two ids is the same leak (Sturm, 2014, "The state of the art ten years after a state of the
art").
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


WORK = 20_000  # units placed over all restarts: many restarts for few units, one for very many


def partition(units: np.ndarray, strata: np.ndarray, fractions: tuple[float, ...], seed: int) -> np.ndarray:
    """Part of each clip (n,), an index of `fractions`.

    Args:
        units: What stays together, an integer per clip (n,), 0 ... G - 1.
        strata: Class of each clip (n,), 0 ... C - 1, kept in proportion.
        fractions: Share of clips of each part; they add up to 1.
        seed: Another seed, another partition of the same quality.
    """
    return _place(_counts(units, strata), fractions, seed)[units]


def _counts(units: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Clips of each class in each unit, (G, C)."""
    counts = np.zeros((units.max() + 1, strata.max() + 1))
    np.add.at(counts, (units, strata), 1)
    return counts[:, counts.sum(0) > 0]


def _place(counts: np.ndarray, fractions: tuple[float, ...], seed: int) -> np.ndarray:
    """Part (G,) of each unit: greedy, largest first, best of several seeded orders.

    The cost of a placement is the squared deviation of every class's share from its part's fraction; a class that is
    missing from a part altogether costs more than any deviation, so each part has each class wherever that can be.
    """
    rng = np.random.default_rng(seed)
    share = counts / counts.sum(0)
    target = np.array(fractions)[:, None]
    best, least = np.zeros(len(counts), int), np.inf
    for attempt in range(max(2, min(500, WORK // len(counts)))):
        order = rng.permutation(len(counts))
        order = order[np.argsort(-share[order].max(1) * rng.uniform(0.5, 1.0, len(order)), kind="stable")]
        have, parts = np.zeros((len(fractions), counts.shape[1])), np.zeros(len(counts), int)
        for unit in order:
            # what placing here takes off the distance to the target
            gain = ((target - have) ** 2 - (target - have - share[unit]) ** 2).sum(1) / target[:, 0]
            if attempt % 2:  # an empty part comes first, then one that lacks a class of this unit
                gain += 100.0 * (have == 0).all(1) + ((have == 0) & (share[unit] > 0)).sum(1)
            parts[unit] = int(np.argmax(gain + rng.uniform(0, 1e-9, len(gain))))
            have[parts[unit]] += share[unit]
        cost = float(((have - target) ** 2).sum() + 10 * (have == 0).sum() + 1000 * (have == 0).all(1).sum())
        if cost < least:
            best, least = parts, cost
    return best


PARTS = ("train", "val", "test")
UNUSED = "none"  # of a clip that the split leaves out
KINDS = ("grouped", "stratified", "random", "official")
DUPLICATES = ("refuse", "drop", "allow")
QUANTILES = 5  # strata of a scalar
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """A rule that parts a table of clips.

    Args:
        kind: `grouped` keeps groups together and the classes of `stratify` in proportion; `stratified` parts clip by
            clip in proportion; `random` just parts; `official` reads the table's own `split` column, and takes
            validation out of its training part, grouped and stratified, where it has none.
        fractions: Shares of clips for training, validation and test.
        folds: Number of equal parts in cross-validation.
        fold: Which of them is the test; the next one is validation, the others are training. None: no folds, but
            `fractions`.
        seed: Another seed, another split of the same kind.
        stratify: Column kept in proportion: classes, or fifths of a scalar. `auto` is the first target; none, or a
            column that the table lacks: no strata.
        allow_shared_groups: Take a split in which a group stands on two sides. Its scores measure memory too.
        duplicates: What to do with the same audio under two ids: `refuse`, `drop` all but the first, or `allow`.
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
        """The part of each clip.

        Args:
            table: Clips with `id` and `group`, the `stratify` column, for `official` `split`, and where duplicates
                count `content`.
            targets: Columns of targets, of which `stratify=auto` takes the first.

        Returns:
            Names of parts (n,), each of `train`, `val`, `test`, or `none` for a duplicate that is dropped.

        Raises:
            DataError: A part is empty, a group stands in two parts, or the same audio stands under two ids, and that is
                not allowed.
        """
        once = self._once(table)
        used = table[once].reset_index(drop=True)
        groups = group_codes(used)
        strata = self._strata(used, targets)
        units = groups if self.kind in ("grouped", "official") else np.arange(len(used))
        if self.kind == "official":
            parts = self._official(used, units, strata)
        elif self.fold is not None:
            places = partition(units, strata, (1 / self.folds,) * self.folds, self.seed)
            parts = np.select([places == self.fold, places == (self.fold + 1) % self.folds], ["test", "val"], "train")
        else:
            parts = np.array(PARTS)[partition(units, strata, self.fractions, self.seed)]
        self._check(used, groups, parts)
        every = np.full(len(table), UNUSED, dtype="<U5")
        every[once] = parts
        return every

    def _once(self, table: pd.DataFrame) -> np.ndarray:
        """Whether each clip is used (n,): all of them, or all but those whose audio stood under an earlier id."""
        if self.duplicates == "allow" or "content" not in table.columns:
            return np.ones(len(table), bool)
        again = table["content"].duplicated().to_numpy()
        if not again.any():
            return ~again
        first = dict(zip(table["content"][::-1], table["id"][::-1], strict=True))
        pairs = [f"{first[row.content]} = {row.id}" for row in table[again].itertuples()]
        times = "once" if len(pairs) == 1 else f"{len(pairs)} times"
        if self.duplicates == "refuse":
            raise DataError(
                f"the same audio stands under two ids {times}, so that it could be learned and tested: "
                f"{_some(pairs)}; leave one of each with data.split.duplicates=drop, or keep them with =allow"
            )
        log.warning("the same audio under two ids: %d clips are left out (%s)", len(pairs), _some(pairs))
        return ~again

    def _strata(self, table: pd.DataFrame, targets: Sequence[str]) -> np.ndarray:
        """Stratum of each clip (n,); those without a label are one of their own."""
        import pandas as pd

        name = next(iter(targets), None) if self.stratify == "auto" else self.stratify
        if self.kind == "random" or name not in table.columns:
            return np.zeros(len(table), int)
        column = table[name]
        if pd.api.types.is_numeric_dtype(column) and column.nunique() > QUANTILES:
            column = pd.qcut(column, QUANTILES, labels=False, duplicates="drop")
        return column.astype("category").cat.codes.to_numpy().astype(int) + 1

    def _official(self, table: pd.DataFrame, units: np.ndarray, strata: np.ndarray) -> np.ndarray:
        if "split" not in table.columns or not table["split"].isin(PARTS).all():
            raise DataError("data.split.kind=official needs a column `split` with train, val or test for every clip")
        parts = table["split"].to_numpy().astype(object)
        train = np.flatnonzero(parts == "train")
        if not (parts == "val").any() and len(train):
            share = self.fractions[1] / (self.fractions[0] + self.fractions[1])
            _, inner = np.unique(units[train], return_inverse=True)
            parts[train[partition(inner, strata[train], (1 - share, share), self.seed) == 1]] = "val"
        return parts.astype(str)

    def _check(self, table: pd.DataFrame, groups: np.ndarray, parts: np.ndarray) -> None:
        if empty := [part for part in PARTS if not (parts == part).any()]:
            raise DataError(
                f"the split leaves no clips for {' and '.join(empty)}: {len(table)} clips in "
                f"{len(np.unique(groups))} groups are too few for data.split"
            )
        if self.allow_shared_groups:
            return
        sides = {(int(group), str(part)) for group, part in zip(groups, parts, strict=True)}
        both = sorted({group for group, _ in sides if sum((group, part) in sides for part in PARTS) > 1})
        if both:
            names = [str(table["group"].to_numpy()[groups == group][0]) for group in both[:5]]
            raise DataError(
                f"the split has {len(both)} of {len(np.unique(groups))} groups on both sides ({_some(names, len(both))}"
                "): use data.split.kind=grouped, or allow it with data.split.allow_shared_groups=true"
            )


def split_hash(ids: np.ndarray, parts: np.ndarray) -> str:
    """SHA-256 over the sorted pairs of id and part: equal hash, equal split."""
    return hashlib.sha256("\n".join(sorted(f"{i},{p}" for i, p in zip(ids, parts, strict=True))).encode()).hexdigest()


def group_codes(table: pd.DataFrame) -> np.ndarray:
    """Groups as integers (n,), 0 ... G - 1; a clip without a group is one of its own."""
    keys = [("", clip) if missing else ("group", name) for clip, name, missing in
            zip(table["id"], table["group"], table["group"].isna(), strict=True)]  # fmt: skip
    order = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([order[key] for key in keys])


def _some(names: Sequence[str], count: int | None = None) -> str:
    """The first five names, and that there are more."""
    return ", ".join(names[:5]) + (", ..." if (count or len(names)) > 5 else "")
