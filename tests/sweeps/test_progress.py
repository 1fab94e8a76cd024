"""Tests of the summary of a running sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.sweeps.jobs import DONE, FAILED, RUNNING, WAITING, Job, JobTable
from etude.sweeps.progress import SweepProgress


def make_progress(folder: Path, n_parallel: int, *jobs: Job, n_total: int = 0) -> SweepProgress:
    table = JobTable(folder)
    for job in jobs:
        table.add(job)
    progress = SweepProgress(table, n_parallel, n_total)
    progress.open(jobs)
    return progress


def make_job(number: int, status: str, target: str = "genre", mode: str = "max", **values: float | str) -> Job:
    config = {"task": {"targets": {target: {}}, "mode": mode}}
    return Job(number, [], Path(f"{number}_x"), config, status=status, **values)  # type: ignore[arg-type]


def test_remaining_time_is_estimated_from_ended_jobs(tmp_path: Path) -> None:
    waiting = [make_job(n, WAITING) for n in range(2, 6)]
    jobs = [make_job(0, DONE, seconds=10), make_job(1, FAILED, seconds=20), *waiting]
    assert make_progress(tmp_path, 1, *jobs).remaining_seconds() == 15 * 4
    assert make_progress(tmp_path, 2, *jobs).remaining_seconds() == 15 * 4 / 2
    assert make_progress(tmp_path, 8, *jobs).remaining_seconds() == 15  # four jobs run at most four at a time
    assert make_progress(tmp_path, 1, *jobs, n_total=10).remaining_seconds() == 15 * 8  # more jobs of a search follow
    assert make_progress(tmp_path, 1, *jobs[:2]).remaining_seconds() is None
    assert make_progress(tmp_path, 1, *jobs[2:]).remaining_seconds() is None


def test_best_score_of_each_task_follows_its_mode(tmp_path: Path) -> None:
    jobs = [
        make_job(0, DONE, score=0.5), make_job(1, DONE, score=0.7), make_job(2, FAILED, score=0.9),
        make_job(3, DONE, score=float("nan")), make_job(4, DONE, "energy", "min", score=0.3),
        make_job(5, DONE, "energy", "min", score=0.2), make_job(6, DONE, "energy", "min"),
    ]  # fmt: skip
    assert make_progress(tmp_path, 1, *jobs).best_scores() == "genre 0.70 (1_x), energy 0.20 (5_x)"
    assert make_progress(tmp_path, 1, *jobs).best_scores(("energy",)) == "energy 0.20 (5_x)"


def test_scores_of_different_folds_are_not_compared(tmp_path: Path) -> None:
    jobs = [make_job(0, DONE, score=0.5), make_job(1, DONE, score=0.7)]
    for fold, job in enumerate(jobs):
        job.config["data"] = {"split": {"fold": fold}}
    assert make_progress(tmp_path, 1, *jobs).summary() == "2 of 2 done"
    assert make_progress(tmp_path, 1, jobs[1]).best_scores() == "genre 0.70 (1_x)"


def test_summary_counts_finished_failed_and_running_jobs(tmp_path: Path) -> None:
    jobs = [
        make_job(0, DONE, seconds=2, score=0.5), make_job(1, FAILED, seconds=2), make_job(2, RUNNING),
        make_job(3, WAITING),
    ]  # fmt: skip
    summary = make_progress(tmp_path, 2, *jobs).summary()
    assert summary == "1 of 4 done, 1 failed, 1 running, about 2.0 s left; best validation score: genre 0.50 (0_x)"


def test_failed_jobs_with_one_reason_share_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = [make_job(n, FAILED, error="no fold 4" if n else "no file") for n in range(3)]
    make_progress(tmp_path, 1, *failed).close()
    output = capsys.readouterr()
    assert [line for line in (output.out + output.err).splitlines() if "  failed: " in line] == [
        "  failed: 0_x: no file",
        "  failed: 1_x, 2_x: no fold 4",
    ]
