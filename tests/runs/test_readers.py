"""Tests of damaged and changed files of a run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.commands import compare, report

from etude.api.run_object import Run
from etude.errors import UserError
from etude.evaluation import measure
from etude.files.journal import file_hash
from etude.loggers.base import CurveLogger
from etude.reports import run_report
from etude.runs import readers
from etude.runs.folder import METRICS, PREDICTIONS, RECORD, RunFolder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """Copy of a finished run with checksums, which a test may damage."""
    folder = Path(shutil.copytree(run, tmp_path / run.name))
    table = pd.read_parquet(folder / PREDICTIONS)
    table.to_parquet(folder / PREDICTIONS)
    record = json.loads((folder / RECORD).read_text("utf-8"))
    record[readers.TABLE_HASH] = file_hash(folder / PREDICTIONS)
    (folder / RECORD).write_text(json.dumps(readers.add_checksum(record)), "utf-8")
    metrics = readers.add_checksum(measure.compute_metrics(table, record["targets"]))
    (folder / METRICS).write_text(json.dumps(metrics), "utf-8")
    return folder


def damage(path: Path, kind: str) -> None:
    """Replace a file by a folder, or its content by nothing, its first half or invalid bytes."""
    data = path.read_bytes()
    if kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "bytes": b"\xff\xfe not UTF-8"}[kind])


def change(path: Path, before: str, after: str) -> None:
    """Replace the first occurrence of a text in a file."""
    text = path.read_text("utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), "utf-8")


def test_undamaged_run_is_read(copy: Path) -> None:
    assert set(RunFolder(copy).metrics["targets"]) == set(RunFolder(copy).record["targets"])
    assert len(RunFolder(copy).predictions) == 60


def test_changed_metric_is_detected(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(copy / METRICS, '"value": 0.', '"value": 1.')
    with pytest.raises(UserError, match=r"metrics\.json: was changed after it was written; recreate it"):
        Run(copy).scores()
    assert compare([str(copy)]) == 0
    assert "metrics.json was changed after it was written" in capsys.readouterr().out


def test_changed_record_is_detected(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(copy / RECORD, '"low": 0.0', '"low": 0.5')
    assert report([str(copy)]) == 2
    assert "record.json: was changed after it was written" in capsys.readouterr().err


def test_changed_prediction_is_detected(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((copy / PREDICTIONS).read_bytes())
    data[len(data) // 2] ^= 0x55
    (copy / PREDICTIONS).write_bytes(data)
    assert report([str(copy)]) == 2
    assert re.search(r"predictions\.parquet: (was changed after|cannot be read)", capsys.readouterr().err)


@pytest.mark.parametrize("kind", ["empty", "half", "bytes", "folder"])
@pytest.mark.parametrize("name", [PREDICTIONS, RECORD])
def test_message_names_damaged_source_of_a_report(
    name: str, kind: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copy / name, kind)
    assert report([str(copy)]) == 2
    assert name in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["empty", "half", "bytes", "folder"])
def test_damaged_curves_and_config_do_not_prevent_a_comparison(kind: str, copy: Path) -> None:
    for name in ("curves.csv", "config.yaml"):
        damage(copy / name, kind)
    assert compare([str(copy)]) == 0


def test_report_omits_unreadable_curves(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage(copy / "curves.csv", "bytes")
    assert RunFolder(copy).read_curves().empty
    assert "curves.csv: cannot be read, its curves are left out" in caplog.text


def test_resumed_run_refuses_damaged_curves(tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_bytes(b"epoch,step\n1,\xff\n")
    with pytest.raises(UserError, match=r"curves\.csv: is damaged; remove it"):
        CurveLogger(tmp_path / "curves.csv")


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"data": 5}, "data"),
        ({"data": {"card": 5}}, r"data\.card"),
        ({"model": None}, "model"),
        ({"seconds": {"total": "x"}}, "seconds"),
        ({"targets": {"genre": 5}}, r"targets\.genre"),
        ({"targets": {"genre": {"kind": "label", "classes": 5}}}, r"targets\.genre\.classes"),
    ],
)
def test_message_names_value_of_wrong_type_in_a_record(changes: dict[str, Any], pattern: str, tmp_path: Path) -> None:
    record = {"targets": {"genre": {"kind": "label", "classes": ["a", "b"]}}, "data": {"card": ""}, "model": {}}
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert RunFolder(tmp_path).record == record
    (tmp_path / "record.json").write_text(json.dumps(record | changes))
    with pytest.raises(UserError, match=rf"record\.json: is not the record of a run \({pattern}"):
        _ = RunFolder(tmp_path).record


def test_missing_columns_and_deep_json_raise_user_error(tmp_path: Path) -> None:
    pd.DataFrame({"id": ["a"], "group": ["b"]}).to_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(UserError, match=r"predictions\.parquet: has no column split"):
        _ = RunFolder(tmp_path).predictions
    (tmp_path / "metrics.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"metrics\.json: cannot be read"):
        _ = RunFolder(tmp_path).metrics


def rewrite(path: Path, *keys: object, value: object) -> None:
    """Replace one value of a JSON file and update its checksum. A value of None removes the key."""
    content = json.loads(path.read_text("utf-8"))
    parent = content
    for key in keys[:-1]:
        parent = parent[key]
    parent[keys[-1]] = value
    if value is None:
        del parent[keys[-1]]
    path.write_text(json.dumps(readers.add_checksum(content)), "utf-8")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (
            ("targets", "genre", "splits", "test", "scores", "macro_f1"),
            0.5,
            "macro_f1 is 0.5 and not a mapping",
        ),
        (("targets", "genre", "splits", "val"), None, "targets.genre.splits.val is missing"),
        (("targets", "genre", "primary"), "best", "genre has the primary metric 'best', which is unknown"),
        (("targets", "genre", "splits", "test", "confusion"), [[1]], "a confusion matrix of another size"),
        (("targets", "valence", "kind"), "number", "valence is of the kind 'number'"),
        (("targets", "genre", "splits", "test", "n"), True, "targets.genre.splits.test.n is True"),
    ],
)
def test_metrics_of_another_structure_are_refused(
    keys: tuple[str, ...], value: object, message: str, copy: Path
) -> None:
    rewrite(copy / METRICS, *keys, value=value)
    with pytest.raises(UserError, match=r"metrics\.json: the scores are invalid \(") as error:
        Run(copy).scores()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("model", "epochs"), "many", "model.epochs is 'many'"),
        (("data",), "text", "data is 'text' and not a mapping"),
        (("data", "splits", "test"), 3, "data.splits.test is 3 and not a mapping"),
        (("targets", "genre", "classes"), ["a", "a"], "genre is a label without distinct classes"),
        (("targets", "valence", "low"), 2.0, "valence is a scalar without a range"),
    ],
)
def test_record_of_another_structure_is_refused(keys: tuple[str, ...], value: object, message: str, copy: Path) -> None:
    rewrite(copy / RECORD, *keys, value=value)
    with pytest.raises(UserError, match=r"record\.json: is not the record of a run") as error:
        _ = RunFolder(copy).record
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("genre.true", None, "there is no column genre.true"),
        ("split", None, "there is no column split"),
        ("genre.pred", "polka", "column genre.pred contains 'polka', which is not a class of genre"),
        ("valence.pred", "high", "column valence.pred is not numeric"),
        ("valence.pred", float("inf"), "column valence.pred is not numeric"),
        ("id", "one", "id 'one' is in the test split twice"),
        ("embedding", "text", "column embedding does not contain vectors"),
    ],
)
def test_table_that_does_not_match_the_record_is_refused(column: str, value: object, message: str, copy: Path) -> None:
    table = pd.read_parquet(copy / PREDICTIONS)
    table = table.drop(columns=column) if value is None else table.assign(**{column: value})
    table.to_parquet(copy / PREDICTIONS)
    rewrite(copy / RECORD, readers.TABLE_HASH, value=None)  # as of a version without hashes
    assert report([str(copy)]) == 2
    with pytest.raises(UserError, match=r"predictions\.parquet: does not match record\.json") as error:
        _ = RunFolder(copy).predictions
    assert message in str(error.value)


def test_non_numeric_cells_of_curves_are_empty(copy: Path) -> None:
    (copy / "curves.csv").write_text("epoch,step,val/loss\n0,1,0.5\n1,2,low\n2,3,inf\n", "utf-8")
    assert RunFolder(copy).read_curves()["val/loss"].isna().tolist() == [False, True, True]
    run_report.write_report(RunFolder(copy))


@pytest.mark.parametrize("text", ["a: b: c", "- a\n- b", "[" * 2000], ids=["colon", "list", "deep"])
def test_message_names_damaged_config(text: str, copy: Path) -> None:
    (copy / "config.yaml").write_text(text, "utf-8")
    with pytest.raises(UserError, match=r"config\.yaml: "):
        _ = Run(copy).config


def test_message_names_damaged_split(copy: Path) -> None:
    assert RunFolder(copy).split == {}
    (copy / "split.csv").write_text("id,split\na,train\n", "utf-8")
    assert RunFolder(copy).split == {"a": "train"}
    (copy / "split.csv").write_text("id,part\na,train\n", "utf-8")
    with pytest.raises(UserError, match=r"split\.csv: cannot be read as a table with the columns id and split"):
        _ = RunFolder(copy).split
