"""What a sweep keeps of its jobs is what it goes on from."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from etude.errors import UserError
from etude.sweeps.jobs import COLUMNS, DONE, FAILED, RUNNING, STOPPED, Job, JobTable


@pytest.fixture
def ledger(tmp_path: Path) -> JobTable:
    made = JobTable(tmp_path)
    made.put(Job(1, ["b='x,y'", "a=2"], tmp_path / "1_b", status=FAILED, code=-9, seconds=2.5))
    made.put(Job(0, ["a=1"], tmp_path / "0_a", status=DONE, code=0, seconds=1.25, score=0.5))
    made.put(Job(2, ["a=3"], tmp_path / "2_c", status=RUNNING))
    made.write()
    return made


def test_another_process_reads_what_was_written(ledger: JobTable) -> None:
    read = JobTable(ledger.folder)
    assert [(job.number, job.name, job.overrides, job.code, job.seconds, job.score) for job in read.jobs] == [
        (0, "0_a", ["a=1"], 0, 1.25, 0.5),
        (1, "1_b", ["b='x,y'", "a=2"], -9, 2.5, None),
        (2, "2_c", ["a=3"], None, None, None),
    ]
    # what ran when its sweep was killed was stopped by that
    assert [job.status for job in read.jobs] == [DONE, FAILED, STOPPED]
    table = pd.read_csv(ledger.folder / "jobs.csv")
    assert tuple(table) == COLUMNS
    assert table["why"].fillna("").tolist() == ["", "killed by SIGKILL", ""]
    assert {path.name for path in ledger.folder.glob("[!.]*")} == {"jobs.csv"}


def test_a_job_is_known_by_what_it_was_told(ledger: JobTable) -> None:
    known = ledger.known(["a=2", "b='x,y'"])  # in whatever order
    assert known is not None
    assert known.number == 1
    assert ledger.known(["a=2"]) is None
    assert ledger.known(["a=1", "a=1"]) is None


def test_a_new_job_gets_a_number_that_no_other_has(ledger: JobTable) -> None:
    assert ledger.number(7) == 7
    assert ledger.number(1) == 3


def test_a_job_takes_the_place_of_one_of_its_number(ledger: JobTable) -> None:
    ledger.put(Job(1, ["a=2"], ledger.folder / "1_b", status=DONE))
    assert [job.status for job in ledger.jobs] == [DONE, DONE, RUNNING]


@pytest.mark.parametrize("text", ["number,folder\n0,a\n", "number,folder,status,overrides\n0,a,odd,[]\n", "\x00"])
def test_another_file_of_that_name_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(text)
    if text == "\x00":
        text = "number,folder,status,code,seconds,score,why,overrides\n0,a,done,0,1,,,{\n"
        (tmp_path / "jobs.csv").write_text(text)
    with pytest.raises(UserError, match="is not the list of a sweep's jobs"):
        JobTable(tmp_path)


@pytest.mark.parametrize("folder", ["../../elsewhere", "/elsewhere", "0_a/../../x"])
def test_folder_outside_of_the_sweep_is_refused(folder: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(",".join(COLUMNS) + f"\n0,{folder},done,0,1.0,0.5,,[]\n")
    with pytest.raises(UserError, match=r"jobs\.csv: is not the list of a sweep's jobs"):
        JobTable(tmp_path)


def test_folder_with_slash_is_read_back(tmp_path: Path) -> None:
    ledger = JobTable(tmp_path)
    for number, name in enumerate(("a", "b")):
        folder = tmp_path / f"{number}_{name}" / "x"
        ledger.put(Job(number, [f"name='{name}/x'"], folder, status=DONE, sweep=tmp_path))
    ledger.write()
    assert [job.folder for job in JobTable(tmp_path).jobs] == [tmp_path / "0_a" / "x", tmp_path / "1_b" / "x"]
    assert [job.name for job in JobTable(tmp_path).jobs] == ["0_a/x", "1_b/x"]
