"""Paired tests of runs that were scored on the same clips.

There are two tests with different assumptions:

- The primary metric is tested with the bootstrap. Groups are resampled as for all intervals (`evaluation.bootstrap`)
  and both runs are scored on the same resamples. The p value is the largest of three values:

  1. twice the fraction of resamples in which the difference is zero or has the opposite sign (Efron & Tibshirani 1993,
     An Introduction to the Bootstrap, 15.4). One is added to both counts of the fraction, so that p is never 0 (Davison
     & Hinkley 1997, Bootstrap Methods, 4.2.5). With few groups this value is too small;
  2. the p value of a t test with as many degrees of freedom as groups minus strata, whose standard error is the widened
     standard deviation over resamples (Cameron, Gelbach & Miller 2008);
  3. 2 / 2**M for M groups in which the predictions of both runs differ. This is the smallest p value of an exact
     sign-flip test. It does not depend on a distribution of the differences, which a few groups cannot show: if both
     groups of a test split have the same difference, the standard error of (2) is 0. No difference is significant with
     M below 6.

  For equal networks on 2, 3, 5, 10 and 30 groups, at most 5 % of simulated comparisons were significant
  (`tests/evaluation/test_coverage.py`).
- Accuracy is tested with an exact sign-flip test over groups, on the clips that only one of the runs classified
  correctly. If each clip is a group, this is McNemar's exact test (McNemar 1947; Dietterich 1998), which assumes
  independent clips.

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

from etude.evaluation import bootstrap, formatting
from etude.evaluation.formatting import NAMES, UNDEFINED, capitalise_first, format_count, format_interval, format_number
from etude.evaluation.means import build_mean_scorer, build_scorers, encode_columns, known_values_mask
from etude.evaluation.metrics import PRIMARY
from etude.evaluation.predictions import encode_column

if TYPE_CHECKING:
    from pandas import DataFrame


LEVEL = 0.05
"""Significance level of corrected p values."""


def mcnemar_test(a: np.ndarray, b: np.ndarray, groups: np.ndarray) -> tuple[int, int, float]:
    """Compute the exact sign-flip test of equal accuracies. If each clip is a group, it is McNemar's exact test.

    The statistic is the sum over groups of the number of clips that only the first run classified correctly, minus the
    number of clips that only the second run classified correctly. If both runs are equally good, each group's number
    has both signs with the same probability.

    Args:
        a: Clips that the first run classified correctly (n,), bool.
        b: Clips that the second run classified correctly (n,), bool.
        groups: Group index of each clip (n,).

    Returns:
        Number of clips that only the first run classified correctly, number of clips that only the second run
        classified correctly, and the two-sided p value.
    """
    from scipy.stats import binom

    by_group = np.bincount(groups, weights=a.astype(float) - b.astype(float)).astype(int)
    distribution = np.ones(1)  # probabilities of the sums from the smallest to the largest
    for size, count in zip(*np.unique(np.abs(by_group[by_group != 0]), return_counts=True), strict=True):
        sums = np.zeros(2 * size * count + 1)
        sums[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        distribution = np.convolve(distribution, sums)
    distance = np.abs(np.arange(len(distribution)) - len(distribution) // 2)
    p = float(min(1.0, distribution[distance >= abs(by_group.sum())].sum()))
    return int((a & ~b).sum()), int((~a & b).sum()), p


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
        p: Bootstrap p value after Holm's correction; None if the difference cannot be tested.
        only: Numbers of clips that only the first, and only the second run classified correctly; None for a scalar.
        mcnemar: p value of the test of accuracies after Holm's correction; None for a scalar.
        n: Number of clips.
        groups: Number of groups of these clips. A clip without a group is counted as a group.
        family: Number of pairs in the correction.
        ungrouped: Number of clips without a group.
        differing: Number of groups in which the predictions of both runs differ.
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
    ungrouped: int = 0
    differing: int = bootstrap.MIN_TEST_GROUPS

    @property
    def better(self) -> str:
        """Title of the significantly better run after correction, or ""."""
        gain = self.difference["value"]
        if self.p is None or self.p >= LEVEL or not gain:
            return ""
        return self.a if (gain > 0) != (self.metric in formatting.LOWER_IS_BETTER) else self.b

    @property
    def digits(self) -> int:
        """Number of printed decimals of the scores."""
        return 3 if self.metric in formatting.LOWER_IS_BETTER else 2

    @property
    def conclusion(self) -> str:
        """Conclusion without numbers."""
        if self.difference["value"] is None:
            return f"{NAMES[self.metric]} is {UNDEFINED} for one run, so the difference cannot be tested"
        if not self.differing:
            return "the predictions are identical"
        if self.p is None:
            return f"{self._untestable}, so the difference cannot be tested"
        if self.differing < bootstrap.MIN_TEST_GROUPS:
            count = format_count(self.differing, "clip" if self.ungrouped == self.n else "group")
            return (
                f"the predictions differ in only {count}, too few for a significant difference "
                f"({bootstrap.MIN_TEST_GROUPS} are needed)"
            )
        return f"{self.better} is better" if self.better else NO_DIFFERENCE

    @property
    def _untestable(self) -> str:
        """Reason why groups cannot be resampled."""
        if self.groups < 2:
            return "all clips belong to one group"
        if self.only is not None:
            return f"each class has only one {'clip' if self.ungrouped == self.n else 'group'}"
        return f"{NAMES[self.metric]} is {UNDEFINED} on many resamples"

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
    """Format a p value as "= 0.012", "< 0.001", or "–" if it is None. Rounding does not move it to the level."""
    if p is None:
        return "–"
    rounded = f"{p:.3f}" if abs(p - LEVEL) > 0.0005 else f"{p:.5f}"
    return "< 0.001" if p < 0.001 else f"= {rounded}"


MOST_RUNS = 30  # on the same clips; with more, no difference could be significant after correction
MOST_RESAMPLES = 20_000
MOST_WEIGHTS = 2**26  # clip weights in memory


@dataclass(frozen=True)
class ScoredRun:
    """Predictions of one run for one target.

    Args:
        title: Title of the run.
        target: The entry of the target or of the mean in metrics.json.
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
    names = sorted(target.get("targets", [name]))
    true, pred = ([f"{name}.{kind}" for name in names] for kind in ("true", "pred"))
    table = table[(table["split"] == split) & table[true].notna().any(axis=1)]
    scores = [column for column in map(str, table.columns) if column.startswith(f"{name}.score.")]
    table = table[["id", "group", *true, *pred, *scores]].sort_values("id", kind="stable")
    true_values = table[["id", "group", *true]].to_csv(index=False, header=False)
    hashed = [target["kind"], sorted(target.get("classes", [])), names if len(names) > 1 else [], true_values]
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
    group = bootstrap.encode_groups(groups)
    ungrouped = sum(map(bootstrap.is_missing, groups))
    draws = min(max(bootstrap.RESAMPLES, 100 * count), MOST_RESAMPLES, max(1, MOST_WEIGHTS // len(table)))
    if names := sorted(target.get("targets", [])):
        known = known_values_mask(table, names)
        true = encode_columns(table, [f"{name}.true" for name in names], known)
        preds = [encode_columns(member.table, [f"{name}.pred" for name in names], known) for member in members]
        scorers, remark = [build_mean_scorer(true, known, "low" in target)] * len(members), ""
    else:
        true = encode_column(table, f"{name}.true", target)
        preds = [encode_column(member.table, f"{name}.pred", target) for member in members]
        scorers, remark = build_scorers(true, name, [(run.target, run.table) for run in members], metric)
    resamples = bootstrap.draw_resamples(groups, draws, strata=true if label else None)
    results = [bootstrap.resampled_scores(*pair, resamples) for pair in zip(scorers, preds, strict=True)]
    compared = metric if metric in results[0][0] else PRIMARY[target["kind"]]
    pairs, p_values, mcnemar_p_values = [], [], []
    for i, j in combinations(range(len(members)), 2):
        (point, spread), (other, other_spread) = results[i], results[j]
        scores = _finite_or_none(point[compared][0]), _finite_or_none(other[compared][0])
        difference = {
            key: _finite_or_none(value)
            for key, value in bootstrap.differences_with_intervals(results[i], results[j])[compared].items()
        }
        differing = bootstrap.count_differing_groups(preds[i], preds[j], groups)
        differences, gain = spread[compared] - other_spread[compared], difference["value"]
        p_values.append(None if gain is None else bootstrap.p_value(gain, differences, resamples, differing))
        only = mcnemar_test(preds[i] == true, preds[j] == true, group) if label else None
        mcnemar_p_values.append(only[2] if only else None)
        pairs.append(Pair(
            members[i].title, members[j].title, name, compared, scores, difference, None, only[:2] if only else None,
            None, len(table), int(group.max()) + 1, count, ungrouped, differing,
        ))  # fmt: skip
    corrected = zip(pairs, holm_correction(p_values), holm_correction(mcnemar_p_values), strict=True)
    if len(resamples) and 2 * count / (1 + len(resamples)) >= LEVEL:
        remark = (
            f"{len(resamples):,} resamples cannot show a significant difference after correction for "
            f"{format_count(count, 'pair')}; compare fewer runs."
        )
    return [replace(pair, p=p, mcnemar=mcnemar) for pair, p, mcnemar in corrected], remark


def _finite_or_none(value: float) -> float | None:
    """Return a value, or None if it is not finite."""
    return float(value) if np.isfinite(value) else None
