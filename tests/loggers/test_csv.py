"""Tests of the rows of curves.csv and of its atomic writing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from etude.loggers.base import CurveLogger


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if value != ""} for row in csv.DictReader(file)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "curves.csv"


def test_values_of_a_step_are_one_row(path: Path) -> None:
    curves = CurveLogger(path)
    curves.log_metrics({"val/score": 0.25, "epoch": 0}, step=7)
    curves.log_metrics({"train/loss": 1 / 3, "epoch": 0}, step=7)
    curves.log_metrics({"lr": 1e-3}, step=3)
    curves.save()
    assert read_rows(path) == [
        {"step": "3", "lr": "0.001"},
        {"step": "7", "epoch": "1", "val/score": "0.25", "train/loss": "0.333333"},
    ]
    assert path.read_text(encoding="utf-8").startswith("epoch,step,")


def test_last_value_of_a_step_is_kept(path: Path) -> None:
    curves = CurveLogger(path)
    for value in (1.0, 2.0):
        curves.log_metrics({"train/loss": value}, step=1)
    curves.finalize("success")
    assert read_rows(path) == [{"step": "1", "train/loss": "2"}]


def test_reopened_file_is_continued(path: Path) -> None:
    first = CurveLogger(path)
    for epoch, step in enumerate((1, 2, 10)):
        first.log_metrics({"train/loss": step, "epoch": epoch}, step=step)
    first.save()
    second = CurveLogger(path)
    second.log_metrics({"train/loss": 0.5}, step=10)
    second.log_metrics({"train/loss": 0.25, "val/score": 1.0}, step=11)
    second.save()
    assert read_rows(path) == [
        {"step": "1", "epoch": "1", "train/loss": "1"},
        {"step": "2", "epoch": "2", "train/loss": "2"},
        {"step": "10", "epoch": "3", "train/loss": "0.5"},
        {"step": "11", "train/loss": "0.25", "val/score": "1"},
    ]


def test_reopened_file_without_changes_is_equal(path: Path) -> None:
    curves = CurveLogger(path)
    curves.log_metrics({"a, b": 1e-9, "epoch": 0}, step=0)
    curves.log_metrics({"val/loss": float("nan")}, step=1)
    curves.save()
    before = path.read_bytes()
    CurveLogger(path).save()
    assert path.read_bytes() == before


def test_each_save_writes_a_complete_file(path: Path) -> None:
    curves = CurveLogger(path)
    for step in range(5):
        curves.log_metrics({f"metric{step}": step}, step=step)
        curves.save()
        assert [row["step"] for row in read_rows(path)] == [str(i) for i in range(step + 1)]
        assert list(path.parent.glob("[!.]*")) == [path]


def test_failing_save_keeps_the_previous_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curves = CurveLogger(path)
    curves.log_metrics({"train/loss": 1.0}, step=1)
    curves.save()
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    curves.log_metrics({"train/loss": 2.0}, step=2)
    with pytest.raises(OSError, match="no space"):
        curves.save()
    assert path.read_bytes() == before
