"""Tests of odd command lines: empty values, repeated options, old values, closed streams, and undecodable files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import data_overrides

from etude.cli import app, compare, report
from etude.cli.app import main
from etude.cli.runner import CommandResult, ParsedCommand, guard_command
from etude.config.stored import renamed_command_option
from etude.errors import UserError
from etude.inference.inputs import find_audio_files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--foo"], "No such option: --foo; etude --help lists the arguments"),
        (["predict", "run", "song.mp3", "--window", "0"], "Invalid value for '--window': 0 is not a number greater "),
        (["predict", "run", "song.mp3", "--window", "nan"], "Invalid value for '--window': nan is not a number grea"),
        (["prepare", ""], "'': is not of the form name=value"),
        (["prepare", "data="], "data=: needs an option; available: demo, digits, fma, folder"),
        (["prepare", "data=demo", "feature.front=mel"], "feature.front=mel: is not a front end; select one with fea"),
        (["prepare", "data=table", "data.source.table=no.csv"], "no.csv: there is no such table"),
        (["train", "--package", "data"], "--package: requires --cfg"),
    ],
)  # fmt: skip
def test_message_has_one_sentence(arguments: list[str], message: str, capsys: Any) -> None:
    assert app.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        *([name, "RUN"] for name in ("inspect", "export", "demo", "compare", "report", "maps")),
        *(["predict", "RUN", "a.mp3"], ["predict", "music", "RUN"], ["ensemble", "RUN", "RUN"]),
    ],
    ids=" ".join,
)
def test_missing_run_is_answered_with_similar_names(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("outputs/2026-11-28_demo_genre_cnn_3f2a", "outputs/2026-11-29_other", "music"):
        (tmp_path / name).mkdir(parents=True)
    run = "outputs/2026-11-28_demo_genre_cnn_3f2b"
    assert app.main([run if value == "RUN" else value for value in command]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{run}: there is no such ")
    assert error.endswith("; similar names: outputs/2026-11-28_demo_genre_cnn_3f2a\n")


def test_empty_input_does_not_name_the_current_folder() -> None:
    with pytest.raises(UserError, match="an input is empty"):
        find_audio_files([""])


def test_repeated_filter_of_one_axis_adds_values() -> None:
    assert compare.parse_filters(["seed=0", "backbone=cnn", "seed=1,0"]) == {"seed": ("0", "1"), "backbone": ("cnn",)}


def test_numbers_of_old_tables_are_replaced_with_names_of_layouts() -> None:
    assert [renamed_command_option("table", value, {"--layout"}) for value in "123"] == [
        "--layout classes", "--layout metrics", "--layout settings"
    ]  # fmt: skip


def test_repeated_run_is_reported_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pages: list[Path] = []
    monkeypatch.setattr("etude.runs.folder.RunFolder.missing_results", lambda run: [])
    monkeypatch.setattr("etude.runs.folder.write_metrics", lambda run: None)
    monkeypatch.setattr("etude.reports.run_report.write_report", lambda run: pages.append(run.path) or run.path)
    assert report.report([tmp_path, tmp_path]).function().files == [tmp_path] == pages


def test_json_stays_valid_if_stderr_is_closed(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def work() -> CommandResult:
        sys.stderr.write("a message\n")
        return CommandResult()

    monkeypatch.setattr(sys, "stderr", None)
    assert guard_command(ParsedCommand(work, json=True, level=None).run) == 0
    assert json.loads(capsys.readouterr().out) == {"status": 0, "files": []}


def test_view_is_not_repeated_as_a_message(capsys: Any) -> None:
    pytest.importorskip("wandb_workspaces")
    assert app.main(["dashboard", "--dry-run", "--json"]) == 0
    out, error = capsys.readouterr()
    assert "section" in json.loads(out)["view"]
    assert error == ""


def test_prepare_and_explore_use_options_of_another_folder(
    music: Path, tmp_path: Path, capsys: Any, caplog: Any
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(f"defaults: [folder, _self_]\nsource: {{path: {music}}}\n")
    overrides = ["data=mine", *data_overrides(music)[2:]]
    assert main(["prepare", *overrides, "--workers=1", f"--config-dir={tmp_path}"]) == 0
    assert f"--config-dir={tmp_path} data=mine" in caplog.text
    pages = tmp_path / "pages"
    assert main(["explore", *overrides, "--count=1", f"--out={pages}", f"--config-dir={tmp_path}"]) == 0
    assert (pages / "music" / "explore.html").is_file()
    capsys.readouterr()
    assert main(["prepare", *overrides, f"--config-dir={tmp_path / 'none'}"]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
