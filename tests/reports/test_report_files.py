"""Tests of reports of run folders with missing, damaged or older files."""

import json
from pathlib import Path

import pandas as pd
import pytest
from tests.commands import report as main
from tests.reports.report_page import ReportPage, build_report

from etude.reports.run_report import write_report
from etude.runs.folder import RunFolder


def test_run_with_older_metrics_has_a_report(make_run) -> None:
    folder = make_run("older")
    _, metrics = build_report(folder)
    del metrics["checksum"]
    for target in metrics["targets"].values():
        for results in target["splits"].values():
            results.pop("calibration", None), results.pop("agreement", None)
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    page = ReportPage(write_report(RunFolder(folder)).read_text("utf-8"))
    message = "The metrics of this run are from an older version without {}: rebuild the report."
    assert message.format("calibration") in page.text
    assert page.text.count(message.format("limits of agreement")) == 3


def test_missing_data_is_explained_in_a_sentence(make_run, table: pd.DataFrame) -> None:
    bare = table[[c for c in table.columns if ".score." not in c]]
    folder = make_run("bare", table=bare[bare["split"] == "test"])
    (folder / "curves.csv").unlink()
    (folder / "config.yaml").unlink()
    page, _ = build_report(folder)
    assert "There are no learning curves" in page.text
    assert "no class probabilities" in page.text
    assert "Fewer than two validation clips have this target." in page.text
    assert "The run has no config.yaml." in page.text
    page, _ = build_report(make_run("no-test", table=table[table["split"] == "val"]))
    assert "No test clip has a label, so there are no scores." in page.text
    assert "0 test clips with a true value; a score requires two." in page.text


def test_command_rebuilds_report_and_rejects_other_folders(make_run, tmp_path: Path, capsys) -> None:
    folder = make_run()
    assert main([str(folder)]) == 0
    assert (folder / "metrics.json").is_file() and (folder / "report.html").is_file()
    assert main([str(folder), str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert "nowhere: there is no such run folder" in error and error.count("\n") == 1
    assert main(["--help"]) == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("predictions.parquet", "no table", "cannot be read as a table"),
        ("record.json", "{", "cannot be read as JSON"),
        ("record.json", "{}", "does not list the targets of a run"),
    ],
)
def test_damaged_file_gives_one_line_error_message(
    name: str, content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pd.DataFrame({"id": ["a"], "group": ["g"], "split": ["test"]}).to_parquet(tmp_path / "predictions.parquet")
    (tmp_path / "record.json").write_text('{"targets": {}}')
    (tmp_path / name).write_text(content)
    assert main([str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / name}: {message}; train the run again")
    assert not (tmp_path / "report.html").exists()
