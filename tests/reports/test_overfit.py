"""Tests of the page of a run that overfits a few clips."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from tests.commands import report
from tests.reports.dataset.dataset_page import DatasetPage

from etude.reports.overfit import find_verdict, write_overfit
from etude.runs.folder import RunFolder

TARGETS = {
    "genre": {"kind": "label", "classes": ["jazz", "rock"]},
    "tempo": {"kind": "scalar", "low": 40.0, "high": 240.0},
}
HOSTILE = "<b>clip</b>"


def content(last_loss: float = 0.01, last_genre: str = "rock", last_tempo: float = 110.0) -> dict[str, Any]:
    genre = {"id": HOSTILE, "target": "genre", "true": "rock", "first": "jazz", "last": last_genre}
    genre |= {"first_probability": 0.4, "last_probability": 0.98 if last_genre == "rock" else 0.3}
    tempo = {"id": "b", "target": "tempo", "true": 120.0, "first": 140.0, "last": last_tempo}
    first, last = ({"epoch": epoch, "losses": {"val/loss": loss}} for epoch, loss in ((0, 0.8), (30, last_loss)))
    return {"first": first, "last": last, "targets": TARGETS, "clips": [genre, tempo]}


GENRE, TEMPO = content()["clips"]
DAMAGED: list[Any] = [
    {"clips": []},
    {key: value for key, value in content().items() if key != "targets"},
    *(content() | {key: value} for key in ("targets", "clips") for value in ({}, [], "abc", None)),
    *(content() | {"last": value} for value in ("text", {"losses": {"val/loss": 0.1}}, {"epoch": 3, "losses": {}})),
    *(
        content() | {"clips": [{k: v for k, v in TEMPO.items() if k != key}]}
        for key in ("id", "target", "true", "last")
    ),
    *(content() | {"clips": [clip]} for clip in (TEMPO | {"target": "key"}, TEMPO | {"last": "text"}, "clip", None)),
    content() | {"clips": [{key: value for key, value in GENRE.items() if key != "last_probability"}]},
    *(
        content() | {"targets": TARGETS | {"tempo": {k: v for k, v in TARGETS["tempo"].items() if k != key}}}
        for key in ("kind", "low", "high")
    ),
    content() | {"threshold": "low"},
]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Run folder with the config and the falling loss of an overfitting run."""
    config = {"name": "overfit_joint", "optim": {"lr": 0.001}, "trainer": {"max_epochs": 30}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    log = pd.DataFrame({"epoch": range(5, 35, 5), "train/loss": [0.7, 0.6, 0.5, 0.4, 0.2, 0.1]}).assign(
        **{"val/loss": 0.5}
    )
    log.to_csv(tmp_path / "curves.csv", index=False)
    return RunFolder(tmp_path)


def test_verdict_states_loss_and_clips_that_are_not_learned(run: RunFolder) -> None:
    sentence = write_overfit(run, content())
    assert sentence.startswith("The network learned all 2 clips. The loss fell from 0.80 to 0.010 in 30 epochs, which")
    failed = find_verdict(content(0.2, "jazz", 100.1), {}, run.read_curves())
    assert (
        not failed.passed and "did not learn 1 of 2 clips: <b>clip</b> (genre: jazz instead of rock)" in failed.sentence
    )
    assert "not nearly zero (at most 0.040)" in failed.sentence
    assert failed.checks[0].startswith("The training loss still fell at the end of training.")
    low = find_verdict(content(0.01, last_tempo=99.0), {}, run.read_curves())  # a tenth of the range is 20
    assert not low.passed and "b (tempo: 99.0 instead of 120)" in low.sentence
    flat = find_verdict(content(0.5), {"optim": {"lr": 0.1}}, run.read_curves().assign(**{"train/loss": 0.5}))
    assert "predicts all 2 clips correctly" in flat.sentence and "optim.lr=0.1" in flat.checks[0]
    lagging = find_verdict(content(0.5), {}, run.read_curves().assign(**{"train/loss": 0.01}))
    assert lagging.checks[0].startswith("The training loss is nearly zero, so training and evaluation")
    assert find_verdict(content(0.2) | {"threshold": 0.3}, {}, run.read_curves()).passed


@pytest.mark.parametrize(
    ("losses", "check"),
    [
        ([0.277, 0.251, 0.224, 0.205, 0.193, 0.187], "The training loss still fell at the end of training."),
        ([0.5, 0.4995, 0.499, 0.4985], "The training loss still fell at the end of training."),
        ([0.6], "One epoch does not show whether"),
        ([0.6, 0.5], "The training loss still fell at the end of training."),
        ([0.5, 0.47, 0.48, 0.46, 0.47, 0.46], "The training loss no longer falls."),
        ([0.9, 0.8, 0.5, *[0.5, 0.49] * 6], "The training loss no longer falls."),
    ],
)
def test_fall_is_measured_over_at_least_three_steps(losses: list[float], check: str) -> None:
    log = pd.DataFrame({"epoch": range(1, len(losses) + 1), "train/loss": losses})
    assert find_verdict(content(0.5), {}, log).checks[0].startswith(check)


@pytest.mark.parametrize(
    ("first", "last", "change"),
    [
        (1.02, 1.019, "The loss did not fall: 1.02 after 30 epochs, which is not"),
        (0.8, 1.3, "The loss rose from 0.80 to 1.30 in"),
        (2.5e12, 3.0e7, "The loss fell from 2.5e+12 to 3e+07 in"),
        (0.8, math.nan, "The loss changed from 0.80 to undefined in"),
    ],
)
def test_change_of_loss_is_stated_as_it_is_printed(run: RunFolder, first: float, last: float, change: str) -> None:
    one = content(last, last_tempo=9.0e9)
    one["first"]["losses"]["val/loss"] = first
    one["clips"][1]["id"] = HOSTILE
    sentence = write_overfit(run, one)
    assert change in sentence
    assert sentence.startswith(f"The network did not learn the clip: {HOSTILE} (tempo: 9e+09 instead of 120).")
    one["clips"][1]["last"] = 120.0
    assert "the clip" in find_verdict(one, {}, run.read_curves()).sentence
    page = run.overfit_page_path.read_text("utf-8")
    assert "9000000000<" not in page and "The loss fell from 1.0" not in page


def test_page_shows_first_and_last_predictions_and_is_rebuilt_by_report(run: RunFolder) -> None:
    write_overfit(run, content())
    first = run.overfit_page_path.read_text("utf-8")
    page = DatasetPage(first)
    assert page.tables["genre: predictions of each clip"][1] == [HOSTILE, "rock", "jazz (0.40)", "rock (0.98)", "yes"]
    assert page.tables["tempo: predictions of each clip"][1] == ["b", "120", "140", "110", "yes"]
    assert HOSTILE not in first and "<script" not in first
    xs = [float(x) for x in re.findall(r'd="M([\d.]+) [\d.]+m', first.split('id="target-2"')[1].split("</figure>")[0])]
    true, before, after = xs[-3:]
    assert (before - true) / (true - after) == pytest.approx(2.0, abs=0.05)  # 20 above and 10 below
    run.overfit_page_path.unlink()
    assert report([str(run.path)]) == 0
    assert run.overfit_page_path.read_text("utf-8") == first


def test_damaged_file_and_missing_validation_have_messages(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert "never validated" in write_overfit(run, {"first": {}, "last": {}, "targets": {}, "clips": []})
    assert not run.overfit_path.exists()
    for damaged in DAMAGED:
        run.overfit_path.write_text(json.dumps(damaged))
        assert report([str(run.path)]) == 2, damaged
        error = capsys.readouterr().err
        assert f"{run.overfit_path}: cannot be read; train the run again with debug=overfit" in error, damaged
        assert error.count("\n") == 1 and not run.overfit_page_path.exists()
