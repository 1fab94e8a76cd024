"""Tests of the commands that an agent of Weights & Biases builds from conf/wandb_sweep.yaml."""

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


def build_command(values: dict[str, Any]) -> list[str]:
    """Build the command as `wandb.wandb_agent.Agent` does."""
    arguments = create_sweep_command(deepcopy(SWEEP["command"]))
    macros = {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [SWEEP["program"]]}
    macros |= create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    return [
        argument for chunk in arguments for argument in macros.get(chunk.removeprefix("${").removesuffix("}"), [chunk])
    ]


def boundary_values(node: dict[str, Any]) -> list[Any]:
    """Return all values of a list, or both ends of a distribution."""
    return node.get("values") or ([node["value"]] if "value" in node else [node["min"], node["max"]])


CHOICES = [
    dict(zip(SWEEP["parameters"], values, strict=True))
    for values in itertools.product(*map(boundary_values, SWEEP["parameters"].values()))
]


@pytest.mark.parametrize("values", CHOICES, ids=str)
def test_command_of_an_agent_composes(values: dict[str, Any], config: Callable[..., dict[str, Any]]) -> None:
    env, python, program, *overrides = build_command(values)
    assert (env, python, program) == ("/usr/bin/env", "python", "train.py")
    assert not any(override.startswith(("-", "$")) for override in overrides)
    composed = config(*overrides)
    assert config_errors(composed) == []
    assert composed["optim"]["lr"] == values["optim.lr"]
    assert set(composed["logger"]) == {"csv", "wandb"}


def test_validation_score_is_the_objective() -> None:
    assert SWEEP["metric"] == {"name": "val/score", "goal": "maximize"}
    assert SWEEP["program"] == "train.py"


@pytest.mark.parametrize("choice", ["csv", "wandb", "[wandb,mlflow]", "[wandb,tensorboard,mlflow]"])
def test_several_trackers_can_be_selected_besides_the_curves(
    choice: str, config: Callable[..., dict[str, Any]]
) -> None:
    composed = config(f"logger={choice}")
    assert config_errors(composed) == []
    assert set(composed["logger"]) == {"csv", *choice.strip("[]").split(",")}
