"""Tests of tasks and targets of columns of the data without files in conf/task and conf/target."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from tests.data.sources.tables import write_table

from etude.cli.train import main
from etude.config.column_tasks import TARGET_NODES
from etude.config.compose import conf_dir, open_hydra
from etude.config.override_errors import override_errors
from etude.experiment import start
from etude.sweeps import launcher

Result = subprocess.CompletedProcess[str]
COLUMNS: dict[str, list[Any]] = {
    "path": [f"{i}.wav" for i in range(12)],
    "mood": ["happy", "sad"] * 6,
    "tempo": [60 + 7 * i for i in range(12)],
    "rating": [1, 2, 3] * 4,
    "genre": ["rock", "jazz"] * 6,
    "vocal": ["yes", "no"] * 6,
    "words": [f"w{i}" for i in range(12)],
    "constant": ["x"] * 12,
    "empty": [""] * 12,
    "title": [f"t{i}" for i in range(12)],
}
FILES = {
    "target/mood": {"mood": TARGET_NODES["label"]},
    "target/tempo": {"tempo": TARGET_NODES["scalar"]},
    "task/mood": {"defaults": [{"/target@targets": "mood"}, "_self_"], "monitor": "val/score", "mode": "max"},
    "task/both": {
        "defaults": [{"/target@targets": ["mood", "tempo"]}, "_self_"],
        "monitor": "val/score",
        "mode": "max",
    },
}


@pytest.fixture
def table(tmp_path: Path) -> list[str]:
    """Return overrides for a table, and register the resolvers of runs."""
    start.prepare([])
    launcher.prepare([], False)
    return ["data=table", f"data.source.table={write_table(tmp_path, COLUMNS, 'clips.csv')}"]


def compose(overrides: list[str], folder: Path | None = None) -> dict[str, Any]:
    with open_hydra(folder) as composer:
        composed = composer.compose(overrides)
    choice = composed.hydra.runtime.choices.task
    own = OmegaConf.masked_copy(composed, ["data", "task", "weighting", "backbone"])
    plain = OmegaConf.to_container(own)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()} | {"choice": choice}


def test_column_gives_the_config_of_yaml_files(table: list[str], tmp_path: Path) -> None:
    for path, node in FILES.items():
        file = tmp_path / "configs" / f"{path}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(node))
    loss = "task.targets.tempo.loss=mae"
    assert compose([*table, "task=mood"]) == compose([*table, "task=mood"], tmp_path / "configs")
    both = compose([*table, "task=both", loss], tmp_path / "configs")
    assert compose([*table, "task=[mood,tempo]", loss]) == both | {"choice": "mood+tempo"}
    assert list(both["task"]["targets"]) == ["mood", "tempo"] and both["task"]["targets"]["tempo"]["loss"] == "mae"
    for kind, name in (("label", "genre"), ("scalar", "valence")):
        node = yaml.safe_load((conf_dir() / "target" / f"{name}.yaml").read_text("utf-8"))
        assert node == {name: TARGET_NODES[kind]}


def test_auto_and_lists_select_all_targets(table: list[str]) -> None:
    store = set(ConfigStore.instance().repo)
    assert list(compose([*table, "task=auto"])["task"]["targets"]) == ["mood", "tempo", "rating", "genre"]
    assert list(compose(["task=[genre,valence,multitask]"])["task"]["targets"]) == [
        "genre", "valence", "energy", "danceability",
    ]  # fmt: skip
    assert list(compose(["task=auto"])["task"]["targets"]) == ["genre", "valence", "energy", "danceability"]
    assert set(ConfigStore.instance().repo) == store


def test_experiment_file_selects_columns(table: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "configs" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    source = {"source": {"table": table[1].partition("=")[2]}, "targets": {"rating": [1, 5]}}
    defaults = [{"override /data": "table"}, {"override /task": ["mood", "rating"]}]
    text = yaml.safe_dump({"defaults": defaults, "data": source})
    file.write_text(f"# @package _global_\n{text}")
    arguments = [f"--config-dir={tmp_path / 'configs'}", "--cfg=job"]
    assert main([*arguments, "experiment=mine", "task.targets.rating.loss=mae"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert {name: node["_target_"] for name, node in printed["task"]["targets"].items()} == {
        "mood": "etude.tasks.targets.Label",
        "rating": "etude.tasks.targets.Scalar",
    }
    file.write_text(f"# @package _global_\n{text.replace('- rating', '- words')}")
    assert main([*arguments, "experiment=mine"]) == 2
    assert "the column words cannot be a target: it has 12 values" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["task=[mood,temp]"],
            "task=temp: no such option; did you mean tempo? available: danceability, digit, energy, genre, joint, "
            "multitask, valence; and of the columns of this data: mood (label), tempo (scalar), rating (label), genre "
            "(label), or auto for all of them",
        ),
        (["task=words"], "task=words: the column words cannot be a target: it has 12 values in 12 clips, too many"),
        (["task=constant"], "the column constant cannot be a target: all cells have the same value"),
        (["task=empty"], "the column empty cannot be a target: it is empty"),
        (["task=path"], "the column path cannot be a target: it contains the path of each clip"),
        (["task=title"], "it describes clips; to use it as a target, set data.targets={title: label}"),
        (["task=vocal"], "it contains only no and yes; to use it as a target, set data.targets={vocal: label}"),
        (["task=rating", "data.targets={rating: null}"], "cannot be a target: data.targets leaves it out"),
        (["task=mood", "data.source.table=no.csv"], "the columns of the data cannot be read: no.csv: there is no such"),
        (["task=mood", "epochs=3"], "epochs: no such config group or key; did you mean trainer.max_epochs?"),
        (["task=mood", "data.num_workers=1"], "data.num_workers: no such config key; did you mean workers?"),
        (["task=1980"], "task=1980: is not a text; to select a column of this name, use \"task='1980'\""),
    ],
)
def test_unknown_task_lists_columns_or_names_the_reason(table: list[str], overrides: list[str], message: str) -> None:
    (text,) = override_errors([*table, *overrides])
    assert message in text


def test_task_without_data_of_the_user_is_named_with_the_remedy() -> None:
    (text,) = override_errors(["task=mood"])
    assert text.endswith("the data of this command has no such column; data=... selects your own")


def test_sweep_over_columns_is_valid(table: list[str]) -> None:
    assert override_errors([*table, "task=mood,tempo,[mood,tempo]", "seed=0,1"], sweep=True) == []
    (text,) = override_errors([*table, "task=mood,moood"], sweep=True)
    assert text.startswith("task=moood: no such option; did you mean mood?")


def test_odd_names_work_when_quoted(table: list[str], tmp_path: Path) -> None:
    names = ["my mood", "Größe", "v1.2", "1980", "null", "true", "yes", "on", "a/b", "a=b", "[x]"]
    columns = {"path": COLUMNS["path"], **dict.fromkeys(names, COLUMNS["mood"]), "a+b": COLUMNS["mood"]}
    source = ["data=table", f"data.source.table={write_table(tmp_path, columns, 'odd.csv')}"]
    for name in ("v1.2", "null"):
        composed = compose([*source, f"task='{name}'"])
        assert composed["choice"] == name and list(composed["task"]["targets"]) == [name]
    joined = compose([*source, "task=[{}]".format(",".join(f"'{name}'" for name in names))])
    assert list(joined["task"]["targets"]) == names
    (text,) = override_errors([*source, "task='a+b'"])
    assert "its name contains +, which separates the tasks of a list" in text


def test_kinds_of_some_columns_are_declared(table: list[str], config: Callable[..., dict[str, Any]]) -> None:
    composed = compose([*table, "task=auto", "data.targets={rating: [1, 5], vocal: label, genre: null}"])
    targets = {name: node["_target_"].rpartition(".")[2] for name, node in composed["task"]["targets"].items()}
    assert targets == {"mood": "Label", "tempo": "Scalar", "rating": "Scalar", "vocal": "Label"}
    assert composed["data"]["targets"] == {"rating": [1, 5], "vocal": "label", "genre": None}
