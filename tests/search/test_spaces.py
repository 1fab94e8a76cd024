"""The spaces in conf/sweep/space: each key is a setting of its network, and what is drawn is a config without fault."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from etude.config.compose import conf_dir
from etude.config.validation import problems
from etude.sweeps.search_space import Interval, parse

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
        assert problems(plain) == []
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
