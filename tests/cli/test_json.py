"""Tests of `--json`: one object on standard output, read by another program, and everything else on standard error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.cli.conftest import data_overrides

from etude.cli.app import main


def call(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    """Run a command with `--json` and return the object that it prints."""
    capsys.readouterr()
    assert main([*arguments, "--json"]) == status
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert content["status"] == status
    assert all(Path(path).is_file() for path in content["files"])
    return content


def test_predict_prints_the_rows_of_its_table(run: Path, music: Path, tmp_path: Path, capsys: Any) -> None:
    inputs = [str(music / "rock" / "1.wav"), str(music / "rock" / "broken.mp3")]
    content = call(capsys, "predict", str(run), *inputs, f"--out={tmp_path}", "--no-page", status=1)
    table = pd.read_csv(tmp_path / "files.csv")
    assert content["n_failed"] == 1
    assert [row["path"] for row in content["predictions"]] == table["path"].tolist()
    assert content["predictions"][0]["genre.pred"] == table["genre.pred"][0]
    assert content["predictions"][0]["genre.score.rock"] == pytest.approx(table["genre.score.rock"][0])
    assert content["predictions"][1]["error"] == table["error"][1]
    assert sorted(Path(path).name for path in content["files"]) == ["files.csv", "windows.csv"]


def test_report_prints_the_metrics_of_each_run(run: Path, capsys: Any) -> None:
    content = call(capsys, "report", str(run))
    written = json.loads((run / "metrics.json").read_text("utf-8"))
    assert content["metrics"] == {str(run): written}
    assert content["files"] == [str(run / "report.html")]


def test_compare_prints_the_scores_of_its_table(run: Path, tmp_path: Path, capsys: Any) -> None:
    content = call(capsys, "compare", str(run), f"--out={tmp_path}", "--format=csv")
    table = pd.read_csv(tmp_path / "compare.csv")
    assert [row["value"] for row in content["scores"]] == pytest.approx(table["value"].tolist())
    assert content["tests"] == []


def test_maps_print_their_metrics(run: Path, tmp_path: Path, capsys: Any) -> None:
    content = call(capsys, "maps", str(run), "--methods=pca", "--dims=2", f"--out={tmp_path}")
    written = json.loads((tmp_path / "maps.json").read_text("utf-8"))
    assert {key: content[key] for key in written} == written
    assert content["maps"][0]["method"] == "pca"


def test_prepare_prints_the_pack_and_the_skipped_files(music: Path, run: Path, capsys: Any) -> None:
    content = call(capsys, "prepare", *data_overrides(music), "--workers=1")
    assert (content["clips"], content["frames"]) == (16, 16 * 44)
    assert Path(content["pack"]).parent == music.parent / "packs"
    assert [item["id"] for item in content["skipped"]] == ["rock/broken"]
    assert "cannot be decoded" in content["skipped"][0]["reason"]


@pytest.mark.usefixtures("compiled_librosa")
def test_explore_prints_the_statistics_of_its_page(music: Path, run: Path, tmp_path: Path, capsys: Any) -> None:
    content = call(capsys, "explore", *data_overrides(music), "--count=1", f"--out={tmp_path}", "--workers=1")
    written = json.loads((tmp_path / "music" / "explore.json").read_text("utf-8"))
    assert {key: content[key] for key in written} == written


@pytest.mark.parametrize("command", [["export", "--format=safetensors"], ["inspect"]], ids=lambda command: command[0])
def test_written_files_are_listed(command: list[str], run: Path, tmp_path: Path, capsys: Any) -> None:
    content = call(capsys, command[0], str(run), f"--out={tmp_path}", *command[1:])
    written = {str(path) for path in tmp_path.iterdir() if not path.name.startswith(".") and path.suffix != ".json"}
    assert written - {str(tmp_path / "errors")} <= set(content["files"])


def test_dashboard_prints_the_view(capsys: Any) -> None:
    pytest.importorskip("wandb_workspaces")
    content = call(capsys, "dashboard", "--dry-run", "--targets=genre")
    assert content["view"]["section"]["panelBankConfig"]


def test_error_prints_nothing_on_standard_output(tmp_path: Path, capsys: Any) -> None:
    assert main(["report", str(tmp_path), "--json"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert "is not a finished run" in error


def test_reader_at_the_end_of_a_pipe_receives_only_the_object(run: Path) -> None:
    reader = "import json, sys; print(*json.load(sys.stdin)['metrics'])"
    command = f'"{sys.executable}" -m etude report "{run}" --json | "{sys.executable}" -c "{reader}"'
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert result.stdout == f"{run}\n"
