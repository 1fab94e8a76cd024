"""Search spaces in Hydra's override grammar."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from etude.config.overrides import parse_overrides
from etude.errors import UserError

DIGITS = 4  # of a sampled number; more digits only make names longer


@dataclass(frozen=True)
class Choice:
    """Finite set of equally likely values.

    Args:
        values: Values as on a command line.
    """

    values: tuple[str, ...]

    @property
    def size(self) -> float:
        """Number of values."""
        return len(self.values)

    def sample(self, random: Random) -> str:
        """Sample a value."""
        return random.choice(self.values)


@dataclass(frozen=True)
class Interval:
    """Closed interval of numbers. If both ends are integers, as in int(interval(1,9)), integers are sampled.

    Args:
        low: Smallest value.
        high: Largest value.
        log: Whether the logarithm is sampled uniformly, so that each power of ten is equally likely.
    """

    low: float
    high: float
    log: bool = False

    @property
    def is_integer(self) -> bool:
        """Whether integers are sampled."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def size(self) -> float:
        """Number of values, which is infinite for real numbers."""
        return self.high - self.low + 1 if self.is_integer else math.inf

    def sample(self, random: Random) -> str:
        """Sample a number, rounded to few digits."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.is_integer else (self.low, self.high)
        value = math.exp(random.uniform(math.log(low), math.log(high))) if self.log else random.uniform(low, high)
        if self.is_integer:
            return str(min(max(round(value), int(self.low)), int(self.high)))
        return repr(min(max(float(f"{value:.{DIGITS}g}"), float(self.low)), float(self.high)))


@dataclass(frozen=True)
class SearchSpace:
    """Varied and fixed values of a search.

    Args:
        varied: Distribution of each varied value by key.
        fixed: Fixed values by key.
    """

    varied: dict[str, Choice | Interval]
    fixed: dict[str, str]

    @property
    def size(self) -> float:
        """Number of points, which is infinite if a value is a real number."""
        return math.prod(dimension.size for dimension in self.varied.values())

    def sample_points(self, seed: int) -> Iterator[dict[str, str]]:
        """Yield different random points. If the space is finite, the last point ends the iteration.

        The first points do not depend on the number of points, so that a search can be extended.
        """
        random = Random(seed)
        seen: set[tuple[str, ...]] = set()
        while len(seen) < self.size:
            point = {key: dimension.sample(random) for key, dimension in self.varied.items()}
            if (values := tuple(point.values())) not in seen:
                seen.add(values)
                yield point


def remove_overridden(params: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Remove keys below an overridden key. An override of `data.crop` also determines `data.crop.seconds`.

    Args:
        params: The space by key.
        overrides: Overrides of the command line.
    """
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
    return {key: value for key, value in params.items() if not any(str(key).startswith(f"{k}.") for k in keys)}


def parse_search_space(overrides: Sequence[str], loader: Any = None) -> SearchSpace:
    """Parse overrides into a search space. The last override of a key is used.

    Args:
        overrides: Overrides such as `optim.lr=tag(log, interval(1e-4, 1e-2))`.
        loader: Hydra's config loader, for a glob over the options of a group.

    Raises:
        UserError: A range or an interval is empty.
    """
    varied: dict[str, Choice | Interval] = {}
    fixed: dict[str, str] = {}
    for override in parse_overrides(overrides, loader):
        key = override.get_key_element()
        varied.pop(key, None)
        fixed.pop(key, None)
        if not override.is_sweep_override():
            fixed[key] = override.get_value_element_as_str()
        elif override.is_interval_sweep():
            value: Any = override.value()
            low, high, log = value.start, value.end, "log" in value.tags
            if low is None or high is None or not low <= high or (log and low <= 0):
                reason = "a logarithm needs an interval above 0" if log and (low or 0) <= 0 else "contains no number"
                raise UserError(f"{override.input_line}: {reason}; give it as interval(low, high)")
            varied[key] = Interval(low, high, log)
        else:
            values = tuple(dict.fromkeys(override.sweep_string_iterator()))
            if not values:
                raise UserError(f"{override.input_line}: contains no value; give at least one")
            varied[key] = Choice(values)
    return SearchSpace(varied, fixed)
