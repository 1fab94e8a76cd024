"""Error messages for overrides that Hydra refuses without a readable message, and for renamed config names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from etude.cli import train
from etude.config.compose import OTHER_NAMES, open_hydra
from etude.config.override_errors import override_errors
from etude.config.stored import KEYS, OPTIONS, TARGETS, renamed_key, renamed_option
from etude.config.validation import config_errors, signature


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hydra.verbose=0", "hydra.verbose=0: Hydra does not accept this; remove it"),
        ("a\0b", r"'a\x00b': contains a null byte, which is not allowed"),
        ("+resume=genre", "resume=genre: is not a run folder"),
        ("~hydra/job_logging", "job_logging"),
        ("seed=${oc.env:NOT_THERE}", "seed: \"Environment variable 'NOT_THERE' not found\""),
        ("outputs=[a,b]", "outputs=['a', 'b']: must be the name of a folder"),
        ("+optim.decay=cosine", "optim.decay: was renamed; use optim.schedule"),
    ],
)
def test_override_is_refused_with_message_and_no_file_is_written(
    override: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py"])
    assert train.main([override]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("balance=pcgrad", "balance=pcgrad: was renamed; use weighting=pcgrad"),
        ("balance={weights: {}}", "balance={weights: {}}: was renamed; use weighting={weights: {}}"),
        ("balance.weights.genre=2", "balance.weights.genre=2: was renamed; use weighting.weights.genre=2"),
        ("balance@x=sum", "balance@x=sum: was renamed; use weighting@x=sum"),
        ("+balance=sum", "+balance=sum: was renamed; use +weighting=sum"),
        ("~balance", "~balance: was renamed; use ~weighting"),
        ("data.balance=genre", "data.balance: was renamed; use data.balanced_sampling"),
        ("+data.balance=genre", "data.balance: was renamed; use data.balanced_sampling"),
        ("~data.balance", "data.balance: was renamed; use data.balanced_sampling"),
        ("data.balance.x=3", "data.balance.x: was renamed; use data.balanced_sampling.x"),
        ("data={balance: genre}", "data.balance: was renamed; use data.balanced_sampling"),
        ("optim.decay=cosine", "optim.decay: was renamed; use optim.schedule"),
        ("transfer.every=2", "transfer.every: was renamed; use transfer.unfreeze_every"),
        ("+sweep.lab_ast=outputs/x", "sweep.lab_ast: was renamed; use sweep.reproduction_ast"),
        ("callbacks=no_stopping", "callbacks=no_stopping: was renamed; use callbacks=no_early_stopping"),
        ("callbacks=[default,no_stopping]", "callbacks=no_stopping: was renamed; use callbacks=no_early_stopping"),
        ("debug=lr", "debug=lr: was renamed; use debug=find_lr"),
        ("~data=lab", "~data=lab: was renamed; use ~data=patreco"),
        ("data=lab_affect", "data=lab_affect: was renamed; use data=patreco_affect"),
        ("feature/front=lab", "feature/front=lab: was renamed; use feature/front=patreco"),
        ("feature/front@f=lab", "feature/front@f=lab: was renamed; use feature/front@f=patreco"),
        ("experiment=lab/step7/ast", "experiment=lab/step7/ast: was renamed; use experiment=reproduction/step7/ast"),
        (
            "experiment=lab/step7/asst",
            "experiment=lab/step7/asst: no such option; did you mean reproduction/step7/ast?",
        ),
        ("experiment=better", "experiment=better: is a folder of options; available: improved/step7/ast, "),
        ("sweep=lab_all", "sweep=lab_all: was renamed; use sweep=reproduction"),
    ],
)
def test_renamed_key_or_option_is_reported_with_its_new_name(override: str, message: str) -> None:
    assert override_errors([override])[0].startswith(message)


def test_other_overrides_are_checked_with_the_new_names() -> None:
    assert override_errors(["weighting.rate=10", "balance=uncertainty"]) == [
        "balance=uncertainty: was renamed; use weighting=uncertainty"
    ]
    assert override_errors(["balance=nothing", "balance.rate=3"])[1:] == [
        "weighting=nothing: no such option; available: pcgrad, random, sum, uncertainty",
        "balance.rate=3: was renamed; use weighting.rate=3",
    ]
    assert override_errors(["data=lab,lab_joint", "balance=sum,pcgrad"], sweep=True) == [
        "data=lab: was renamed; use data=patreco",
        "data=lab_joint: was renamed; use data=patreco_joint",
        "balance=sum,pcgrad: was renamed; use weighting=sum,pcgrad",
    ]


def test_old_name_in_a_user_folder_is_accepted(tmp_path: Path) -> None:
    for group, text in (
        ("balance", "# @package weighting\n_target_: etude.tasks.loss_weighting.PCGrad\n"),
        ("debug", ""),
    ):
        (tmp_path / group).mkdir()
        (tmp_path / group / "lr.yaml").write_text(text)
    assert override_errors(["+balance=lr"], folder=tmp_path) == []
    assert override_errors(["debug=lr"], folder=tmp_path) == []


def test_renamed_key_in_a_config_file_is_reported_with_its_new_name() -> None:
    optim = {"_target_": "etude.training.optimiser.Optimiser", "decay": "cosine"}
    errors = config_errors({"optim": optim, "balance": {}})
    assert "optim.decay: was renamed; use optim.schedule" in errors
    assert "balance: was renamed; use weighting" in errors


def test_every_new_name_exists_and_no_old_option() -> None:
    with open_hydra() as composer:
        repository = composer.loader.repository
        config = composer.compose(["transfer=gradual", "sweep=reproduction"])
    for group, options in OPTIONS.items():
        for old, new in options.items():
            exists = repository.group_exists if old.endswith("/") else repository.config_exists
            assert exists(f"{group}/{new}".rstrip("/")), new
            assert not exists(f"{group}/{old}".rstrip("/")), old
    for new in KEYS.values():
        node: Any = OmegaConf.to_container(config, resolve=False)
        for part in new.split("."):
            assert part in node, new
            node = node[part]


def test_names_that_only_resemble_a_renamed_one_are_not_renamed() -> None:
    assert renamed_key("balanced") == renamed_key("data.balanced_sampling") == renamed_key("optim") == ""
    assert renamed_option("experiment", "labs/step7") == renamed_option("head", "lab") == ""
    assert renamed_option("experiment", "lab/step7/cnn") == "reproduction/step7/cnn"


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ("override /callbacks: no_stopping", "callbacks: no_stopping: was renamed; use callbacks: no_early_stopping"),
        ("override /balance: uncertainty", "balance: was renamed; use weighting"),
        ("/balance: uncertainty", "balance: was renamed; use weighting"),
        ("override /callbacks: nothing", "Available options in 'callbacks': best_epoch, default, ema"),
    ],
)
def test_wrong_name_in_a_defaults_list_is_reported(defaults: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\ndefaults:\n  - {defaults}\n")
    (error,) = override_errors(["experiment=mine"], folder=tmp_path)
    assert message in error and "mine" in error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("++logger.wandb={_target_: etude.tracking.wandb}", "was renamed; use etude.loggers.wandb.wandb_logger"),
        (
            "++logger.tensorboard={_target_: etude.loggers.tensorboard.tensorboard_logger}",
            "was renamed; use etude.loggers.base.tensorboard_logger",
        ),
        ("weighting._target_=etude.tasks.balance.Sum", "was renamed; use etude.tasks.loss_weighting.WeightedSum"),
        ("weighting={_target_: etude.tasks.surgery.PCGrad}", "was renamed; use etude.tasks.loss_weighting.PCGrad"),
        ("weighting.weights=3", "weighting.weights: must be a mapping from names to numbers, got 3"),
        ("++weighting.weights.genre=abc", "weighting.weights: must be a mapping from names to numbers"),
    ],
)
def test_target_and_weights_are_checked(override: str, message: str, config: Callable[..., dict[str, Any]]) -> None:
    (error,) = config_errors(config(override))
    assert message in error


def test_new_key_of_an_empty_mapping_needs_a_plus() -> None:
    (error,) = override_errors(["weighting.weights.genre=2"])
    assert error == "weighting.weights.genre: is not in the config; add it with a plus: +weighting.weights.genre=2"
    assert override_errors(["+weighting.weights.genre=2"]) == []


def test_every_new_target_exists() -> None:
    for names in TARGETS.values():
        for target in names.values():
            assert signature(target), target


def test_name_without_its_group_is_answered_with_the_key() -> None:
    keys = {name: key for key, names in OTHER_NAMES.items() for name in names.split()}
    keys |= {"crop": "data.crop", "num_workers": "data.workers", "sample_rate": "feature.front.rate", "lr": "optim.lr"}
    group = keys.pop("target")  # it is also a config group, whose error hides those of the keys
    assert f"did you mean {group}?" in override_errors(["target=genre"])[0]
    messages = override_errors([f"{name}=1" for name in keys])
    assert {message.split(":")[0].partition("=")[0] for message in messages} == set(keys)
    for message in messages:
        key = keys[message.split(":")[0].partition("=")[0]]
        assert message.partition("; did you mean ")[2].partition("?")[0] == key


def test_path_without_an_option_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("music").mkdir()
    Path("clips.csv").touch()
    absolute = str(tmp_path / "music")
    for path, option in (("music", "folder data.source.path"), (absolute, "folder data.source.path"),
                         ("clips.csv", "table data.source.table")):  # fmt: skip
        message = f"{path}: is not of the form name=value; to select it as the data, use data={option}={path}"
        assert override_errors([path]) == [message]
