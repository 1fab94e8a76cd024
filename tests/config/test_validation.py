"""Every file in conf/ is without fault, and every fault is found, together with the others, in words that help."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from functools import reduce
from typing import Any

import pytest
import yaml

from etude.config.compose import conf_dir
from etude.config.validation import problems

Config = dict[str, Any]
Compose = Callable[..., Config]
OPTIONS = [
    f"{path.parent.name}={path.stem}"
    for path in sorted(conf_dir().glob("*/*.yaml"))
    if path.parent.name not in ("hydra", "target")
]
EXPERIMENTS = conf_dir() / "experiment"
OPTIONS += [
    f"experiment={path.relative_to(EXPERIMENTS).with_suffix('').as_posix()}"
    for path in sorted(EXPERIMENTS.glob("*/**/*.yaml"))
]
TARGETS = sorted(path.stem for path in (conf_dir() / "target").glob("*.yaml"))


def given(node: Any) -> Any:
    """The config with a value wherever one has to be given."""
    if isinstance(node, dict):
        return {key: given(value) for key, value in node.items()}
    return "somewhere" if node == "???" else node


@pytest.mark.parametrize("option", ["seed=0", *OPTIONS])
def test_every_option_is_without_fault(config: Compose, option: str) -> None:
    known = (
        ["sweep={reproduction_ast: a, improved_ast: b}"] if option.startswith("sweep=reproduction_") else []
    )  # a run's Hydra knows them
    assert problems(given(config(option, *known))) == []


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_without_fault(config: Compose, target: str) -> None:
    composed = config(f"target@task.targets={target}")
    assert list(composed["task"]["targets"]) == [target]
    assert problems(composed) == []


@pytest.mark.parametrize("empty", ["augment=none", "transfer=none", "callbacks.early_stopping=null", "logger.csv=null"])
def test_what_may_be_left_out_may_be_left_out(config: Compose, empty: str) -> None:
    assert problems(config(empty)) == []


@pytest.fixture(scope="module")
def sound(config: Compose) -> Config:
    """The default config, composed once."""
    return config()


def altered(sound: Config, *overrides: str) -> Config:
    """The config with other values, as `key.key=value`; `~key.key` takes one away."""
    altered = deepcopy(sound)
    for override in overrides:
        path, _, value = override.removeprefix("~").partition("=")
        *folders, key = path.split(".")
        node = reduce(dict.__getitem__, folders, altered)
        if override.startswith("~"):
            del node[key]
        else:
            node[key] = yaml.safe_load(value)
    return altered


def fault(config: Config) -> str:
    """The one thing that is wrong."""
    (said,) = problems(config)
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.max_epoch=3", "trainer.max_epoch: no such setting; did you mean max_epochs?"),
        ("optim.learning_rate=1", "optim.learning_rate: no such setting; there are kind, lr, weight_decay, "),
        ("data.split.fraction=1", "data.split.fraction: no such setting; did you mean fractions?"),
        ("feature.front.hop=256", "feature.front.hop: no such setting; "),
        ("task.target=genre", "task.target: no such setting; did you mean targets?"),
        ("task.targets.genre.smooth=0.1", "task.targets.genre.smooth: no such setting; did you mean smoothing?"),
        ("callbacks.last.patient=3", "callbacks.last.patient: no such setting; there are"),
        ("logger.csv.project=x", "logger.csv.project: no such setting; "),
        ("backbones=lstm", "backbones: no such setting; did you mean backbone?"),
    ],
)
def test_a_typing_error_is_found(sound: Config, override: str, said: str) -> None:
    assert fault(altered(sound, override)).startswith(said)


@pytest.mark.parametrize(
    ("override", "said"),
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
        ("task.mode=best", "task.mode: must be min or max, got 'best'"),
    ],
)
def test_a_value_of_the_wrong_type_is_found(sound: Config, override: str, said: str) -> None:
    assert fault(altered(sound, override)) == said


@pytest.mark.parametrize(
    ("overrides", "said"),
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
        (["trainer.enable_checkpointing=false"], ".* needs callbacks.checkpoint=null callbacks.last=null as well"),
        (["trainer.limit_val_batches=0", "callbacks.checkpoint.monitor=val/score"], ".*=0: callbacks.checkpoint needs"),
        (["trainer.check_val_every_n_epoch=50", "callbacks.checkpoint.monitor=val/loss"], ".*=50: is more than "),
        (
            ["callbacks.swa={_target_: pytorch_lightning.callbacks.StochasticWeightAveraging, swa_lrs: 0.1}"],
            "callbacks.swa: .*choose callbacks=ema",
        ),
    ],
)
def test_settings_that_do_not_fit_a_run_are_found(sound: Config, overrides: list[str], said: str) -> None:
    assert re.match(said, fault(altered(sound, *overrides)))


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
def test_settings_that_fit_a_run_are_accepted(sound: Config, overrides: list[str]) -> None:
    assert problems(altered(sound, *overrides)) == []


@pytest.mark.parametrize("override", ["data.crop=null", "data.crop=5", "optim.lr=1", "data.overfit=4"])
def test_a_whole_number_is_a_number_and_none_is_allowed_where_it_is(sound: Config, override: str) -> None:
    assert problems(altered(sound, override)) == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("backbone._target_=etude.backbones.lstm.GRU", "backbone._target_: etude.backbones.lstm has no GRU"),
        ("head._target_=etude.heads.Linear", "head._target_: there is no module etude.heads"),
        ("data.source._target_=no_such.thing", "data.source._target_: there is no module no_such"),
        ("~optim._target_", "optim: needs a _target_, the class or function that it configures"),
        ("callbacks.progress._target_=null", "callbacks.progress: needs a _target_, "),
    ],
)
def test_a_target_that_is_none_is_found(sound: Config, override: str, said: str) -> None:
    assert fault(altered(sound, override)).startswith(said)


@pytest.mark.parametrize("key", ["data", "feature", "backbone", "head", "weighting", "optim", "trainer"])
def test_a_group_that_is_missing_is_named(sound: Config, key: str) -> None:
    assert fault(altered(sound, f"~{key}")) == f"{key}: is missing"
    assert fault(sound | {key: {}}) == f"{key}: is missing"


@pytest.mark.parametrize("key", ["backbone", "augment"])
@pytest.mark.parametrize("value", ["ast", ["ast"]])
def test_a_word_where_a_group_belongs_is_found(sound: Config, key: str, value: Any) -> None:
    """As in an experiment file that says `backbone: ast` where it means `override /backbone: ast`."""
    assert fault(sound | {key: value}).startswith(f"{key}: needs a _target_")


@pytest.mark.parametrize("targets", [["genre", "valence"], "genre"])
def test_names_where_targets_belong_are_found(sound: Config, targets: Any) -> None:
    """As in `task.targets=[genre,valence]`."""
    assert fault(sound | {"task": sound["task"] | {"targets": targets}}).startswith("task.targets: ")


def test_a_task_needs_a_target(sound: Config) -> None:
    assert fault(altered(sound, "~task.targets.genre")) == "task.targets: a task needs at least one target"


def test_all_faults_are_said_at_once(sound: Config) -> None:
    said = problems(altered(sound, "seed=-1", "trainer.max_epoch=3", "data.batch_size=many", "backbone.colour=red"))
    assert [sentence.split(":")[0] for sentence in sorted(said)] == [
        "backbone.colour", "data.batch_size", "seed", "trainer.max_epoch",
    ]  # fmt: skip


def test_faults_inside_a_list_are_found(sound: Config) -> None:
    """`build` makes what stands in lists, so they are checked as well."""
    trainer = sound["trainer"] | {"plugins": [{"_target_": "etude.training.optimiser.Optimiser", "learning": 1}]}
    said = fault(sound | {"trainer": trainer})
    assert said.startswith("trainer.plugins")
    assert "learning: no such setting" in said
