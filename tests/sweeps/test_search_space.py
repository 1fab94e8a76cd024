"""A search draws what its space says: every value of it, none outside, and no point twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from etude.config.compose import conf_dir
from etude.config.validation import config_errors
from etude.errors import UserError
from etude.sweeps.search_space import Choice, Interval, parse, still_free


def drawn(*words: str, count: int = 400, seed: int = 0) -> list[dict[str, str]]:
    return list(islice(parse(words).points(seed), count))


def test_what_is_fixed_by_a_key_above_is_not_drawn() -> None:
    space = {"data.crop.seconds": "1,2", "data.crop_size": "3,4", "optim.lr": "1,2"}
    assert list(still_free(space, ["data.crop=null", "+optim=x.y", "seed=1"])) == ["data.crop_size"]
    assert still_free(space, ["data.crop.seconds=3"]) == space  # which the sweeper itself takes for the last word


def test_the_words_of_hydras_grammar() -> None:
    space = parse(["a=1,2,2", "b=choice([1,2],'x y')", "c=range(0,6,2)", "d=tag(log, interval(1e-4,1e-2))", "+e=f"])
    assert space.varied == {
        "a": Choice(("1", "2")),
        "b": Choice(("[1,2]", r"x\ y")),
        "c": Choice(("0", "2", "4")),
        "d": Interval(1e-4, 1e-2, log=True),
    }
    assert space.fixed == {"+e": "f"}


def test_the_later_of_two_words_counts() -> None:
    assert parse(["a=1,2", "a=3"]).varied == {}
    assert parse(["a=3", "a=1,2"]).fixed == {}
    assert parse(["a=interval(0,1)", "a=interval(0,2)"]).varied == {"a": Interval(0, 2)}


def test_a_logarithm_is_drawn_evenly() -> None:
    values = [float(point["lr"]) for point in drawn("lr=tag(log, interval(1e-5,1e-1))")]
    assert 1e-5 <= min(values) < 2e-5 and 5e-2 < max(values) <= 1e-1
    tens = [sum(10**n <= value < 10 ** (n + 1) for value in values) for n in range(-5, -1)]
    assert all(70 < count < 130 for count in tens)  # of 100


def test_whole_numbers_stay_whole_and_both_ends_are_drawn() -> None:
    assert {point["n"] for point in drawn("n=int(interval(2,5))")} == {"2", "3", "4", "5"}
    assert {point["n"] for point in drawn("n=tag(log, int(interval(1,3)))")} == {"1", "2", "3"}


def test_no_point_is_drawn_twice_and_a_small_space_ends() -> None:
    points = drawn("a=1,2,3", "b=x,y")
    assert len(points) == 6 == len({tuple(point.items()) for point in points})


def test_a_longer_search_begins_as_the_shorter_one_and_another_seed_elsewhere() -> None:
    words = ["a=interval(0.0,1.0)", "b=1,2,3"]
    assert drawn(*words, count=20)[:7] == drawn(*words, count=7)
    assert drawn(*words, count=7, seed=1) != drawn(*words, count=7)


@pytest.mark.parametrize("word", ["a=interval(2,1)", "a=tag(log, interval(0,1))", "a=range(3,3)"])
def test_what_holds_nothing_is_refused(word: str) -> None:
    with pytest.raises(UserError, match="a="):
        parse([word])


def test_a_continuum_has_no_end() -> None:
    assert parse(["a=interval(0.0,1.0)", "b=1,2"]).size == math.inf


KINDS = ["lstm", "cnn", "ast", "transfer"]
GIVEN = {"transfer": ["backbone=lstm", "transfer.init_from=somewhere"]}


def composed(*words: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", overrides=list(words), return_hydra_config=True)


def words_of(config: DictConfig) -> list[str]:
    return [f"{key}={value}" for key, value in config.hydra.sweeper.params.items()]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_is_a_config_without_fault(kind: str, config: Callable[..., dict[str, Any]]) -> None:
    sweep, given = f"sweep=random_{kind}", GIVEN.get(kind, [])
    space = parse(words_of(composed(sweep, *given)))
    assert isinstance(space.varied["optim.lr"], Interval) and space.varied["optim.lr"].log
    for point in islice(space.points(0), 2):
        told = [f"{key}={value}" for key, value in point.items()]
        plain = config(sweep, *given, *told)  # Hydra refuses a key that is not there
        assert config_errors(plain) == []
        assert plain["optim"]["lr"] == float(point["optim.lr"])
        if kind != "transfer":
            assert plain["choices"]["backbone"] and kind.upper() == plain["backbone"]["_target_"].rpartition(".")[2]


@pytest.mark.parametrize("kind", KINDS)
def test_optuna_and_chance_search_the_same_space(kind: str) -> None:
    by_optuna, by_chance = composed(f"sweep=optuna_{kind}"), composed(f"sweep=random_{kind}")
    assert words_of(by_optuna) == words_of(by_chance) != []
    assert by_optuna.hydra.sweeper["_target_"].endswith("StudySweeper")
    assert by_chance.hydra.sweeper["_target_"].endswith("RandomSweeper")
    assert by_optuna.hydra.mode is None and by_chance.hydra.mode is None  # a job is a plain run with the same words


def test_the_direction_is_the_tasks() -> None:
    whole = composed("sweep=optuna_cnn", "task.mode=min", "task.monitor=val/loss", "hydra.sweep.dir=here")
    assert (whole.hydra.sweeper.mode, whole.hydra.sweeper.monitor) == ("min", "val/loss")
    assert whole.hydra.sweeper.storage == "sqlite:///here/search.db"
