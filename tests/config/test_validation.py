"""Every file in conf/ is valid, and all errors of a config are reported together with suggestions."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from functools import reduce
from typing import Any

import pytest
import yaml

from etude.config.compose import conf_dir
from etude.config.instantiate import expand_functions
from etude.config.validation import config_errors

Config = dict[str, Any]
Compose = Callable[..., Config]
OPTIONS = [
    f"{path.parent.name}={path.stem}"
    for path in sorted(conf_dir().glob("*/*.yaml"))
    if path.parent.name not in ("hydra", "target") and path.stem != "hf"  # its values are those of a checkpoint
]
EXPERIMENTS = conf_dir() / "experiment"
OPTIONS += [
    f"experiment={path.relative_to(EXPERIMENTS).with_suffix('').as_posix()}"
    for path in sorted(EXPERIMENTS.glob("*/**/*.yaml"))
]
TARGETS = sorted(path.stem for path in (conf_dir() / "target").glob("*.yaml"))


def with_required_values(node: Any) -> Any:
    """Return a config in which every required value is set."""
    if isinstance(node, dict):
        return {key: with_required_values(value) for key, value in node.items()}
    return "somewhere" if node == "???" else node


@pytest.mark.parametrize("option", ["seed=0", *OPTIONS])
def test_every_option_is_valid(config: Compose, option: str) -> None:
    # in a sweep, Hydra sets these values
    of_report = option.startswith(("sweep=reproduction", "sweep=improved"))
    values = ["sweep={reproduction_ast: a, improved_ast: b}"] if of_report else []
    assert config_errors(with_required_values(config(option, *values))) == []


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_valid(config: Compose, target: str) -> None:
    composed = config(f"target@task.targets={target}")
    assert list(composed["task"]["targets"]) == [target]
    assert config_errors(composed) == []


@pytest.mark.parametrize("empty", ["augment=none", "transfer=none", "callbacks.early_stopping=null", "logger.csv=null"])
def test_optional_group_can_be_empty(config: Compose, empty: str) -> None:
    assert config_errors(config(empty)) == []


@pytest.fixture(scope="module")
def valid(config: Compose) -> Config:
    """Return the default config, composed once."""
    return config()


def changed(valid: Config, *overrides: str) -> Config:
    """Return a config with other values, given as `key.key=value`, and without the keys given as `~key.key`."""
    changed = deepcopy(valid)
    for override in overrides:
        path, _, value = override.removeprefix("~").partition("=")
        *folders, key = path.split(".")
        node = reduce(dict.__getitem__, folders, changed)
        if override.startswith("~"):
            del node[key]
        else:
            node[key] = yaml.safe_load(value)
    return changed


def only_error(config: Config) -> str:
    """Return the only error of a config."""
    (message,) = config_errors(config)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epoch=3", "trainer.max_epoch: no such config key; did you mean max_epochs?"),
        ("optim.learning_rate=1", "optim.learning_rate: no such config key; available: kind, lr, weight_decay, "),
        ("data.split.fraction=1", "data.split.fraction: no such config key; did you mean fractions?"),
        ("feature.front.hop=256", "feature.front.hop: no such config key; "),
        ("task.target=genre", "task.target: no such config key; did you mean targets?"),
        ("task.targets.genre.smooth=0.1", "task.targets.genre.smooth: no such config key; did you mean smoothing?"),
        ("callbacks.last.patient=3", "callbacks.last.patient: no such config key; available:"),
        ("logger.csv.project=x", "logger.csv.project: no such config key; "),
        ("backbones=lstm", "backbones: no such config key; did you mean backbone?"),
    ],
)
def test_typing_error_is_reported(valid: Config, override: str, message: str) -> None:
    assert only_error(changed(valid, override)).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batch_size=many", "data.batch_size: must be int, got 'many'"),
        ("data.batch_size=1.5", "data.batch_size: must be int, got 1.5"),
        ("data.batch_size=true", "data.batch_size: must be int, got True"),
        ("data.batch_size=null", "data.batch_size: must be int, got None"),
        ("data.crop=short", "data.crop: must be float or dict or None, got 'short'"),
        ("data.split.allow_shared_groups=1", "data.split.allow_shared_groups: must be bool, got 1"),
        ("feature.front.top_db=true", "feature.front.top_db: must be float, got True"),
        ("feature.view=12", "feature.view: must be str, got 12"),
        ("trainer.max_epochs=0", "trainer.max_epochs: must be at least 1, got 0"),
        ("trainer.max_epochs=-1", "trainer.max_epochs: must be at least 1, got -1"),
        ("trainer.max_epochs=many", "trainer.max_epochs: must be int or None, got 'many'"),
        ("seed=-1", "seed: must be a whole number of at least 0, got -1"),
        ("seed=true", "seed: must be a whole number of at least 0, got True"),
        ("seed=null", "seed: must be a whole number of at least 0, got None"),
        ("seed=0.5", "seed: must be a whole number of at least 0, got 0.5"),
        ("compile=1", "compile: must be bool, got 1"),
        ("shortcut_baseline=yes please", "shortcut_baseline: must be bool, got 'yes please'"),
        (
            "imagenet_weights=foo",
            "imagenet_weights: must be imagenet or untrained, got 'foo'; to start from a file, set backbone.weights",
        ),
        ("task.mode=best", "task.mode: must be min or max, got 'best'"),
    ],
)
def test_value_of_wrong_type_is_reported(valid: Config, override: str, message: str) -> None:
    assert only_error(changed(valid, override)) == message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.lr=-1"], "optim.lr: must be greater than 0, got -1"),
        (["optim.lr=.inf"], "optim.lr: must be a finite number, got inf"),
        (["optim.lr=.nan"], "optim.lr: must be a finite number, got nan"),
        (["optim.weight_decay=-0.1"], "optim.weight_decay: must be at least 0, got -0.1"),
        (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches: must be at least 1, got 0"),
        (["trainer.limit_train_batches=0"], "trainer.limit_train_batches: must be greater than 0, got 0"),
        (["trainer.max_steps=0"], "trainer.max_steps: must be at least 1, or -1 for no limit, got 0"),
        (["trainer.precision=16-true"], "trainer.precision: must be one of 32-true, 16-mixed, bf16-mixed, 64-true, "),
        (["trainer.fast_dev_run=true"], "trainer.fast_dev_run: .*debug=fast"),
        (["trainer.barebones=true"], "trainer.barebones: .*debug=fast"),
        (["trainer.overfit_batches=1"], "trainer.overfit_batches: .*debug=overfit"),
        (["trainer.limit_test_batches=1"], "trainer.limit_test_batches: .*debug=fast"),
        (["trainer.logger=false"], "trainer.logger: .*logger.csv=null"),
        (["trainer.callbacks=null"], "trainer.callbacks: .*group `callbacks`"),
        (["trainer.enable_checkpointing=false"], ".* also needs callbacks.checkpoint=null callbacks.last=null"),
        (["trainer.limit_val_batches=0", "callbacks.checkpoint.monitor=val/score"], ".*=0: callbacks.checkpoint needs"),
        (["trainer.check_val_every_n_epoch=50", "callbacks.checkpoint.monitor=val/loss"], ".*=50: is more than "),
        (
            ["callbacks.swa={_target_: pytorch_lightning.callbacks.StochasticWeightAveraging, swa_lrs: 0.1}"],
            "callbacks.swa: .*use callbacks=ema",
        ),
    ],
)
def test_values_that_do_not_fit_a_run_are_reported(valid: Config, overrides: list[str], message: str) -> None:
    assert re.match(message, only_error(changed(valid, *overrides)))


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.fast_dev_run=false", "trainer.limit_test_batches=1.0", "trainer.overfit_batches=0"],
        ["trainer.limit_val_batches=0"],
        ["trainer.check_val_every_n_epoch=2", "callbacks.checkpoint.monitor=val/score"],
        ["trainer.max_steps=3", "trainer.precision=bf16-mixed", "trainer.limit_train_batches=0.1"],
        ["trainer.enable_checkpointing=false", "callbacks.checkpoint=null", "callbacks.last=null"],
    ],
)
def test_values_that_fit_a_run_are_accepted(valid: Config, overrides: list[str]) -> None:
    assert config_errors(changed(valid, *overrides)) == []


@pytest.mark.parametrize("override", ["data.crop=null", "data.crop=5", "optim.lr=1", "data.overfit=4"])
def test_whole_number_is_accepted_as_number_and_null_where_allowed(valid: Config, override: str) -> None:
    assert config_errors(changed(valid, override)) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone._target_=etude.backbones.lstm.GRU", "backbone._target_: etude.backbones.lstm has no GRU"),
        ("head._target_=etude.heads.Linear", "head._target_: there is no module etude.heads"),
        ("data.source._target_=no_such.thing", "data.source._target_: there is no module no_such"),
        ("~optim._target_", "optim: needs a _target_, the class or function that it configures"),
        ("callbacks.progress._target_=null", "callbacks.progress: needs a _target_, "),
    ],
)
def test_invalid_target_is_reported(valid: Config, override: str, message: str) -> None:
    assert only_error(changed(valid, override)).startswith(message)


@pytest.mark.parametrize("key", ["data", "feature", "backbone", "head", "weighting", "optim", "trainer"])
def test_missing_group_is_reported(valid: Config, key: str) -> None:
    assert only_error(changed(valid, f"~{key}")) == f"{key}: is missing"
    assert only_error(valid | {key: {}}) == f"{key}: is missing"


@pytest.mark.parametrize("key", ["backbone", "augment"])
@pytest.mark.parametrize("value", ["ast", ["ast"]])
def test_text_instead_of_a_node_is_reported(valid: Config, key: str, value: Any) -> None:
    """An experiment file may contain `backbone: ast` instead of `override /backbone: ast`."""
    assert only_error(valid | {key: value}).startswith(f"{key}: needs a _target_")


@pytest.mark.parametrize("targets", [["genre", "valence"], "genre"])
def test_names_instead_of_targets_are_reported(valid: Config, targets: Any) -> None:
    """A command may contain `task.targets=[genre,valence]`."""
    assert only_error(valid | {"task": valid["task"] | {"targets": targets}}).startswith("task.targets: ")


def test_task_without_target_is_reported(valid: Config) -> None:
    assert only_error(changed(valid, "~task.targets.genre")) == "task.targets: a task needs at least one target"


def test_all_errors_are_reported_together(valid: Config) -> None:
    overrides = ["seed=-1", "trainer.max_epoch=3", "data.batch_size=many", "backbone.colour=red"]
    errors = config_errors(changed(valid, *overrides))
    assert [message.split(":")[0] for message in sorted(errors)] == [
        "backbone.colour", "data.batch_size", "seed", "trainer.max_epoch",
    ]  # fmt: skip


def test_errors_inside_a_list_are_reported(valid: Config) -> None:
    """Nodes inside lists are instantiated too, so they are validated."""
    trainer = valid["trainer"] | {"plugins": [{"_target_": "etude.training.optimiser.Optimiser", "learning": 1}]}
    message = only_error(valid | {"trainer": trainer})
    assert message.startswith("trainer.plugins")
    assert "learning: no such config key" in message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["metrics=[sklearn.metrics.kappa]"], "metrics.kappa._target_: sklearn.metrics has no kappa"),
        (["metrics={k: no_such_module.kappa}"], "metrics.k._target_: there is no module no_such_module"),
        (["metrics.k._target_=sklearn.metrics.cohen_kappa_score", "metrics.k.titel=x"], "did you mean title?"),
        (
            ["metrics={k: {_target_: sklearn.metrics.cohen_kappa_score, lower_is_better: 1}}"],
            "k.lower_is_better: must be",
        ),
        (
            ["metrics={k k: sklearn.metrics.cohen_kappa_score}"],
            "metrics: must be functions by names of letters, digits",
        ),
        (["metrics=3"], "metrics: must be functions by names of letters, digits and _, got 3"),
        (["loss=torch.nn.functional.no_such_loss"], "loss._target_: torch.nn.functional has no no_such_loss"),
        (
            ["loss={_target_: torch.nn.functional.l1_loss, reductoin: none}"],
            "loss.reductoin: no such config key; did you",
        ),
    ],
)
def test_functions_of_targets_are_validated(config: Compose, overrides: list[str], message: str) -> None:
    (error,) = config_errors(config(*(f"+task.targets.genre.{override}" for override in overrides)))
    assert error.startswith("task.targets.genre.") and message in error


def test_functions_of_targets_become_nodes(config: Compose) -> None:
    """A name in a list, a name in a mapping and a node are the same metric. A null removes a metric."""
    kappa = "sklearn.metrics.cohen_kappa_score"
    for override in (
        f"metrics=[{kappa}]",
        f"metrics={{cohen_kappa_score: {kappa}, other: null}}",
        f"metrics.cohen_kappa_score._target_={kappa}",
    ):
        composed = config(
            f"+task.targets.genre.{override}", "+task.targets.genre.loss=torch.nn.functional.cross_entropy"
        )
        assert config_errors(composed) == []
        target = expand_functions(composed)["task"]["targets"]["genre"]
        assert target["metrics"] == {"cohen_kappa_score": {"_target_": kappa}}
        assert target["loss"] == {"_target_": "torch.nn.functional.cross_entropy"}
