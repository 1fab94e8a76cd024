"""Tests that invalid overrides are reported all at once, with one message and a suggestion each."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from etude.cli.train import main
from etude.config.compose import parse_arguments
from etude.config.override_errors import override_errors

BACKBONES = "available: ast, cnn, convnet, efficientat, hf, lstm, musicnn, timm"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bakbone=lstm", "bakbone: no such config group or key; did you mean backbone?"),
        ("backbone=lsmt", f"backbone=lsmt: no such option; did you mean lstm? {BACKBONES}"),
        ("backbone=null", f"backbone=null: no such option; {BACKBONES}"),
        ("backbone", f"backbone: is not of the form name=value; {BACKBONES}"),
        ("backbone@x=lstm", "backbone@x=lstm: this config has no backbone@x; did you mean backbone? otherwise add"),
        ("+backbone=lstm", "+backbone=lstm: backbone has an option already; remove the plus"),
        ("~backbone=lstm", "~backbone=lstm: backbone has the option cnn"),
        ("feature/frnt=patreco", "feature/frnt: no such config group or key; did you mean feature/front?"),
        ("logger=[csv,wandbb]", "logger=wandbb: no such option; did you mean wandb? available: csv, mlflow, "),
        (
            "+experiment=reproduction",
            "+experiment=reproduction: is a folder of options; available: reproduction/step7/ast, ",
        ),
        (
            "experiment=reproduction/table1/lstm_me",
            "experiment=reproduction/table1/lstm_me: no such option; did you mean reproduction/table1/lstm_mel? ",
        ),
        (
            "experiment=reproduction/step5_lstm",
            "experiment=reproduction/step5_lstm: no such option; did you mean reproduction/",
        ),
        ("task=genre,valence", "task=genre,valence: several values require a sweep; add -m"),
        ("logger=csv,wandb", "logger=csv,wandb: several values require a sweep; add -m, or use a list: 'logger=[csv,"),
        ("trainer.max_epoch=2", "trainer.max_epoch: no such config key; did you mean max_epochs?"),
        ("trainer.overfit_batches=2", "trainer.overfit_batches: is not in the config; add it with a plus: +t"),
        ("trainer.max_epochs.x=2", "trainer.max_epochs.x: trainer.max_epochs is a value and has no keys"),
        ("train.max_epochs=2", "train.max_epochs: no such config group or key; did you mean trainer.max_epochs?"),
        ("lr=0.1", "lr: no such config group or key; did you mean optim.lr?"),
        ("data.split={kindd: random}", "data.split.kindd: no such config key; did you mean kind?"),
        ("+data.batch_size=3", "+data.batch_size=3: data.batch_size exists already; remove the plus"),
        ("task.targets.genre.metrics=[a.b]", "task.targets.genre.metrics: is not in the config; add it with a plus: +"),
        ("~sed", "sed: no such config group or key; did you mean seed?"),
        ("data.batch_size=[", "data.batch_size=[: a bracket or a quote is not closed"),
        ("name=a:b=c", "name=a:b=c: the value cannot be parsed; if it is a text, quote it twice: \"name='a:b=c'\""),
        ("a b=3", "a b=3: the key cannot be parsed; use letters, digits and dots without spaces"),
    ],
)
def test_invalid_override_has_one_message(override: str, message: str) -> None:
    (error,) = override_errors([override])
    assert error.startswith(message)


def test_all_invalid_overrides_are_reported_without_consequential_errors() -> None:
    overrides = ["backbone=lsmt", "backbone.hidden=3", "trainer.max_epoch=3", "seed=-1", "tsk=genre", "name=a(b"]
    assert [error.partition(":")[0] for error in override_errors(overrides)] == [
        "backbone=lsmt", "name=a(b", "trainer.max_epoch", "tsk", "seed",
    ]  # fmt: skip
    # without a similar option, the other overrides cannot be checked
    assert len(override_errors(["backbone=qqq", "backbone.hidden=3"])) == 1
    assert len(override_errors(["experiment=qqq", "backbone.colour=3"])) == 1


def test_valid_overrides_have_no_errors() -> None:
    assert (
        override_errors(
            ["backbone=lstm", "backbone.hidden=3", "+trainer.overfit_batches=2", "~augment.gain", "logger=[]"]
        )
        == []
    )


def test_key_inside_a_list_of_metrics_has_one_message() -> None:
    overrides = [f"+task.targets.genre.metrics{value}" for value in ("=[sklearn.metrics.accuracy_score]", ".k=a.b")]
    (error,) = override_errors(overrides)
    assert error.startswith(f"{overrides[1]}: ") and "Index 'k' (str) is not an int" in error


def test_key_without_a_default_value_is_known() -> None:
    assert override_errors(["transfer=full", "transfer.init_from=outputs/a"]) == []
    assert override_errors(["transfer=full,probe", "transfer.init_from=outputs/a,outputs/b"], sweep=True) == []
    assert override_errors(["weighting={weights: {genre: 3}}"])[0].startswith("weighting.weights.genre: ")


@pytest.mark.parametrize(
    "overrides",
    [
        ["hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.n_trials=2", "optim.lr=interval(0, 1)"],
        ["backbone=choice(lstm,cnn)", "seed=range(0,3)", "sweep=folds", "optim.weight_decay=tag(log, interval(0, 1))"],
        ["backbone=glob(c*)", "feature=mel,chroma", "feature.sync=none,beat"],
        ["logger=wandb,[wandb,csv]", "+trainer.overfit_batches=1,2", "++backbone.depth=1,2"],
        ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=3", "sweep.resume=outputs/x"],
    ],
    ids=lambda overrides: overrides[0],
)  # fmt: skip
def test_valid_sweeps_have_no_errors(overrides: list[str]) -> None:
    assert override_errors(overrides, sweep=True) == []


def test_all_options_of_a_sweep_are_checked() -> None:
    assert override_errors(["backbone=lstm,cnnn", "task=genre,valence"], sweep=True) == [
        f"backbone=cnnn: no such option; did you mean cnn? {BACKBONES}"
    ]
    (error,) = override_errors(["backbone=lstm,cnn", "backbone.hidden=3", "seed=1,2"], sweep=True)
    assert error == "backbone.hidden: no such config key; available: channels, kernel, dropout (with backbone=cnn)"
    # Hydra first composes the defaults, with backbone=cnn, without the overrides of the sweep
    (error,) = override_errors(["backbone=lstm,ast", "backbone.depth=3"], sweep=True)
    assert error.endswith("use ++backbone.depth=3")


def test_options_in_a_config_folder_of_the_user_are_checked(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    experiments = {"custom": "seed: 3", "broken": "seed: [3", "unknown": "defaults:\n  - /backbone: lsmt"}
    for name, text in experiments.items():
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    assert override_errors(["experiment=custom"], folder=tmp_path) == []
    assert override_errors(["experiment=custm"], folder=tmp_path)[0].startswith(
        "experiment=custm: no such option; did you mean custom?"
    )
    (error,) = override_errors(["experiment=broken"], folder=tmp_path)
    assert error.startswith("experiment=broken: ") and "broken.yaml: line 3: " in error
    (error,) = override_errors(["experiment=unknown"], folder=tmp_path)
    assert error.startswith("experiment=unknown: ") and "backbone/lsmt" in error


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["backbone=lsmt", "seed=-1"], ["the command has 2 errors:", "  backbone=lsmt: ", "  seed: must be"]),
        (["--cfg", "job", "trainer.max_epoch=2"], ["trainer.max_epoch: no such config key; did you mean max_epochs?"]),
        (["-m", "trainer.max_epoch=2,3"], ["trainer.max_epoch: no such config key; did you mean max_epochs?"]),
        (["--multirum", "seed=1,2"], ["--multirum: no such flag; did you mean --multirun?"]),
        (["--epochs=3"], ["--epochs=3: no such flag; settings have no dashes: trainer.max_epochs=3"]),
        (["--batch-size", "8"], ["--batch-size: no such flag; settings have no dashes: data.batch_size=..."]),
        (["trainer.epochs=3"], ["trainer.epochs: no such config key; did you mean max_epochs?"]),
        (["--resolve"], ["--resolve: requires --cfg"]),
        (["--cfg", "jb"], ["argument --cfg/-c: invalid choice: 'jb'"]),
        (["--config-dir=nowhere"], ["--config-dir=nowhere: there is no such folder"]),
        (["--config-name=nothing"], ["Cannot find primary config 'nothing'."]),
        (["seed=${nothing}"], ["seed: Interpolation key 'nothing' not found"]),
    ],
    ids=lambda value: value[0],
)
def test_command_prints_its_errors_and_writes_nothing(
    arguments: list[str],
    messages: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py"])
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    for line, start in zip(error.splitlines(), messages, strict=True):
        assert line.startswith(start)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "ordered"),
    [
        (["seed=1", "--cfg", "job", "patience=2"], ["--cfg", "job", "seed=1", "patience=2"]),
        (["seed=1,2", "-m", "backbone=lstm"], ["-m", "seed=1,2", "backbone=lstm"]),
        (
            ["~logger.csv", "--config-dir=.", "+a=1", "-c", "job"],
            ["--config-dir=.", "-c", "job", "~logger.csv", "+a=1"],
        ),
        (["name=x", "name=x", "-m"], ["-m", "name=x", "name=x"]),
    ],
    ids=str,
)
def test_flags_may_be_between_overrides(arguments: list[str], ordered: list[str]) -> None:
    assert parse_arguments(arguments).ordered == ordered


def test_config_is_printed_for_a_flag_between_overrides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    assert main(["seed=3", "--cfg", "job", "patience=2"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["seed"], printed["patience"]) == (3, 2)
