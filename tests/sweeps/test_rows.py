"""Tests of sweeps over rows of overrides: their jobs, and the error messages of invalid rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from etude.config.compose import open_hydra
from etude.config.override_errors import override_errors
from etude.errors import UserError
from etude.sweeps.jobs import check_rows, combine_rows, rows_key
from hydra_plugins.etude_rows import RowSweeper

ROWS = {"small": "backbone=cnn optim.lr=1e-3", "large": "backbone=ast readout=last", "none": None}


def jobs(*arguments: str, rows: Any = ROWS, params: dict[str, Any] | None = None) -> list[list[str]]:
    """Return the overrides of all jobs."""
    return [job.overrides for job in combine_rows(rows, params or {}, arguments, "choices.encoder")]


def test_jobs_are_all_combinations_of_rows_and_values_with_rows_fastest() -> None:
    assert jobs("task=genre", params={"seed": "0,1"}) == [
        [f"seed={seed}", "task=genre", *row, f"choices.encoder={name}"]
        for seed in (0, 1)
        for name, row in (("small", ["backbone=cnn", "optim.lr=1e-3"]), ("large", ["backbone=ast", "readout=last"]))
    ]


def test_command_line_replaces_values_and_keeps_their_order() -> None:
    found = jobs("seed=5,6", params={"seed": "0,1", "data.split.fold": "0,1"}, rows={"a": "backbone=cnn"})
    assert [job[:2] for job in found] == [[f"seed={s}", f"data.split.fold={f}"] for s in (5, 6) for f in (0, 1)]


def test_row_replaces_the_values_of_its_keys_and_of_their_groups() -> None:
    rows = {"a": "backbone=cnn", "b": "backbone=ast readout=all", "c": "backbone=ast readout.layers=[1]"}
    found = jobs(params={"readout": "default,last"}, rows=rows)
    assert [job[0] for job in found if job[-1].endswith("=a")] == ["readout=default", "readout=last"]
    assert [job for job in found if not job[-1].endswith("=a")] == [
        ["backbone=ast", "readout=all", "choices.encoder=b"],
        ["backbone=ast", "readout.layers=[1]", "choices.encoder=c"],
    ]


def test_quoted_values_and_names_reach_the_config_unchanged() -> None:
    rows = {"my encoder (1)": "backbone=ast \"backbone.weights='/music, new/a (1).pt'\""}
    with open_hydra() as composer:
        config = composer.compose([*jobs(rows=rows)[0][:-1]])
    assert config.backbone.weights == "/music, new/a (1).pt"
    assert jobs(rows=rows)[0][-1] == "choices.encoder='my encoder (1)'"


def test_deleted_key_of_the_command_line_is_kept() -> None:
    assert jobs("~sweep.encoders.x", rows={"a": "backbone=cnn"})[0][0] == "~sweep.encoders.x"


def test_jobs_do_not_depend_on_other_rows() -> None:
    arguments = ["+sweep.encoders.b='x=2'", "~sweep.encoders.c", "seed=1"]
    (job,) = combine_rows({"a": "x=1"}, {}, arguments, source="sweep.encoders")
    assert job.overrides == ["seed=1", "x=1"]


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        ([1], (), r"hydra\.sweeper\.rows: must be a mapping of rows by name, .*; got \[1\]"),
        ({"a": None}, (), r"hydra\.sweeper\.rows: contains no row; add one, such as"),
        ({"a": 3}, (), r"hydra\.sweeper\.rows\.a: must be a text of overrides, .*; got 3"),
        ({"a": "cnn"}, (), r"rows\.a: 'cnn' is not a text of overrides"),
        ({"a": "backbone='cnn"}, (), r"""rows\.a: "backbone='cnn" is not a text of overrides"""),
        ({"a": "backbone=cnn,ast"}, (), r"rows\.a: backbone=cnn,ast has several values; write a row for each"),
        ({"a": "hydra.launcher.jobs=2"}, (), r"rows\.a: hydra\.launcher\.jobs=2 cannot differ between jobs"),
        ({"a": "sweep=folds"}, (), r"rows\.a: sweep=folds cannot differ between jobs"),
        ({"a": "x=1 y=2", "b": "y=2 x=1"}, (), r"hydra\.sweeper\.rows: a and b have the same overrides"),
        ({"a": "x=1"}, ("x=2,3",), r"x=2: the row a of this sweep sets x too; .*hydra\.sweeper\.rows\.a=null"),
        ({"a": "x=1"}, ("seed=1,2,1",), r"seed=1: is in the sweep more than once"),
        ({"a": "x=1"}, ("optim.lr=interval(0,1)",), r"optim\.lr=interval\(0,1\): an interval needs a search"),
    ],
)
def test_invalid_rows_have_an_error_message(rows: Any, arguments: Sequence[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        jobs(*arguments, rows=rows)
    assert "\n" not in str(error.value)


def test_error_messages_name_the_key_to_which_the_sweeper_refers() -> None:
    config = OmegaConf.create({"sweep": {"encoders": {"a": "x"}}, "own": {"rows": {"a": "x"}}})
    config.reference = {"rows": "${sweep.encoders}"}
    assert rows_key(config.reference) == "sweep.encoders"
    assert rows_key(config.own) == "hydra.sweeper.rows"


@pytest.fixture
def sweep_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Function that returns the jobs of `sweep=encoders` with further overrides."""

    def launched(*arguments: str) -> list[list[str]]:
        launches: list[list[list[str]]] = []

        class StubLauncher:
            def launch(self, overrides: list[list[str]], initial_job_idx: int) -> list[Any]:
                launches.append(overrides)
                return []

        overrides = ["sweep=encoders", *arguments]
        assert override_errors(overrides, sweep=True) == []
        with open_hydra() as composer:
            fixed = [text for text in overrides if "," not in text]
            config = composer.compose([*fixed, f"hydra.sweep.dir={tmp_path}"])
            monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_, **__: StubLauncher())
            values = {key: value for key, value in config.hydra.sweeper.items() if key != "_target_"}
            sweeper = RowSweeper(**values)
            context: Any = type("Context", (), {"config_loader": composer.loader})
            sweeper.setup(hydra_context=context, task_function=lambda config: None, config=config)
            sweeper.sweep(overrides)
        return launches[0]

    return launched


def test_sweep_over_encoders_has_all_encoders_readouts_and_folds(
    sweep_encoders: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    mine = "+sweep.encoders.mine='backbone=ast backbone.weights=untrained'"
    found = sweep_encoders("data.split.fold=1,2", mine, "~sweep.encoders.musicnn_mtt")
    names = ["efficientat_mn04", "musicnn_msd", "mine"]
    readouts = ["default", "all", "all_mean_std", "all_mean_max"]
    assert [(job[0], job[1], job[-1]) for job in found] == [
        (f"data.split.fold={fold}", f"readout={readout}", f"choices.encoder={name}")
        for fold in (1, 2)
        for readout in readouts
        for name in names
    ]
    with open_hydra() as composer:
        config = composer.compose([text for text in found[-1] if "hydra." not in text])
    assert config.backbone.weights == "untrained" and config.readout.pooling == "mean_max"
    assert config.optim._target_.endswith(".LinearProbe") and config.transfer.train == "probe"
    assert (tmp_path / "multirun.yaml").is_file()


def test_row_that_cannot_be_composed_has_the_message_of_its_overrides(
    sweep_encoders: Callable[..., list[list[str]]],
) -> None:
    with pytest.raises(CompactHydraException, match=r"^sweep\.encoders\.mine: backbone=musicn: no such option; did"):
        sweep_encoders("+sweep.encoders.mine='backbone=musicn'")


def test_rows_are_composed_once_each() -> None:
    composed: list[list[str]] = []

    class Loader:
        def load_sweep_config(self, config: Any, overrides: list[str]) -> None:
            composed.append(overrides)

    found = combine_rows({"a": "x=1", "b": "x=2"}, {"seed": "0,1"}, [])
    check_rows(found, OmegaConf.create({"hydra": {"runtime": {"config_sources": []}}}), Loader())
    assert sorted(composed) == [["seed=0", "x=1"], ["seed=0", "x=2"]]
