"""No GPU has two jobs, and each job has as many as it asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from etude.errors import UserError
from etude.sweeps import scheduler
from etude.sweeps.jobs import DONE, FAILED, Job, JobTable
from etude.sweeps.scheduler import Pool, Sweep, visible


def test_jobs_side_by_side_have_gpus_of_their_own() -> None:
    pool = Pool(["0", "1", "2", "3"])
    one, two, three = pool.take(0, 2), pool.take(1, 1), pool.take(2, 2)
    assert (one, two, three) == (["0", "1"], ["2"], None)
    assert pool.take(3, 1) == ["3"]  # a smaller one goes before
    pool.give(0)
    assert pool.take(2, 2) == ["0", "1"]


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
def test_a_trainer_says_how_many(trainer: dict[str, object], count: int) -> None:
    assert Pool(["0", "1", "2", "3"]).wanted(trainer) == count
    assert Pool([]).wanted(trainer) == 0  # Lightning says what it finds


@pytest.mark.parametrize(("devices", "said"), [(3, "there are 2 GPUs"), ([0, 1], "how many a job gets, not which")])
def test_what_cannot_be_shared_out_is_refused(devices: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Pool(["0", "1"]).wanted({"accelerator": "gpu", "devices": devices})


@pytest.mark.parametrize(
    ("said", "names"), [("", []), ("-1", []), ("2,3", ["2", "3"]), ("GPU-5a, GPU-7b", ["GPU-5a", "GPU-7b"])]
)
def test_what_is_hidden_from_this_process_is_not_shared_out(
    said: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    assert visible() == names


def test_gpus_are_those_that_the_driver_lists(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible() == []
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho '  MIG 1g'\necho 'GPU 1: A (UUID: GPU-2)'\n")
    driver.chmod(0o755)
    assert visible() == ["0", "1"]


class Starter:
    """Ends jobs one after the other in the order of their start, without any process."""

    def __init__(self, fork: bool, environment: dict[str, str]) -> None:
        self.running: list[int] = []
        self.log: list[str] = []
        self.gpus: dict[int, str | None] = {}
        self.codes: dict[int, int] = {}
        self.said = ""

    def start(self, job: int, words: list[str], log: Path | None, more: dict[str, str]) -> None:
        self.running.append(job)
        self.log.append(f"+{job}")
        self.gpus[job] = more.get("CUDA_VISIBLE_DEVICES")

    def wait(self) -> tuple[int, int, float]:
        job = self.running.pop(0)
        self.log.append(f"-{job}")
        return job, self.codes.get(job, 0), 1.0

    def close(self) -> None:
        assert not self.running


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run jobs of these trainers, of which some begin from others and some fail."""

    def go(
        trainers: list[dict[str, Any]],
        sources: dict[int, int] | None = None,
        codes: dict[int, int] | None = None,
        gpus: int = 0,
        many: int | None = None,
        reasons: dict[int, str] | None = None,
    ) -> tuple[list[Job], Starter]:
        monkeypatch.setattr(scheduler, "Starter", Starter)
        jobs = []
        for number, trainer in enumerate(trainers):
            config: dict[str, Any] = {"trainer": trainer, "task": {"targets": {"genre": {}}}}
            if number in (sources or {}):
                config["transfer"] = {"init_from": str(tmp_path / f"{(sources or {})[number]}_x")}
            jobs.append(Job(number, [f"seed={number}"], tmp_path / f"{number}_x", config))
        sweep = Sweep(JobTable(tmp_path), many, Pool([str(name) for name in range(gpus)]), True)
        starter = sweep.warm()
        assert isinstance(starter, Starter)
        starter.codes = codes or {}
        for number, reason in (reasons or {}).items():
            jobs[number].reason = reason
        sweep.run(jobs)
        starter.said = capsys.readouterr().err
        return jobs, starter

    return go


CPU, ONE, TWO = {"accelerator": "cpu"}, {"accelerator": "gpu", "devices": 1}, {"accelerator": "gpu", "devices": 2}


def test_a_job_waits_for_the_run_that_it_begins_from(run: Any) -> None:
    jobs, starter = run([CPU] * 3, {0: 2}, many=3)
    assert starter.log == ["+1", "+2", "-1", "-2", "+0", "-0"]
    assert [job.status for job in jobs] == [DONE] * 3


def test_what_begins_from_a_run_that_failed_fails_too_and_all_else_runs(run: Any) -> None:
    jobs, starter = run([CPU] * 4, {0: 1, 1: 2}, {2: 1})
    assert starter.log == ["+2", "-2", "+3", "-3"]
    assert [job.status for job in jobs] == [FAILED, FAILED, FAILED, DONE]
    assert jobs[0].why == "it begins from the weights of 1_x, which has none"


def test_what_cannot_run_is_said_before_anything_is_trained(run: Any) -> None:
    jobs, starter = run([CPU] * 2, reasons={1: "the config has an error:\n  seed: must be a number"})
    assert starter.said.index("1_x FAILED") < starter.said.index("job 0_x")
    assert jobs[1].why == "the config has an error: seed: must be a number"
    assert [job.status for job in jobs] == [DONE, FAILED]


def test_jobs_that_wait_for_each_other_are_not_waited_for(run: Any) -> None:
    jobs, _ = run([CPU] * 2, {0: 1, 1: 0})
    assert [job.status for job in jobs] == [FAILED, FAILED]


def test_gpus_are_full_and_no_job_has_those_of_another(run: Any) -> None:
    jobs, starter = run([TWO, TWO, ONE, {"accelerator": "gpu", "devices": 4}, ONE], gpus=3)
    # the second waits for two of three, the third takes the one that is left; four are nowhere
    assert starter.log == ["+0", "+2", "-0", "+1", "-2", "+4", "-1", "-4"]
    assert starter.gpus == {0: "0,1", 2: "2", 1: "0,1", 4: "2"}
    assert jobs[3].status == FAILED and "there are 3 GPUs here" in jobs[3].why


@pytest.mark.parametrize(("many", "log"), [(None, ["+0", "-0", "+1", "-1"]), (2, ["+0", "+1", "-0", "-1"])])
def test_on_a_cpu_there_is_one_job_at_a_time_unless_more_are_asked_for(
    many: int | None, log: list[str], run: Any
) -> None:
    for gpus in (0, 4):
        _, starter = run([CPU] * 2, many=many, gpus=gpus)
        assert starter.log == log
        assert not any(starter.gpus.values())
