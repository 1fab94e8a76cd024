"""Search spaces in Hydra's grammar."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from etude.config.overrides import parse_overrides
from etude.errors import UserError

DIGITS = 4  # of a drawn number: more say nothing, and make long names


@dataclass(frozen=True)
class Choice:
    """One of some values, each as likely.

    Args:
        values: As they stand on a command line.
    """

    values: tuple[str, ...]

    @property
    def size(self) -> float:
        """How many values there are."""
        return len(self.values)

    def draw(self, random: Random) -> str:
        """One of them."""
        return random.choice(self.values)


@dataclass(frozen=True)
class Interval:
    """A number between two others, both included; a whole number where both are whole, as in int(interval(1,9)).

    Args:
        low: The smallest.
        high: The largest.
        log: Whether its logarithm is drawn evenly, so that each power of ten is as likely.
    """

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def size(self) -> float:
        """How many values there are; infinity of a continuum."""
        return self.high - self.low + 1 if self.whole else math.inf

    def draw(self, random: Random) -> str:
        """A number in few digits."""
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        value = math.exp(random.uniform(math.log(low), math.log(high))) if self.log else random.uniform(low, high)
        if self.whole:
            return str(min(max(round(value), int(self.low)), int(self.high)))
        return repr(min(max(float(f"{value:.{DIGITS}g}"), float(self.low)), float(self.high)))


@dataclass(frozen=True)
class Space:
    """What varies in a search, and what does not.

    Args:
        varied: Key to what its value is drawn from.
        fixed: Key to its value.
    """

    varied: dict[str, Choice | Interval]
    fixed: dict[str, str]

    @property
    def size(self) -> float:
        """How many points there are; infinity where a key has a continuum."""
        return math.prod(dimension.size for dimension in self.varied.values())

    def points(self, seed: int) -> Iterator[dict[str, str]]:
        """Points drawn at random, none twice, without end or until there are no more.

        The first points are the same however many are taken, so that a search can be made longer.
        """
        random = Random(seed)
        seen: set[tuple[str, ...]] = set()
        while len(seen) < self.size:
            point = {key: dimension.draw(random) for key, dimension in self.varied.items()}
            if (values := tuple(point.values())) not in seen:
                seen.add(values)
                yield point


def still_free(params: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """What of a space the command line leaves: an override of `data.crop` fixes `data.crop.seconds` too.

    Args:
        params: The space, by key.
        words: Overrides of the command line.
    """
    said = [word.partition("=")[0].lstrip("+~") for word in words]
    return {key: value for key, value in params.items() if not any(str(key).startswith(f"{name}.") for name in said)}


def parse(words: Sequence[str], loader: Any = None) -> Space:
    """The space of some overrides; of two of one key the later counts.

    Args:
        words: `key=value` each, such as `optim.lr=tag(log, interval(1e-4, 1e-2))`.
        loader: Hydra's config loader, for a glob over the options of a group.

    Raises:
        UserError: A range or an interval holds nothing.
    """
    varied: dict[str, Choice | Interval] = {}
    fixed: dict[str, str] = {}
    for override in parse_overrides(words, loader):
        key = override.get_key_element()
        varied.pop(key, None)
        fixed.pop(key, None)
        if not override.is_sweep_override():
            fixed[key] = override.get_value_element_as_str()
        elif override.is_interval_sweep():
            value: Any = override.value()
            low, high, log = value.start, value.end, "log" in value.tags
            if low is None or high is None or not low <= high or (log and low <= 0):
                rule = "its logarithm needs an interval above 0" if log and (low or 0) <= 0 else "holds no number"
                raise UserError(f"{override.input_line}: {rule}; give it as interval(low, high)")
            varied[key] = Interval(low, high, log)
        else:
            values = tuple(dict.fromkeys(override.sweep_string_iterator()))
            if not values:
                raise UserError(f"{override.input_line}: holds no value to choose from")
            varied[key] = Choice(values)
    return Space(varied, fixed)
