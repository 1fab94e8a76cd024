"""What was found between two runs, in numbers and in a sentence."""

from __future__ import annotations

from dataclasses import dataclass

from etude.results.comparison.statistics import LEVEL
from etude.results.metrics import LOWER_IS_BETTER
from etude.results.text import NAMES, UNDEFINED, capital, ends, number

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
