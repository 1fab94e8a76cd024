"""Paired tests of runs that were scored on the same clips.

There are two tests with different assumptions:

- The primary metric is tested with the bootstrap. Groups are resampled as for all intervals (`evaluation.bootstrap`)
  and both runs are scored on the same resamples. The p value is twice the fraction of resamples in which the
  difference is zero or has the opposite sign (Efron & Tibshirani 1993, An Introduction to the Bootstrap, 15.4). One is
  added to both counts of the fraction, so that p is never 0 (Davison & Hinkley 1997, Bootstrap Methods, 4.2.5). With
  few groups this p value is too small. For two equal networks on 6 groups, 16 of 100 simulated comparisons were
  significant. Therefore p is never smaller than the p value of a t test with G - 1 degrees of freedom (Cameron, Gelbach
  & Miller 2008). The standard error of this test is the standard deviation over resamples times sqrt(G / (G - 1)). With
  this limit, 4 of 100 were significant.
- Accuracy is tested with McNemar's exact test on the clips that only one of the runs classified correctly (McNemar
  1947; Dietterich 1998). It assumes independent clips, so its p value is too small for few groups.

Among many pairs some differ by chance. Holm's correction (1979) controls the probability of at least one such error.
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
from etude.evaluation.formatting import NAMES, UNDEFINED, capitalise_first, format_count, format_interval, format_number
from etude.evaluation.measure import build_scorer, encode_column
from etude.evaluation.metrics import LOWER_IS_BETTER, PRIMARY

if TYPE_CHECKING:
    from pandas import DataFrame


LEVEL = 0.05
"""Significance level of corrected p values."""


def bootstrap_p_value(gain: float, differences: np.ndarray, groups: int) -> float | None:
    """Compute the two-sided p value of no difference between two runs.

    Args:
        gain: Difference on all clips.
        differences: Differences on each resample (R,). Resamples with nan are ignored.
        groups: Number of resampled groups, G.

    Returns:
        A value in (0, 1], or None if the difference is defined on fewer than two resamples.
    """
    from scipy.stats import t

    defined = differences[~np.isnan(differences)]
    if len(defined) < 2:
        return None
    fewer = min((defined <= 0).sum(), (defined >= 0).sum())
    error = defined.std(ddof=1) * np.sqrt(groups / (groups - 1))
    t_test = 2 * t.sf(abs(gain) / error, groups - 1) if error else 0.0
    return float(min(1.0, max(2 * (1 + fewer) / (1 + len(defined)), t_test)))


def mcnemar_test(a: np.ndarray, b: np.ndarray) -> tuple[int, int, float]:
    """Compute McNemar's exact test.

    Args:
        a: Clips that the first run classified correctly (n,), bool.
        b: Clips that the second run classified correctly (n,), bool.

    Returns:
        Number of clips that only the first run classified correctly, number of clips that only the second run
        classified correctly, and the two-sided binomial p value.
    """
    from scipy.stats import binomtest

    first, second = int((a & ~b).sum()), int((~a & b).sum())
    p = float(binomtest(first, first + second, 0.5).pvalue) if first + second else 1.0
    return first, second, p


def holm_correction(p: Sequence[float | None]) -> list[float | None]:
    """Compute Holm's adjusted p values.

    The smallest of m values is multiplied by m, the next by m - 1, and so on. Adjusted values do not decrease.

    Args:
        p: Values of m tests. A test that could not be computed is None, and is not counted.
    """
    ordered = sorted((value, i) for i, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (value, i) in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - rank) * value))
        adjusted[i] = highest
    return adjusted


NO_DIFFERENCE = "no significant difference"


@dataclass(frozen=True)
class Pair:
    """Comparison of two runs on the same clips of one target.

    Args:
        a: Title of the first run.
        b: Title of the second run.
        target: Name of the target.
        metric: Compared metric.
        scores: Scores of the first and the second run, None if undefined.
        difference: First minus second score with its paired 95 % interval, as value, low and high.
        p: Bootstrap p value after Holm's correction; None if the groups cannot be resampled.
        only: Numbers of clips that only the first, and only the second run classified correctly; None for a scalar.
        mcnemar: p value of McNemar's test after Holm's correction; None for a scalar.
        n: Number of clips.
        groups: Number of groups of these clips.
        family: Number of pairs in the correction.
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
        """Title of the significantly better run after correction, or ""."""
        gain = self.difference["value"]
        if self.p is None or self.p >= LEVEL or not gain:
            return ""
        return self.a if (gain > 0) != (self.metric in LOWER_IS_BETTER) else self.b

    @property
    def digits(self) -> int:
        """Number of printed decimals of the scores."""
        return 3 if self.metric in LOWER_IS_BETTER else 2

    @property
    def conclusion(self) -> str:
        """Conclusion without numbers."""
        if self.difference["value"] is None:
            return f"{NAMES[self.metric]} is {UNDEFINED} for one run, so the difference cannot be tested"
        if self.p is None:
            return "all clips belong to one group, so the difference cannot be tested"
        return f"{self.better} is better" if self.better else NO_DIFFERENCE

    @property
    def summary(self) -> str:
        """Conclusion with numbers, in two sentences."""
        first, second = (format_number(score, self.digits) for score in self.scores)
        text = f"{NAMES[self.metric]} {first} and {second}"
        if self.difference["value"] is not None:
            difference = format_number(self.difference["value"], self.digits)
            text += f", difference {difference} {format_interval(self.difference, self.digits)}"
        text = text.rstrip() + ("" if self.p is None else f", p {format_p_value(self.p)}")
        return f"{self.a} and {self.b}: {self.conclusion}. {capitalise_first(text)}."


def format_p_value(p: float | None) -> str:
    """Format a p value as "= 0.012", "< 0.001", or "–" if it is None."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"= {p:.3f}"


MOST_RUNS = 30  # on the same clips; with more, no difference could be significant after correction
MOST_RESAMPLES = 20_000
MOST_WEIGHTS = 2**26  # clip weights in memory


@dataclass(frozen=True)
class ScoredRun:
    """Predictions of one run for one target.

    Args:
        title: Title of the run.
        target: The target's entry in metrics.json.
        table: Columns id, group, `{t}.true` and `{t}.pred` of the clips with a true value, sorted by id.
        clips: Hash of the clips and their true values. Runs with equal hashes are compared.
    """

    title: str
    target: Mapping[str, Any]
    table: DataFrame
    clips: str


def scored_run(title: str, name: str, target: Mapping[str, Any], table: DataFrame, split: str) -> ScoredRun:
    """Return the predictions of one target on one split.

    Args:
        title: Title of the run.
        name: Name of the target.
        target: Its entry in the run's metrics.json.
        table: The run's predictions, at least the columns id, group, split, `{t}.true` and `{t}.pred`.
        split: test or val.

    Raises:
        KeyError, TypeError, ValueError: The table or the entry does not have the expected content.
    """
    columns = ["id", "group", f"{name}.true", f"{name}.pred"]
    table = table[(table["split"] == split) & table[columns[2]].notna()][columns].sort_values("id", kind="stable")
    true_values = table.iloc[:, :3].to_csv(index=False, header=False)
    hashed = [target["kind"], sorted(target.get("classes", [])), true_values]
    return ScoredRun(title, target, table, hashlib.sha256(repr(hashed).encode()).hexdigest())


@dataclass(frozen=True)
class ScoredTarget:
    """Runs that predicted one target.

    Args:
        name: Name of the target.
        runs: Runs whose predictions could be read.
        remarks: Messages about the other runs.
    """

    name: str
    runs: list[ScoredRun] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def compare_pairs(targets: Iterable[ScoredTarget], metric: str = "") -> tuple[list[Pair], list[str]]:
    """Test all pairs of runs that were scored on the same clips, target by target.

    Args:
        targets: The runs of each target.
        metric: Metric that is compared if a target has it. Otherwise the primary metric of the target is compared.

    Returns:
        The pairs, and remarks about runs that could not be tested.
    """
    pairs: list[Pair] = []
    remarks: list[str] = []
    untestable: dict[str, list[str]] = defaultdict(list)
    for scored in targets:
        remarks += scored.remarks
        by_clips: dict[str, list[ScoredRun]] = defaultdict(list)
        for run in scored.runs:
            by_clips[run.clips].append(run)
        for members in by_clips.values():
            tested, remark = _compare_family(members, scored.name, metric)
            pairs += tested
            if remark:
                untestable[remark].append(scored.name)
        single = [members[0].title for members in by_clips.values() if len(members) == 1]
        if single and len(by_clips) > 1:
            titles = ", ".join(single)
            remarks.append(f"{titles}: not tested on {scored.name}, because no other run was scored on the same clips.")
    remarks += [f"{', '.join(names)}: {remark}" for remark, names in untestable.items()]
    return pairs, list(dict.fromkeys(remarks))


def _compare_family(members: list[ScoredRun], name: str, metric: str) -> tuple[list[Pair], str]:
    """Compare all pairs of runs on the same clips, with p values corrected for the number of pairs.

    Also return a remark if no pair can be tested.
    """
    target, table = members[0].target, members[0].table
    count = len(members) * (len(members) - 1) // 2
    if not count or len(table) < 2:
        return [], ""
    if len(members) > MOST_RUNS:
        return [], f"{len(members)} runs on the same clips are too many to test all pairs; compare fewer runs."
    label = target["kind"] == "label"
    groups = table["group"].astype(object).where(table["group"].notna(), None).tolist()
    resamples = min(max(bootstrap.RESAMPLES, 100 * count), MOST_RESAMPLES, max(1, MOST_WEIGHTS // len(table)))
    true = encode_column(table, f"{name}.true", target)
    group_count = len(set(bootstrap.encode_groups(groups).tolist()))
    drawn = bootstrap.draw_weights(groups, resamples, strata=true if label else None)
    preds = [encode_column(member.table, f"{name}.pred", target) for member in members]
    results = [bootstrap.resampled_scores(build_scorer(true, target), pred, drawn) for pred in preds]
    compared = metric if metric in results[0][0] else PRIMARY[target["kind"]]
    pairs, p_values, mcnemar_p_values = [], [], []
    for i, j in combinations(range(len(members)), 2):
        (point, spread), (other, other_spread) = results[i], results[j]
        scores = _finite_or_none(point[compared][0]), _finite_or_none(other[compared][0])
        gain = _finite_or_none(point[compared][0] - other[compared][0])
        low, high = map(_finite_or_none, bootstrap.paired_interval(spread[compared], other_spread[compared]))
        differences = spread[compared] - other_spread[compared]
        p_values.append(None if gain is None else bootstrap_p_value(gain, differences, group_count))
        only = mcnemar_test(preds[i] == true, preds[j] == true) if label else None
        mcnemar_p_values.append(only[2] if only else None)
        pairs.append(Pair(
            members[i].title, members[j].title, name, compared, scores,
            {"value": gain, "low": low, "high": high}, None, only[:2] if only else None, None,
            len(table), group_count, count,
        ))  # fmt: skip
    corrected = zip(pairs, holm_correction(p_values), holm_correction(mcnemar_p_values), strict=True)
    remark = ""
    if len(drawn) and 2 * count / (1 + len(drawn)) >= LEVEL:
        remark = (
            f"{len(drawn):,} resamples cannot show a significant difference after correction for "
            f"{format_count(count, 'pair')}; compare fewer runs."
        )
    return [replace(pair, p=p, mcnemar=mcnemar) for pair, p, mcnemar in corrected], remark


def _finite_or_none(value: float) -> float | None:
    """Return a value, or None if it is not finite."""
    return float(value) if np.isfinite(value) else None
