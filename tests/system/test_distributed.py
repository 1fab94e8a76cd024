"""Names of run folders, and environment variables of distributed runs."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from etude.errors import UserError
from etude.experiment import start
from etude.system.distributed import (
    data_name,
    dated_folders,
    experiment_name,
    folder_name,
    is_rank_zero,
    process_count,
    refuse_process_count,
    refuse_several_processes,
    refuse_stray_ranks,
)

VARIABLES = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"),
    *("SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_ID", "SLURM_JOB_NAME", "SLURM_NTASKS_PER_NODE"),
)


def set_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Set the given variables of a launcher, as `NAME=value NAME=value`, and delete all others."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for pair in text.split():
        monkeypatch.setenv(*pair.split("="))


def test_name_of_an_experiment_omits_its_inner_folders() -> None:
    names = {"reproduction/step7/ast": "reproduction_ast", "small": "small", None: "genre_cnn", "": "genre_cnn"}
    assert {name: experiment_name(name, "genre_cnn") for name in names} == names


@pytest.mark.parametrize("name", ["genre_ast", "Ünï 2", "fold=0,lr=1e-3", "लय", "a.b", "e\u0301"])
def test_valid_names_are_unchanged(name: str) -> None:
    assert folder_name(name) == name


@pytest.mark.parametrize(
    "name", ["lab/run1", "../x", "/abs", "..", "", " ", "a\\b", "a\nb", "a?b", "x" * 300, "é" * 200, "\udce9"]
)
def test_other_names_become_one_path_component(name: str) -> None:
    result = folder_name(name)
    assert "/" not in result and "\\" not in result and result.strip(". ")
    assert len(result.encode()) < 200
    assert Path("outputs", result).resolve().parent == Path("outputs").resolve()


def test_different_names_have_different_folder_names() -> None:
    names = ["lab/run1", "lab-run1", "lab\\run1", "lab?run1", "x" * 300, "x" * 301, "run", " run", "run "]
    assert len({folder_name(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("choice", "source", "name"),
    [
        ("demo", {}, "demo"),
        ("gtzan", {"path": "music/genres"}, "gtzan"),
        ("folder", {"path": "music/My Rock/"}, "My Rock"),
        ("folder", {"path": "???"}, "folder"),
        ("table", {"table": "lists/clips.v2.csv", "name": None}, "clips.v2"),
        ("table", {"table": "lists/clips.csv", "name": "ratings"}, "ratings"),
        ("pack", {"path": "outputs/packs/demo-1"}, "demo-1"),
    ],
)
def test_run_folder_has_the_name_of_the_data(choice: str, source: dict[str, str | None], name: str) -> None:
    assert data_name(choice, OmegaConf.create({"source": source})) == name


def test_folders_for_names_with_slashes_are_in_outputs(tmp_path: Path) -> None:
    for name in ("lab/run1", "../../x", str(tmp_path / "y")):
        assert all(path.parent == tmp_path for path in islice(dated_folders(str(tmp_path), name), 3))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("RANK=1 WORLD_SIZE=2", "RANK=1 WORLD_SIZE=2: .* unset RANK WORLD_SIZE"),
        ("RANK=1 MASTER_ADDR=a MASTER_PORT=1", "RANK=1: "),
        ("LOCAL_RANK=1", "unset LOCAL_RANK"),
        ("SLURM_PROCID=3", "unset SLURM_PROCID"),
        ("SLURM_NTASKS=4 SLURM_PROCID=0", "SLURM_NTASKS=4: .* srun"),
        ("SLURM_NTASKS=4 SLURM_PROCID=0 SLURM_JOB_NAME=train", "SLURM_NTASKS=4: .* srun"),
    ],
)
def test_ranks_without_launcher_are_refused(environment: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, environment)
    assert is_rank_zero()
    with pytest.raises(UserError, match=message):
        refuse_stray_ranks()
    with pytest.raises(UserError, match=message):
        start.prepare([])


@pytest.mark.parametrize(
    "environment",
    [
        "",
        "RANK=0 WORLD_SIZE=1",
        "SLURM_NTASKS=1 SLURM_PROCID=0",
        "SLURM_NTASKS=4 SLURM_PROCID=0 SLURM_JOB_NAME=interactive",
        "SLURM_NTASKS=4 SLURM_PROCID=3 SLURM_STEP_ID=0",
        "TORCHELASTIC_RUN_ID=none RANK=1 LOCAL_RANK=1 WORLD_SIZE=2",
        "MASTER_ADDR=localhost MASTER_PORT=4 LOCAL_RANK=1 WORLD_SIZE=2",
    ],
)
def test_single_processes_and_those_of_a_launcher_are_accepted(
    environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, environment)
    refuse_stray_ranks()


TORCHRUN = "TORCHELASTIC_RUN_ID=none RANK=0 LOCAL_RANK=0 WORLD_SIZE=2"
SRUN = "SLURM_NTASKS=4 SLURM_PROCID=0 SLURM_STEP_ID=0"


@pytest.mark.parametrize(
    ("environment", "trainer", "message"),
    [
        (TORCHRUN, {}, "torchrun has started 2 processes"),
        (SRUN, {"devices": 1}, "srun has started 4 processes"),
        (SRUN, {"devices": 2, "num_nodes": 2}, "ntasks-per-node"),
        ("MASTER_ADDR=a MASTER_PORT=1 WORLD_SIZE=2 RANK=1", {}, "has started 2"),
        ("LOCAL_RANK=0", {"devices": 2}, "unset LOCAL_RANK"),
    ],
)
def test_trainer_with_another_process_count_is_refused(
    environment: str, trainer: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, environment)
    with pytest.raises(UserError, match=message):
        refuse_process_count(trainer)


@pytest.mark.parametrize(
    ("environment", "trainer"),
    [
        (TORCHRUN, {"devices": 2}),
        (TORCHRUN, {"devices": -1}),
        (f"{SRUN} SLURM_NTASKS_PER_NODE=2", {"devices": 2, "num_nodes": 2}),
        ("LOCAL_RANK=0", {"devices": 1}),
        ("MASTER_ADDR=a MASTER_PORT=1", {"devices": 2}),
    ],
)
def test_trainer_with_the_started_process_count_is_accepted(
    environment: str, trainer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, environment)
    refuse_process_count(trainer)


def test_only_rank_zero_has_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, TORCHRUN.replace("RANK=0", "RANK=1"))
    with pytest.raises(UserError, match=r"^$"):
        refuse_process_count({})


@pytest.mark.parametrize(
    ("trainer", "count"),
    [
        ({}, 1),
        ({"devices": "2"}, 2),
        ({"devices": [0, 1]}, 2),
        ({"devices": "0,1,"}, 2),
        ({"devices": "auto"}, None),
        ({"devices": "auto", "accelerator": "cpu"}, 1),
        ({"devices": 4, "num_nodes": 2}, 8),
        ({"devices": -1}, None),
    ],
)
def test_process_count_of_a_trainer(trainer: dict[str, Any], count: int | None) -> None:
    assert process_count(trainer) == count


def test_changing_the_working_directory_of_a_job_is_refused() -> None:
    with pytest.raises(UserError, match=r"hydra\.job\.chdir=true: is not supported"):
        start.prepare(["hydra.job.chdir=true"])
    start.prepare(["hydra.job.chdir=false"])


@pytest.mark.parametrize("outputs", [None, ["a", "b"], {"a": 1}])
def test_outputs_that_are_no_text_are_refused(outputs: Any) -> None:
    with pytest.raises(UserError, match=r"^outputs=.*: must be the name of a folder$"):
        next(dated_folders(outputs, "name"))


def test_outputs_may_look_like_a_number() -> None:
    assert next(dated_folders(2024, "name")).parent == Path("2024")  # type: ignore[arg-type]  # as Hydra parses it


@pytest.mark.parametrize("trainer", [{}, {"devices": 1}, {"devices": [3], "strategy": "auto"}])
def test_trainer_with_one_process_is_accepted_in_a_sweep(trainer: dict[str, Any]) -> None:
    refuse_several_processes(trainer)


@pytest.mark.parametrize("trainer", [{"devices": 2}, {"devices": -1, "strategy": "ddp"}, {"strategy": "fsdp"}])
def test_trainer_with_several_processes_needs_slurm_in_a_sweep(
    trainer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "2")  # also set in the shell of an allocation, where no task is started
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    with pytest.raises(UserError, match=r"trainer: .* one process"):
        refuse_several_processes(trainer)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    refuse_several_processes(trainer)
