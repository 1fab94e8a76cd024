"""What an agent of Weights & Biases would run, from conf/wandb_sweep.yaml, is a line that this project takes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from etude.config.compose import conf_dir
from etude.config.validation import config_errors

SWEEP = yaml.safe_load((conf_dir() / "wandb_sweep.yaml").read_text(encoding="utf-8"))


def argv(values: dict[str, Any]) -> list[str]:
    """As `wandb.wandb_agent.Agent` puts a command together."""
    words = create_sweep_command(deepcopy(SWEEP["command"]))
    macros = {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [SWEEP["program"]]}
    macros |= create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    return [word for chunk in words for word in macros.get(chunk.removeprefix("${").removesuffix("}"), [chunk])]


def ends(node: dict[str, Any]) -> list[Any]:
    """The values of a parameter: all of a list, both ends of a distribution."""
    return node.get("values") or ([node["value"]] if "value" in node else [node["min"], node["max"]])


CHOICES = [
    dict(zip(SWEEP["parameters"], values, strict=True))
    for values in itertools.product(*map(ends, SWEEP["parameters"].values()))
]


@pytest.mark.parametrize("values", CHOICES, ids=str)
def test_what_an_agent_runs_composes(values: dict[str, Any], config: Callable[..., dict[str, Any]]) -> None:
    env, python, program, *overrides = argv(values)
    assert (env, python, program) == ("/usr/bin/env", "python", "train.py")
    assert not any(word.startswith(("-", "$")) for word in overrides)
    composed = config(*overrides)
    assert config_errors(composed) == []
    assert composed["optim"]["lr"] == values["optim.lr"]
    assert set(composed["logger"]) == {"csv", "wandb"}


def test_validation_chooses_and_not_test() -> None:
    assert SWEEP["metric"] == {"name": "val/score", "goal": "maximize"}
    assert SWEEP["program"] == "train.py"


@pytest.mark.parametrize("choice", ["csv", "wandb", "[wandb,mlflow]", "[wandb,tensorboard,mlflow]"])
def test_several_trackers_can_be_chosen_and_the_curves_are_always_there(
    choice: str, config: Callable[..., dict[str, Any]]
) -> None:
    composed = config(f"logger={choice}")
    assert config_errors(composed) == []
    assert set(composed["logger"]) == {"csv", *choice.strip("[]").split(",")}
