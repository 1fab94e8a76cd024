"""Tests of the jobs of a sweep and of jobs.csv."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from etude.errors import UserError
from etude.sweeps.jobs import COLUMNS, DONE, FAILED, RUNNING, STOPPED, Job, JobTable


@pytest.fixture
def table(tmp_path: Path) -> JobTable:
    """A saved table with a finished, a failed and a running job."""
    table = JobTable(tmp_path)
    table.add(Job(1, ["b='x,y'", "a=2"], tmp_path / "1_b", status=FAILED, code=-9, seconds=2.5))
    table.add(Job(0, ["a=1"], tmp_path / "0_a", status=DONE, code=0, seconds=1.25, score=0.5))
    table.add(Job(2, ["a=3"], tmp_path / "2_c", status=RUNNING))
    table.write()
    return table


def test_saved_jobs_are_read_back(table: JobTable) -> None:
    loaded = JobTable(table.folder)
    assert [(job.number, job.name, job.overrides, job.code, job.seconds, job.score) for job in loaded.jobs] == [
        (0, "0_a", ["a=1"], 0, 1.25, 0.5),
        (1, "1_b", ["b='x,y'", "a=2"], -9, 2.5, None),
        (2, "2_c", ["a=3"], None, None, None),
    ]
    # a job that was running when its sweep was killed is stopped
    assert [job.status for job in loaded.jobs] == [DONE, FAILED, STOPPED]
    frame = pd.read_csv(table.folder / "jobs.csv")
    assert tuple(frame) == COLUMNS
    assert frame["reason"].fillna("").tolist() == ["", "killed by SIGKILL", ""]
    assert {path.name for path in table.folder.glob("[!.]*")} == {"jobs.csv"}


def test_jobs_are_matched_by_their_overrides(table: JobTable) -> None:
    job = table.find(["a=2", "b='x,y'"])  # in another order
    assert job is not None
    assert job.number == 1
    assert table.find(["a=2"]) is None
    assert table.find(["a=1", "a=1"]) is None


def test_new_job_gets_a_free_number(table: JobTable) -> None:
    assert table.free_number(7) == 7
    assert table.free_number(1) == 3


def test_job_replaces_a_job_with_the_same_number(table: JobTable) -> None:
    table.add(Job(1, ["a=2"], table.folder / "1_b", status=DONE))
    assert [job.status for job in table.jobs] == [DONE, DONE, RUNNING]


@pytest.mark.parametrize("text", ["number,folder\n0,a\n", "number,folder,status,overrides\n0,a,odd,[]\n", "\x00"])
def test_other_file_of_this_name_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(text)
    if text == "\x00":
        text = "number,folder,status,code,seconds,score,reason,overrides\n0,a,done,0,1,,,{\n"
        (tmp_path / "jobs.csv").write_text(text)
    with pytest.raises(UserError, match="is not a table of jobs"):
        JobTable(tmp_path)


@pytest.mark.parametrize("folder", ["../../elsewhere", "/elsewhere", "0_a/../../x"])
def test_folder_outside_of_the_sweep_is_refused(folder: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(",".join(COLUMNS) + f"\n0,{folder},done,0,1.0,0.5,,[]\n")
    with pytest.raises(UserError, match=r"jobs\.csv: is not a table of jobs"):
        JobTable(tmp_path)


def test_folder_with_slash_is_read_back(tmp_path: Path) -> None:
    table = JobTable(tmp_path)
    for number, name in enumerate(("a", "b")):
        folder = tmp_path / f"{number}_{name}" / "x"
        table.add(Job(number, [f"name='{name}/x'"], folder, status=DONE, sweep=tmp_path))
    table.write()
    assert [job.folder for job in JobTable(tmp_path).jobs] == [tmp_path / "0_a" / "x", tmp_path / "1_b" / "x"]
    assert [job.name for job in JobTable(tmp_path).jobs] == ["0_a/x", "1_b/x"]
