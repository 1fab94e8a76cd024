"""Files of a run that were damaged are named in a sentence, and changed numbers are noticed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from etude import curves
from etude.errors import UserError
from etude.loaded import Run
from etude.results import compare, measure, reading, report


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A measured run that a test may damage, with checksums as a run writes them."""
    folder = Path(shutil.copytree(run, tmp_path / run.name))
    table = pd.read_parquet(folder / reading.TABLE)
    table.to_parquet(folder / reading.TABLE)
    record = json.loads((folder / reading.RECORD).read_text("utf-8"))
    record[reading.TABLE_HASH] = reading.file_hash(folder / reading.TABLE)
    (folder / reading.RECORD).write_text(json.dumps(reading.sealed(record)), "utf-8")
    metrics = reading.sealed(measure.measure(table, record["targets"]))
    (folder / reading.METRICS).write_text(json.dumps(metrics), "utf-8")
    return folder


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "bytes": b"\xff\xfe what is this"}[how])


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text("utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), "utf-8")


def test_intact_run_is_read(copy: Path) -> None:
    assert set(reading.metrics(copy)["targets"]) == set(reading.record(copy)["targets"])
    assert len(reading.table(copy)) == 60


def test_changed_metric_is_noticed(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(copy / reading.METRICS, '"value": 0.', '"value": 1.')
    with pytest.raises(UserError, match=r"metrics\.json: was changed after it was written; make it anew"):
        Run(copy).scores()
    assert compare.main([str(copy)]) == 0
    assert "metrics.json was changed after it was written" in capsys.readouterr().out


def test_changed_record_is_noticed(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(copy / reading.RECORD, '"low": 0.0', '"low": 0.5')
    assert report.main([str(copy)]) == 2
    assert "record.json: was changed after it was written" in capsys.readouterr().err


def test_changed_prediction_is_noticed(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((copy / reading.TABLE).read_bytes())
    data[len(data) // 2] ^= 0x55
    (copy / reading.TABLE).write_bytes(data)
    assert report.main([str(copy)]) == 2
    assert re.search(r"predictions\.parquet: (was changed after|cannot be read)", capsys.readouterr().err)


@pytest.mark.parametrize("how", ["empty", "half", "bytes", "folder"])
@pytest.mark.parametrize("name", [reading.TABLE, reading.RECORD])
def test_damaged_source_of_a_report_is_named(
    name: str, how: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copy / name, how)
    assert report.main([str(copy)]) == 2
    assert name in capsys.readouterr().err


@pytest.mark.parametrize("how", ["empty", "half", "bytes", "folder"])
def test_damaged_curves_and_config_are_no_obstacle_to_a_comparison(how: str, copy: Path) -> None:
    for name in ("curves.csv", "config.yaml"):
        damage(copy / name, how)
    assert compare.main([str(copy)]) == 0


def test_report_leaves_unreadable_curves_out(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage(copy / "curves.csv", "bytes")
    assert report._curves(copy / "curves.csv", {})["panels"] == []
    assert "curves.csv: cannot be read, its curves are left out" in caplog.text


def test_resumed_run_names_damaged_curves(tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_bytes(b"epoch,step\n1,\xff\n")
    with pytest.raises(UserError, match=r"curves\.csv: is damaged; remove it"):
        curves.Curves(tmp_path / "curves.csv")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data": 5}, "data"),
        ({"data": {"card": 5}}, r"data\.card"),
        ({"model": None}, "model"),
        ({"seconds": {"total": "x"}}, "seconds"),
        ({"targets": {"genre": 5}}, r"targets\.genre"),
        ({"targets": {"genre": {"kind": "label", "classes": 5}}}, r"targets\.genre\.classes"),
    ],
)
def test_value_of_another_type_in_a_record_is_named(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    whole = {"targets": {"genre": {"kind": "label", "classes": ["a", "b"]}}, "data": {"card": ""}, "model": {}}
    (tmp_path / "record.json").write_text(json.dumps(whole))
    assert reading.record(tmp_path) == whole
    (tmp_path / "record.json").write_text(json.dumps(whole | change))
    with pytest.raises(UserError, match=rf"record\.json: {named} must"):
        reading.record(tmp_path)


def test_table_without_its_columns_and_deep_json_are_sentences(tmp_path: Path) -> None:
    pd.DataFrame({"id": ["a"], "group": ["b"]}).to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(UserError, match=r"predictions\.parquet: has no column split"):
        reading.table(tmp_path)
    (tmp_path / "metrics.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"metrics\.json: cannot be read"):
        reading.metrics(tmp_path)
