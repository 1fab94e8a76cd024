"""Tests of the parsing and sampling of search spaces."""

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
from etude.sweeps.search import Choice, Interval, parse_search_space, remove_overridden


def sample(*overrides: str, count: int = 400, seed: int = 0) -> list[dict[str, str]]:
    return list(islice(parse_search_space(overrides).sample_points(seed), count))


def test_keys_below_an_overridden_key_are_not_sampled() -> None:
    space = {"data.crop.seconds": "1,2", "data.crop_size": "3,4", "optim.lr": "1,2"}
    assert list(remove_overridden(space, ["data.crop=null", "+optim=x.y", "seed=1"])) == ["data.crop_size"]
    assert remove_overridden(space, ["data.crop.seconds=3"]) == space  # the sweeper itself uses the last override


def test_grammar_of_hydra_is_parsed() -> None:
    space = parse_search_space(
        ["a=1,2,2", "b=choice([1,2],'x y')", "c=range(0,6,2)", "d=tag(log, interval(1e-4,1e-2))", "+e=f"]
    )
    assert space.varied == {
        "a": Choice(("1", "2")),
        "b": Choice(("[1,2]", r"x\ y")),
        "c": Choice(("0", "2", "4")),
        "d": Interval(1e-4, 1e-2, log=True),
    }
    assert space.fixed == {"+e": "f"}


def test_last_override_of_a_key_is_used() -> None:
    assert parse_search_space(["a=1,2", "a=3"]).varied == {}
    assert parse_search_space(["a=3", "a=1,2"]).fixed == {}
    assert parse_search_space(["a=interval(0,1)", "a=interval(0,2)"]).varied == {"a": Interval(0, 2)}


def test_logarithm_is_sampled_uniformly() -> None:
    values = [float(point["lr"]) for point in sample("lr=tag(log, interval(1e-5,1e-1))")]
    assert 1e-5 <= min(values) < 2e-5 and 5e-2 < max(values) <= 1e-1
    counts = [sum(10**n <= value < 10 ** (n + 1) for value in values) for n in range(-5, -1)]
    assert all(70 < count < 130 for count in counts)  # 100 expected


def test_integers_include_both_ends() -> None:
    assert {point["n"] for point in sample("n=int(interval(2,5))")} == {"2", "3", "4", "5"}
    assert {point["n"] for point in sample("n=tag(log, int(interval(1,3)))")} == {"1", "2", "3"}


def test_points_of_a_small_space_are_unique_and_exhausted() -> None:
    points = sample("a=1,2,3", "b=x,y")
    assert len(points) == 6 == len({tuple(point.items()) for point in points})


def test_extended_search_has_the_same_first_points_and_another_seed_has_others() -> None:
    overrides = ["a=interval(0.0,1.0)", "b=1,2,3"]
    assert sample(*overrides, count=20)[:7] == sample(*overrides, count=7)
    assert sample(*overrides, count=7, seed=1) != sample(*overrides, count=7)


@pytest.mark.parametrize("override", ["a=interval(2,1)", "a=tag(log, interval(0,1))", "a=range(3,3)"])
def test_empty_range_is_refused(override: str) -> None:
    with pytest.raises(UserError, match="a="):
        parse_search_space([override])


def test_real_numbers_make_an_infinite_space() -> None:
    assert parse_search_space(["a=interval(0.0,1.0)", "b=1,2"]).size == math.inf


KINDS = ["lstm", "cnn", "ast", "transfer"]
REQUIRED_OVERRIDES = {"transfer": ["backbone=lstm", "transfer.init_from=somewhere"]}


def compose_config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", overrides=list(overrides), return_hydra_config=True)


def space_overrides(config: DictConfig) -> list[str]:
    return [f"{key}={value}" for key, value in config.hydra.sweeper.params.items()]


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_points_are_valid_configs(kind: str, config: Callable[..., dict[str, Any]]) -> None:
    sweep, required = f"sweep=random_{kind}", REQUIRED_OVERRIDES.get(kind, [])
    space = parse_search_space(space_overrides(compose_config(sweep, *required)))
    assert isinstance(space.varied["optim.lr"], Interval) and space.varied["optim.lr"].log
    for point in islice(space.sample_points(0), 2):
        overrides = [f"{key}={value}" for key, value in point.items()]
        plain = config(sweep, *required, *overrides)  # Hydra refuses an unknown key
        assert config_errors(plain) == []
        assert plain["optim"]["lr"] == float(point["optim.lr"])
        if kind != "transfer":
            assert plain["choices"]["backbone"] and kind.upper() == plain["backbone"]["_target_"].rpartition(".")[2]


@pytest.mark.parametrize("kind", KINDS)
def test_optuna_and_random_search_have_the_same_space(kind: str) -> None:
    optuna, random = compose_config(f"sweep=optuna_{kind}"), compose_config(f"sweep=random_{kind}")
    assert space_overrides(optuna) == space_overrides(random) != []
    assert optuna.hydra.sweeper["_target_"].endswith("StudySweeper")
    assert random.hydra.sweeper["_target_"].endswith("RandomSweeper")
    assert optuna.hydra.mode is None and random.hydra.mode is None  # a job is a single run with the same overrides


def test_direction_of_a_search_is_the_mode_of_the_task() -> None:
    composed = compose_config("sweep=optuna_cnn", "task.mode=min", "task.monitor=val/loss", "hydra.sweep.dir=here")
    assert (composed.hydra.sweeper.mode, composed.hydra.sweeper.monitor) == ("min", "val/loss")
    assert composed.hydra.sweeper.storage == "sqlite:///here/search.db"
