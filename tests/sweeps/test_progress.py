"""What is said of a sweep on its way is true."""

from __future__ import annotations

from pathlib import Path

from etude.sweeps.jobs import DONE, FAILED, RUNNING, WAITING, Job, JobTable
from etude.sweeps.progress import ProgressBoard


def board(folder: Path, many: int, *jobs: Job, total: int = 0) -> ProgressBoard:
    ledger = JobTable(folder)
    for job in jobs:
        ledger.put(job)
    made = ProgressBoard(ledger, many, total)
    made.open(jobs)
    return made


def job(number: int, status: str, target: str = "genre", mode: str = "max", **known: float) -> Job:
    config = {"task": {"targets": {target: {}}, "mode": mode}}
    return Job(number, [], Path(f"{number}_x"), config, status=status, **known)  # type: ignore[arg-type]


def test_the_time_that_is_left_is_that_of_those_before(tmp_path: Path) -> None:
    jobs = [job(0, DONE, seconds=10), job(1, FAILED, seconds=20), *(job(n, WAITING) for n in range(2, 6))]
    assert board(tmp_path, 1, *jobs).left() == 15 * 4
    assert board(tmp_path, 2, *jobs).left() == 15 * 4 / 2
    assert board(tmp_path, 8, *jobs).left() == 15  # four can share no more than four places
    assert board(tmp_path, 1, *jobs, total=10).left() == 15 * 8  # a search has only begun
    assert board(tmp_path, 1, *jobs[:2]).left() is None
    assert board(tmp_path, 1, *jobs[2:]).left() is None


def test_the_best_is_that_of_each_task_by_its_own_monitor(tmp_path: Path) -> None:
    jobs = [
        job(0, DONE, score=0.5), job(1, DONE, score=0.7), job(2, FAILED, score=0.9), job(3, DONE, score=float("nan")),
        job(4, DONE, "energy", "min", score=0.3), job(5, DONE, "energy", "min", score=0.2),
        job(6, DONE, "energy", "min"),
    ]  # fmt: skip
    assert board(tmp_path, 1, *jobs).best() == "genre 0.70 (1_x), energy 0.20 (5_x)"
    assert board(tmp_path, 1, *jobs).best(("energy",)) == "energy 0.20 (5_x)"


def test_a_line_counts_what_is_done_what_failed_and_what_runs(tmp_path: Path) -> None:
    jobs = [job(0, DONE, seconds=2, score=0.5), job(1, FAILED, seconds=2), job(2, RUNNING), job(3, WAITING)]
    said = board(tmp_path, 2, *jobs).state()
    assert said == "1 of 4 done, 1 failed, 1 running, about 2.0 s left; best genre 0.50 (0_x)"
