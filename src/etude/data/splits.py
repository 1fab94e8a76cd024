"""Which clip belongs to training, validation or test; a group never crosses, or the split is refused.

Clips of one artist share a voice, a room and a mastering: a network that has heard the artist in training is tested on
its memory (Pampalk, Flexer & Widmer, 2005, "Improvements of audio-based music similarity and genre classification").
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from etude.data.collection import DataError

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("train", "val", "test")
KINDS = ("grouped", "stratified", "random", "official")
WORK = 20_000  # groups placed over all restarts: many restarts for few groups, one for very many


@dataclass(frozen=True)
class Split:
    """A rule that parts a table of clips.

    Args:
        kind: `grouped` keeps groups together and the classes of `stratify` in proportion; `stratified` parts clip by
            clip in proportion; `random` just parts; `official` reads the table's own `split` column.
        fractions: Shares of clips for training, validation and test.
        seed: Another seed, another split of the same kind.
        stratify: Label column kept in proportion; none, or a column that the table lacks: no strata.
        allow_shared_groups: Take a split in which a group stands on two sides. Its scores measure memory too.
    """

    kind: str = "grouped"
    fractions: tuple[float, float, float] = (0.6, 0.15, 0.25)
    seed: int = 0
    stratify: str | None = "genre"
    allow_shared_groups: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"data.split.kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if len(self.fractions) != 3 or min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise DataError(
                f"data.split.fractions must be three positive shares that add up to 1, got {self.fractions}"
            )

    def assign(self, table: pd.DataFrame) -> np.ndarray:
        """The part of each clip.

        Args:
            table: Clips with `id` and `group`, the `stratify` column and, for `official`, `split`.

        Returns:
            Names of parts (n,), each of `train`, `val`, `test`.

        Raises:
            DataError: A part is empty, or a group stands in two parts and that is not allowed.
        """
        groups = group_codes(table)
        if self.kind == "official":
            parts = self._official(table)
        else:
            units = groups if self.kind == "grouped" else np.arange(len(table))
            strata = np.zeros(len(table), int)
            if self.kind != "random" and self.stratify in table.columns:
                strata = table[self.stratify].astype("category").cat.codes.to_numpy().astype(int) + 1
            parts = np.array(PARTS)[_place(_counts(units, strata), self.fractions, self.seed)[units]]
        self._check(table, groups, parts)
        return parts

    def _official(self, table: pd.DataFrame) -> np.ndarray:
        if "split" not in table.columns or not table["split"].isin(PARTS).all():
            raise DataError("data.split.kind=official needs a column `split` with train, val or test for every clip")
        return table["split"].to_numpy().astype(str)

    def _check(self, table: pd.DataFrame, groups: np.ndarray, parts: np.ndarray) -> None:
        if empty := [part for part in PARTS if not (parts == part).any()]:
            raise DataError(
                f"the split leaves no clips for {' and '.join(empty)}: {len(table)} clips in "
                f"{len(np.unique(groups))} groups are too few for data.split.fractions"
            )
        both = (
            [g for g in np.unique(groups) if len(np.unique(parts[groups == g])) > 1]
            if not self.allow_shared_groups
            else []
        )
        if both:
            names = ", ".join(str(table["group"].to_numpy()[groups == g][0]) for g in both[:5])
            raise DataError(
                f"the split has {len(both)} of {len(np.unique(groups))} groups on both sides "
                f"({names}{', ...' if len(both) > 5 else ''}): use data.split.kind=grouped, or allow it with "
                "data.split.allow_shared_groups=true"
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
