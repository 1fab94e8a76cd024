"""Tests of the view of a Weights & Biases project without a key and without a network."""

from __future__ import annotations

import json
import sys

import pytest
from tests.commands import dashboard as main

from etude.evaluation.metrics import PRIMARY
from etude.loggers.dashboard import primary_metrics

pytest.importorskip("wandb_workspaces", reason="needs etude[dashboard]")


def test_view_has_panels_of_all_targets_grouped_by_backbone_and_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--project=music", "--dry-run"]) == 0
    section = json.loads(capsys.readouterr().out)["section"]
    (runs,) = section["runSets"]
    assert [(g["section"], g["name"]) for g in runs["grouping"]] == [
        ("config", "choices.value.backbone"), ("config", "choices.value.task"),
    ]  # fmt: skip
    sections = {entry["name"]: entry["panels"] for entry in section["panelBankConfig"]["sections"]}
    shown = {name: [m for p in panels for m in p["config"].get("metrics", [])] for name, panels in sections.items()}
    metrics = primary_metrics()
    assert set(metrics) >= {"genre", "valence", "energy", "danceability"}
    assert set(metrics.values()) == set(PRIMARY.values())
    assert shown["Test"] == [f"test/{name}/{metric}" for name, metric in metrics.items()]
    assert shown["Above the linear model or SVM"] == [f"test/{n}/over_statistics/{m}" for n, m in metrics.items()]
    assert {f"val/{name}/{metric}" for name, metric in metrics.items()} <= set(shown["Scores by epoch"])
    assert {"train/loss", "val/loss", "val/genre/loss"} <= set(shown["Losses by epoch"])
    for panels in sections.values():
        assert len({panel["__id__"] for panel in panels}) == len(panels) > 0


def test_dry_run_prints_selected_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "--targets=genre"]) == 0
    message = capsys.readouterr().out
    assert "test/genre/macro_f1" in message
    assert "valence" not in message


def test_columns_of_the_data_have_panels() -> None:
    assert primary_metrics(["mood:label", "valence", "bpm:scalar"]) == {
        "mood": "macro_f1", "valence": "spearman", "bpm": "spearman"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--entity=me"], "there is no API key for Weights & Biases"),
        (["--project=x"], "--entity <user or team>: "),
        (["--projekt=x"], "No such option: --projekt (Possible options: --project)"),
        (["projekt=x"], "Got unexpected extra argument(s) (projekt=x)"),
        (["project=x"], "project=x: options of etude dashboard have dashes; use --project x"),
        (["show=true"], "show=true: options of etude dashboard have dashes; use --dry-run"),
        (["--project="], "--project=: empty value"),
        (["--dry-run", "--name", "cnn + lstm"], "--name cnn + lstm: symbols such as = and + are not allowed"),
        (["--dry-run=maybe"], "Option '--dry-run' does not take a value"),
        (["--dry-run", "--targets=tempo"], "--targets: there is no target tempo; the targets are "),
        (["--dry-run", "--targets=tempo:float"], "--targets: there is no target tempo:float; the targets are "),
    ],
)
def test_invalid_options_are_reported(
    overrides: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etude.loggers.wandb.has_key", lambda: False)
    assert main(overrides) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith(message)


def test_missing_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert main(["--dry-run"]) == 2
    assert "pip install 'etude[dashboard]'" in capsys.readouterr().err
