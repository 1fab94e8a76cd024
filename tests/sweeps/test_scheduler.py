"""Tests of the assignment of GPUs and of the order in which jobs start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from etude.errors import UserError
from etude.sweeps import scheduler
from etude.sweeps.jobs import DONE, FAILED, Job, JobTable
from etude.sweeps.scheduler import GpuPool, Sweep, visible_gpus


def test_parallel_jobs_have_different_gpus() -> None:
    pool = GpuPool(["0", "1", "2", "3"])
    first, second, third = pool.acquire(0, 2), pool.acquire(1, 1), pool.acquire(2, 2)
    assert (first, second, third) == (["0", "1"], ["2"], None)
    assert pool.acquire(3, 1) == ["3"]  # a smaller job starts earlier
    pool.release(0)
    assert pool.acquire(2, 2) == ["0", "1"]


@pytest.mark.parametrize(
    ("trainer", "count"),
    [
        ({"accelerator": "gpu", "devices": 2}, 2),
        ({"accelerator": "auto", "devices": 1}, 1),
        ({"accelerator": "cuda", "devices": -1}, 4),
        ({"accelerator": "gpu", "devices": "auto"}, 4),
        ({"accelerator": "cpu", "devices": 2}, 0),
    ],
)
def test_number_of_gpus_follows_from_the_trainer(trainer: dict[str, object], count: int) -> None:
    assert GpuPool(["0", "1", "2", "3"]).required(trainer) == count
    assert GpuPool([]).required(trainer) == 0  # Lightning then reports the missing GPU


@pytest.mark.parametrize(
    ("devices", "message"), [(3, "only 2 GPUs are available"), ([0, 1], "the number of GPUs per job, not GPU indices")]
)
def test_impossible_number_of_gpus_is_refused(devices: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GpuPool(["0", "1"]).required({"accelerator": "gpu", "devices": devices})


@pytest.mark.parametrize(
    ("variable", "names"), [("", []), ("-1", []), ("2,3", ["2", "3"]), ("GPU-5a, GPU-7b", ["GPU-5a", "GPU-7b"])]
)
def test_hidden_gpus_are_not_used(variable: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus() == names


def test_gpus_are_listed_by_the_driver(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho '  MIG 1g'\necho 'GPU 1: A (UUID: GPU-2)'\n")
    driver.chmod(0o755)
    assert visible_gpus() == ["0", "1"]


class StubProcesses:
    """Stub of JobProcesses in which jobs end one by one in the order of their start."""

    def __init__(self, fork: bool, environment: dict[str, str]) -> None:
        self.running: list[int] = []
        self.events: list[str] = []
        self.gpus: dict[int, str | None] = {}
        self.codes: dict[int, int] = {}
        self.output = ""

    def start(self, job: int, arguments: list[str], log: Path | None, more: dict[str, str]) -> None:
        self.running.append(job)
        self.events.append(f"+{job}")
        self.gpus[job] = more.get("CUDA_VISIBLE_DEVICES")

    def wait(self) -> tuple[int, int, float]:
        job = self.running.pop(0)
        self.events.append(f"-{job}")
        return job, self.codes.get(job, 0), 1.0

    def close(self) -> None:
        assert not self.running


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Function that runs jobs with these trainers, source jobs, exit statuses and error messages."""

    def run_jobs(
        trainers: list[dict[str, Any]],
        sources: dict[int, int] | None = None,
        codes: dict[int, int] | None = None,
        n_gpus: int = 0,
        n_parallel: int | None = None,
        errors: dict[int, str] | None = None,
        encoders: Sequence[str] = (),
    ) -> tuple[list[Job], StubProcesses]:
        monkeypatch.setattr(scheduler, "JobProcesses", StubProcesses)
        jobs = []
        for number, trainer in enumerate(trainers):
            config: dict[str, Any] = {"trainer": trainer, "task": {"targets": {"genre": {}}}}
            if number in (sources or {}):
                group, key = [("transfer", "init_from"), ("data", "leave_out")][number % 2]
                config[group] = {key: str(tmp_path / f"{(sources or {})[number]}_x")}
            if encoders:
                config |= {"backbone": {"weights": encoders[number]}, "transfer": {"train": "probe"}}
            jobs.append(Job(number, [f"seed={number}"], tmp_path / f"{number}_x", config))
        sweep = Sweep(JobTable(tmp_path), n_parallel, GpuPool([str(name) for name in range(n_gpus)]), True)
        processes = sweep.prepare_processes()
        assert isinstance(processes, StubProcesses)
        processes.codes = codes or {}
        for number, error in (errors or {}).items():
            jobs[number].error = error
        sweep.run(jobs)
        processes.output = capsys.readouterr().err
        return jobs, processes

    return run_jobs


CPU, ONE, TWO = {"accelerator": "cpu"}, {"accelerator": "gpu", "devices": 1}, {"accelerator": "gpu", "devices": 2}


def test_job_waits_for_the_run_of_its_initial_weights(run: Any) -> None:
    jobs, processes = run([CPU] * 3, {0: 2}, n_parallel=3)
    assert processes.events == ["+1", "+2", "-1", "-2", "+0", "-0"]
    assert [job.status for job in jobs] == [DONE] * 3


def test_job_whose_source_run_failed_fails_and_others_run(run: Any) -> None:
    jobs, processes = run([CPU] * 4, {0: 1, 1: 2}, {2: 1})
    assert processes.events == ["+2", "-2", "+3", "-3"]
    assert [job.status for job in jobs] == [FAILED, FAILED, FAILED, DONE]
    assert jobs[0].failure_reason == "it starts from the weights of 1_x, which did not finish"


def test_job_whose_embeddings_are_being_computed_starts_after_other_jobs(run: Any) -> None:
    _, processes = run([CPU] * 5, n_parallel=2, encoders=["a", "a", "b", "c", "a"])
    assert processes.events == ["+0", "+2", "-0", "+1", "-2", "+3", "-1", "+4", "-3", "-4"]


def test_invalid_job_is_reported_before_any_training(run: Any) -> None:
    jobs, processes = run([CPU] * 2, errors={1: "the config has an error:\n  seed: must be a number"})
    assert processes.output.index("1_x FAILED") < processes.output.index("job 0_x")
    assert jobs[1].failure_reason == "the config has an error: seed: must be a number"
    assert [job.status for job in jobs] == [DONE, FAILED]


def test_jobs_that_wait_for_each_other_fail(run: Any) -> None:
    jobs, _ = run([CPU] * 2, {0: 1, 1: 0})
    assert [job.status for job in jobs] == [FAILED, FAILED]


def test_all_gpus_are_used_and_none_is_shared(run: Any) -> None:
    jobs, processes = run([TWO, TWO, ONE, {"accelerator": "gpu", "devices": 4}, ONE], n_gpus=3)
    # the second job waits for two of three GPUs, the third gets the remaining one; four do not exist
    assert processes.events == ["+0", "+2", "-0", "+1", "-2", "+4", "-1", "-4"]
    assert processes.gpus == {0: "0,1", 2: "2", 1: "0,1", 4: "2"}
    assert jobs[3].status == FAILED and "only 3 GPUs are available" in jobs[3].failure_reason


@pytest.mark.parametrize(("n_parallel", "events"), [(None, ["+0", "-0", "+1", "-1"]), (2, ["+0", "+1", "-0", "-1"])])
def test_one_job_at_a_time_runs_on_a_cpu_by_default(n_parallel: int | None, events: list[str], run: Any) -> None:
    for n_gpus in (0, 4):
        _, processes = run([CPU] * 2, n_parallel=n_parallel, n_gpus=n_gpus)
        assert processes.events == events
        assert not any(processes.gpus.values())
