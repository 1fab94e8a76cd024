"""Tests of the backbone and frames of a run that starts from the weights of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from etude.config.compose import open_hydra
from etude.errors import UserError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return the folder of a run with an LSTM of 24 units on 20 mel bands and chroma."""
    compose("backbone=lstm", "backbone.hidden=24", "feature=fused", "feature.front.n_mels=20", out=tmp_path)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


def compose(*overrides: str, out: Path | None = None) -> dict[str, Any]:
    """Return a composed config. It can be written as the config of a run."""
    from omegaconf import OmegaConf

    with open_hydra() as composer:
        composed = composer.compose(overrides)
    groups = {group: OmegaConf.to_container(composed[group]) for group in ("backbone", "feature", "trainer", "optim")}
    groups["choices"] = {group: str(composed.hydra.runtime.choices[group]) for group in ("backbone", "feature")}
    if out is not None:
        needed = {"data": {}, "task": {"targets": {}}}
        (out / "config.yaml").write_text(yaml.safe_dump(groups | needed), "utf-8")
    return groups


@pytest.mark.parametrize("path", ["", "checkpoints", "checkpoints/best.ckpt"])
def test_backbone_and_frames_are_those_of_the_source(source: Path, path: str) -> None:
    config = compose("transfer=last_k", f"transfer.init_from={source / path}", "task=valence")
    expected = compose("backbone=lstm", "backbone.hidden=24", "feature=fused", "feature.front.n_mels=20")
    assert config == expected  # with the epochs and the rate of the backbone


def test_options_and_values_of_the_command_have_priority(source: Path) -> None:
    arguments = ("transfer=full", f"transfer.init_from={source}")
    assert compose(*arguments, "backbone=cnn")["choices"] == {"backbone": "cnn", "feature": "fused"}
    assert compose(*arguments, "feature=mel")["feature"]["front"]["n_mels"] == 128
    assert compose(*arguments, "feature/front=patreco")["choices"]["feature"] == "mel"
    changed = compose(*arguments, "backbone.hidden=8", "feature.front={n_mels: 30}")
    assert (changed["backbone"]["hidden"], changed["feature"]["front"]["n_mels"]) == (8, 30)
    experiment = compose(*arguments, "experiment=reproduction/step7/ast")
    assert experiment["choices"]["backbone"] == "ast"


@pytest.mark.parametrize("value", ["null", "nowhere", "'nowhere/best.ckpt'"])
def test_source_without_config_changes_nothing(value: str) -> None:
    assert compose("transfer=probe", f"transfer.init_from={value}") == compose("transfer=probe")


def test_stored_config_runs_no_code(source: Path) -> None:
    path = source / "config.yaml"
    stored = yaml.safe_load(path.read_text("utf-8"))
    stored["backbone"]["dropout"] = "${oc.env:HOME}"
    path.write_text(yaml.safe_dump(stored), "utf-8")
    assert compose("transfer=full", f"transfer.init_from={source}")["choices"]["backbone"] == "cnn"
    stored["backbone"] = {"_target_": "os.system", "command": "true"}
    path.write_text(yaml.safe_dump(stored), "utf-8")
    with pytest.raises(UserError, match=r"the stored config calls os\.system, which is not trusted"):
        compose("transfer=full", f"transfer.init_from={source}")
