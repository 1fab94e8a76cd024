"""Paired tests of runs that were scored on the same clips.

Two questions, and what each takes for granted:

- The leading metric: groups are resampled as for every interval here (`results.bootstrap`), both runs are scored on the
  same resamples, and the p value is the share of resamples on the other side of zero, doubled (Efron & Tibshirani 1993,
  An Introduction to the Bootstrap, 15.4), with one added to both counts, so that it is never 0 (Davison & Hinkley 1997,
  Bootstrap Methods, 4.2.5). With few groups that is too sure: of two equal networks it called one better in 16 of 100
  simulated comparisons on 6 groups. So p is at least that of a t test with G - 1 degrees of freedom, whose standard
  error is that of the resamples times sqrt(G / (G - 1)) (Cameron, Gelbach & Miller 2008): then 4 of 100.
- Accuracy: McNemar's exact test on the clips that one run has right and the other has not (McNemar 1947; Dietterich
  1998). It takes clips for independent ones: where groups are few it is too sure.

Of many pairs some differ by luck. Holm's correction (1979) keeps the chance of even one such find at its level.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.evaluation import bootstrap
from etude.evaluation.formatting import NAMES, UNDEFINED, capital, ends, number, plural
from etude.evaluation.measure import scorer, values
from etude.evaluation.metrics import LOWER_IS_BETTER, PRIMARY

if TYPE_CHECKING:
    from pandas import DataFrame


LEVEL = 0.05
"""Below this a corrected p value counts as a difference."""


def two_sided(gain: float, differences: np.ndarray, groups: int) -> float | None:
    """The p value of "no difference" between two runs.

    Args:
        gain: Their difference on all clips.
        differences: Their differences on each resample (R,); those that are nan are left out.
        groups: How many groups were resampled, G.

    Returns:
        A value in (0, 1], or None where fewer than two resamples have a difference.
    """
    from scipy.stats import t

    known = differences[~np.isnan(differences)]
    if len(known) < 2:
        return None
    fewer = min((known <= 0).sum(), (known >= 0).sum())
    error = known.std(ddof=1) * np.sqrt(groups / (groups - 1))
    by_size = 2 * t.sf(abs(gain) / error, groups - 1) if error else 0.0
    return float(min(1.0, max(2 * (1 + fewer) / (1 + len(known)), by_size)))


def mcnemar(a: np.ndarray, b: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test.

    Args:
        a: Whether the first run has each clip right (n,), bool.
        b: Whether the second has, likewise.

    Returns:
        Clips that only the first has right, clips that only the second has, and the two-sided binomial p value.
    """
    from scipy.stats import binomtest

    first, second = int((a & ~b).sum()), int((~a & b).sum())
    p = float(binomtest(first, first + second, 0.5).pvalue) if first + second else 1.0
    return first, second, p


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p values: the smallest of m times m, the next times m - 1, and never less than one before.

    Args:
        p: Values of m tests; None for one that could not be made, which is not counted.
    """
    known = sorted((value, i) for i, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (value, i) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * value))
        adjusted[i] = highest
    return adjusted


NOTHING = "no difference that this data can show"


@dataclass(frozen=True)
class Pair:
    """Two runs on the same clips of one target.

    Args:
        a: Title of the first run.
        b: Title of the second.
        target: What was predicted.
        metric: The metric that is compared.
        scores: Of the first and of the second run, None where undefined.
        difference: First minus second, with its paired 95 % interval: value, low, high.
        p: Bootstrap p value after Holm's correction; None where there is nothing to resample.
        only: Clips that only the first has right, and only the second; None for a scalar.
        mcnemar: p value of McNemar's test after Holm's correction; None for a scalar.
        n: Clips.
        groups: Groups that they are in.
        family: How many pairs the correction is for.
    """

    a: str
    b: str
    target: str
    metric: str
    scores: tuple[float | None, float | None]
    difference: dict[str, float | None]
    p: float | None
    only: tuple[int, int] | None
    mcnemar: float | None
    n: int
    groups: int
    family: int = 1

    @property
    def better(self) -> str:
        """The run that is better by the metric, after correction; "" where the data cannot show one."""
        gain = self.difference["value"]
        if self.p is None or self.p >= LEVEL or not gain:
            return ""
        return self.a if (gain > 0) != (self.metric in LOWER_IS_BETTER) else self.b

    @property
    def digits(self) -> int:
        """Decimals that its scores are printed with."""
        return 3 if self.metric in LOWER_IS_BETTER else 2

    @property
    def verdict(self) -> str:
        """The finding without its numbers."""
        if self.difference["value"] is None:
            return f"{NAMES[self.metric]} is {UNDEFINED} for one of them, so nothing can be said"
        if self.p is None:
            return "all clips are of one group, so no difference can be judged"
        return f"{self.better} is better" if self.better else NOTHING

    @property
    def words(self) -> str:
        """The finding with its numbers, two sentences."""
        first, second = (number(score, self.digits) for score in self.scores)
        text = f"{NAMES[self.metric]} {first} and {second}"
        if self.difference["value"] is not None:
            text += f", difference {number(self.difference['value'], self.digits)} {ends(self.difference, self.digits)}"
        text = text.rstrip() + ("" if self.p is None else f", p {chance(self.p)}")
        return f"{self.a} and {self.b}: {self.verdict}. {capital(text)}."


def chance(p: float | None) -> str:
    """A p value in print: "= 0.012", "< 0.001", and "–" where there is none."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"= {p:.3f}"


MOST_RUNS = 30  # on the same clips; of more, so many resamples could show nothing after correction
MOST_RESAMPLES = 20_000
MOST_WEIGHTS = 2**26  # of clips, in memory at once


@dataclass(frozen=True)
class ScoredRun:
    """Predictions of one target by one run.

    Args:
        title: Title of the run.
        target: The target's entry in metrics.json.
        table: Columns id, group, `{t}.true` and `{t}.pred` of the clips that have a label, in the order of their ids.
        clips: Hash of the clips with their truths: runs are paired that have the same.
    """

    title: str
    target: Mapping[str, Any]
    table: DataFrame
    clips: str


def scored_run(title: str, name: str, target: Mapping[str, Any], table: DataFrame, part: str) -> ScoredRun:
    """Return the predictions of one target on one part.

    Args:
        title: Title of the run.
        name: Name of the target.
        target: Its entry in the run's metrics.json.
        table: The run's predictions, at least the columns id, group, split, `{t}.true` and `{t}.pred`.
        part: test or val.

    Raises:
        KeyError, TypeError, ValueError: The table or the entry does not hold what a run writes.
    """
    columns = ["id", "group", f"{name}.true", f"{name}.pred"]
    table = table[(table["split"] == part) & table[columns[2]].notna()][columns].sort_values("id", kind="stable")
    truths = table.iloc[:, :3].to_csv(index=False, header=False)
    known = [target["kind"], sorted(target.get("classes", [])), truths]
    return ScoredRun(title, target, table, hashlib.sha256(repr(known).encode()).hexdigest())


@dataclass(frozen=True)
class ScoredTarget:
    """Runs that predicted one target.

    Args:
        name: Name of the target.
        runs: Those whose predictions could be read.
        remarks: Sentences about the others.
    """

    name: str
    runs: list[ScoredRun] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def compare_pairs(targets: Iterable[ScoredTarget], metric: str = "") -> tuple[list[Pair], list[str]]:
    """Test all pairs of runs that were scored on the same clips, target by target.

    Args:
        targets: The runs of each target.
        metric: Metric that is compared where a target has it; otherwise the metric that leads the target.

    Returns:
        The pairs, and remarks about what could not be tested.
    """
    found: list[Pair] = []
    remarks: list[str] = []
    hopeless: dict[str, list[str]] = defaultdict(list)
    for scored in targets:
        remarks += scored.remarks
        alike: dict[str, list[ScoredRun]] = defaultdict(list)
        for run in scored.runs:
            alike[run.clips].append(run)
        for members in alike.values():
            tested, remark = _family(members, scored.name, metric)
            found += tested
            if remark:
                hopeless[remark].append(scored.name)
        lone = [members[0].title for members in alike.values() if len(members) == 1]
        if lone and len(alike) > 1:
            remarks.append(f"Scored on clips of {scored.name} that no other run here was scored on: {', '.join(lone)}.")
    remarks += [f"{', '.join(names)}: {remark}" for remark, names in hopeless.items()]
    return found, list(dict.fromkeys(remarks))


def _family(members: list[ScoredRun], name: str, metric: str) -> tuple[list[Pair], str]:
    """Return all pairs of runs on the same clips, corrected for their number, and a remark where that shows nothing."""
    target, table = members[0].target, members[0].table
    count = len(members) * (len(members) - 1) // 2
    if not count or len(table) < 2:
        return [], ""
    if len(members) > MOST_RUNS:
        return [], f"{len(members)} runs on the same clips are too many to test each pair of them: compare fewer."
    label = target["kind"] == "label"
    groups = table["group"].astype(object).where(table["group"].notna(), None).tolist()
    resamples = min(max(bootstrap.RESAMPLES, 100 * count), MOST_RESAMPLES, max(1, MOST_WEIGHTS // len(table)))
    true = values(table, f"{name}.true", target)
    held = len(set(bootstrap.codes(groups).tolist()))
    drawn = bootstrap.weights(groups, resamples, strata=true if label else None)
    preds = [values(member.table, f"{name}.pred", target) for member in members]
    results = [bootstrap.resampled_scores(scorer(true, target), pred, drawn) for pred in preds]
    lead = metric if metric in results[0][0] else PRIMARY[target["kind"]]
    found, p, accurate = [], [], []
    for i, j in combinations(range(len(members)), 2):
        (point, spread), (other, other_spread) = results[i], results[j]
        scores = _known(point[lead][0]), _known(other[lead][0])
        gain = _known(point[lead][0] - other[lead][0])
        low, high = map(_known, bootstrap.difference(spread[lead], other_spread[lead]))
        p.append(None if gain is None else two_sided(gain, spread[lead] - other_spread[lead], held))
        only = mcnemar(preds[i] == true, preds[j] == true) if label else None
        accurate.append(only[2] if only else None)
        found.append(Pair(
            members[i].title, members[j].title, name, lead, scores,
            {"value": gain, "low": low, "high": high}, None, only[:2] if only else None, None,
            len(table), held, count,
        ))  # fmt: skip
    corrected = zip(found, holm(p), holm(accurate), strict=True)
    remark = ""
    if len(drawn) and 2 * count / (1 + len(drawn)) >= LEVEL:
        remark = (
            f"{plural(count, 'pair')} are too many for {len(drawn):,} resamples to show a difference: compare fewer."
        )
    return [replace(pair, p=one, mcnemar=two) for pair, one, two in corrected], remark


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
