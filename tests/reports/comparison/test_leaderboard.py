"""Tests of the leaderboard: its numbers against scikit-learn and SciPy, its sentences, and its files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import norm, spearmanr
from sklearn.metrics import f1_score

from etude.errors import UserError
from etude.evaluation.paired_tests import ScoredTarget, compare_pairs, holm_correction
from etude.reports.comparison.axes import CompareOptions
from etude.reports.comparison.compare import compare
from etude.reports.comparison.leaderboard import Leaderboard, build_leaderboards
from etude.reports.comparison.leaderboard_page import (
    describe_best,
    describe_candidates,
    describe_choice,
    leaderboard_text,
    write_leaderboard,
)
from etude.reports.comparison.runs import scored_targets
from etude.reports.comparison.text import Comparison
from etude.runs.folder import RunFolder, write_metrics

FOLDS, GROUPS, CLIPS = 2, 18, 144
CLASSES = ["folk", "jazz", "rock"]
SCALARS = {"valence": (0.0, 1.0), "tempo": (0.0, 200.0)}
TARGETS: dict[str, Any] = {
    "genre": {"kind": "label", "classes": CLASSES, "note": ""},
    **{name: {"kind": "scalar", "low": low, "high": high, "note": ""} for name, (low, high) in SCALARS.items()},
}
ENCODERS = {("strong", "all"): 0.98, ("strong", None): 0.93, ("close", "all"): 0.92, ("weak", "all"): 0.1}
"""Probability of a correct class by encoder and layers."""
INNER = {("strong", "all"): [0.5, 0.3], ("strong", None): [0.9, 0.9], ("close", "all"): [0.4, 0.35],
         ("weak", "all"): [2.0, 2.0]}  # fmt: skip
"""Inner log-loss of each fold: `close` has the smallest mean, and `strong` the smallest of the second fold."""

FIT: dict[str, Any] = {
    "name": "probe",
    "score": "loss",
    "penalty": {},
    "candidates": [],
    "seconds": 1.0,
} | dict.fromkeys(("clips", "validation_clips", "folds", "groups"), 10)


def predictions(seed: int, right: float) -> pd.DataFrame:
    """Return predictions of all clips. The clips, true values and baselines do not depend on the arguments."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng(seed)
    table = pd.DataFrame({"id": [f"clip {i:03d}" for i in range(CLIPS)]})
    table["group"] = [f"artist {i % GROUPS}" for i in range(CLIPS)]
    names = np.array(CLASSES, dtype=object)
    true, other = fixed.integers(0, 3, CLIPS), fixed.integers(0, 3, CLIPS)
    table["genre.true"], table["genre.baseline.statistics"] = names[true], names[other]
    table["genre.pred"] = names[np.where(rng.random(CLIPS) < right, true, rng.integers(0, 3, CLIPS))]
    for name, (low, high) in SCALARS.items():
        value = fixed.random(CLIPS)
        table[f"{name}.true"] = low + (high - low) * value
        table[f"{name}.baseline.statistics"] = low + (high - low) * fixed.random(CLIPS)
        table[f"{name}.pred"] = low + (high - low) * (value + (1 - right) * rng.normal(size=CLIPS))
    return table


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, write_probe: Callable[..., Path]) -> Path:
    """Sweep of four rows by three folds."""
    folder = tmp_path_factory.mktemp("encoders")
    for number, row in enumerate(ENCODERS):
        for fold in range(FOLDS):
            write_probe(folder, number, row, fold)
    return folder


@pytest.fixture(scope="module")
def write_probe() -> Callable[..., Path]:
    """Function that writes the finished run of one row and one fold."""

    def write(sweep: Path, number: int, row: tuple[str, str | None], fold: int, *names: str) -> Path:
        folder = sweep / f"{number}_{row[0]}_{fold}"
        folder.mkdir()
        table = predictions(number + 1, ENCODERS[row])
        third = np.arange(CLIPS) % GROUPS % FOLDS
        splits = np.select([third == fold, third == (fold + 1) % FOLDS], ["test", "val"], "train")
        table.assign(split=splits)[splits != "train"].to_parquet(folder / "predictions.parquet")
        targets = {name: TARGETS[name] for name in names or TARGETS}
        fits = {"genre": -INNER[row][fold], "valence": -0.1 * INNER[row][fold], "tempo": -4000.0 * INNER[row][fold]}
        model = {"backbone": row[0], "head": "linear", "task": "joint", "feature": "mel", "parameters": 1000 + number}
        model |= {
            "dim": 10 * (number + 1),
            "linear_probe": {k: FIT | {"inner_score": fits[k]} for k in targets},
        }
        data = {"name": "made", "title": "Made", "hash": "h", "labels": "l", "split_hash": f"s{fold}", "fold": fold}
        data |= {"folds": FOLDS, "disjoint": True, "groups_known": "all", "clips": CLIPS, "splits": {}}
        record = {"name": "_".join(map(str, row)), "seed": 0, "model": model, "targets": targets}
        record |= {"data": data, "seconds": {"total": 5.0 + 60 * (fold == 0), "train": 1.0}}
        (folder / "record.json").write_text(json.dumps(record), "utf-8")
        readout = {"layers": row[1], "pooling": "mean", "combine": "concat"}
        config = {"name": record["name"], "choices": {"encoder": row[0]}, "readout": readout}
        config["data"] = {"split": {"fold": fold, "folds": FOLDS}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
        write_metrics(RunFolder(folder))
        return folder

    return write


@pytest.fixture(scope="module")
def comparison(sweep: Path) -> Comparison:
    return compare([sweep], CompareOptions(out=sweep))


@pytest.fixture(scope="module")
def boards(comparison: Comparison) -> dict[str, Leaderboard]:
    return {board.target: board for board in build_leaderboards(comparison)[0]}


def f1(table: pd.DataFrame, column: str = "genre.pred") -> float:
    return float(f1_score(table["genre.true"], table[column], average="macro"))


def rho(table: pd.DataFrame, column: str = "pred") -> float:
    return float(np.mean([spearmanr(table[f"{name}.true"], table[f"{name}.{column}"])[0] for name in SCALARS]))


def test_scores_are_those_of_scikit_learn_and_scipy_best_first(boards: dict[str, Leaderboard]) -> None:
    assert list(boards) == ["genre", *SCALARS, "mean"]
    tables = {row: predictions(i + 1, right) for i, (row, right) in enumerate(ENCODERS.items())}
    names = {None: "own embedding", "all": "all layers"}
    for target, score in (("genre", f1), ("mean", rho)):
        baseline = f1(tables["weak", "all"], "genre.baseline.statistics")
        if target == "mean":
            baseline = rho(tables["weak", "all"], "baseline.statistics")
        expected = {f"{row[0]}, {names[row[1]]}": score(table) for row, table in tables.items()}
        expected["baseline, mel, chroma statistics"] = baseline
        entries = boards[target].entries
        assert {entry.title: entry.score["value"] for entry in entries} == pytest.approx(expected)
        assert [entry.title for entry in entries] == sorted(expected, key=lambda title: -expected[title])
        for entry in entries[1:]:
            assert entry.difference is not None
            difference = expected[entry.title] - expected[entries[0].title]
            assert entry.difference["value"] == pytest.approx(difference)
            assert entry.difference["low"] <= difference <= entry.difference["high"]


def test_p_values_have_holm_correction_for_the_tests_against_the_best(
    boards: dict[str, Leaderboard], comparison: Comparison
) -> None:
    best, *others = boards["genre"].entries
    tested = [run for run in comparison.runs if run.folder in {best.folder, *(entry.folder for entry in others)}]
    titles = {entry.folder: entry.title for entry in (best, *others) if not entry.is_baseline}
    (scored,) = (target for target in scored_targets(tested, titles) if target.name == "genre")
    runs = {run.title: run for run in scored.runs}
    table = runs[best.title].table
    baseline = predictions(0, 0.0).set_index("id")["genre.baseline.statistics"].loc[table["id"]].to_numpy()
    title = "baseline, mel, chroma statistics"
    runs[title] = replace(runs[best.title], title=title, table=table.assign(**{"genre.pred": baseline}))
    raw = [
        compare_pairs([ScoredTarget("genre", [runs[entry.title], runs[best.title]])])[0][0].p or 0.0 for entry in others
    ]
    ordered = np.argsort(raw)
    corrected = np.maximum.accumulate(np.sort(raw) * np.arange(len(raw), 0, -1)).clip(max=1.0)
    assert [others[i].p for i in ordered] == pytest.approx(corrected.tolist())
    assert [entry.is_ruled_out for entry in others] == [(entry.p or 0.0) < 0.05 for entry in others]
    assert {entry.encoder for entry in others if entry.is_ruled_out} >= {"weak", "baseline"}


@pytest.mark.parametrize("means", [np.zeros(3), np.zeros(12), -0.5 * np.arange(8), np.repeat([0.0, -6.0], 5)])
def test_truly_best_row_is_rarely_ruled_out(means: np.ndarray) -> None:
    rng, ruled_out, n = np.random.default_rng(0), 0, 2000
    for scores in means + rng.normal(size=(n, len(means))):
        p_values = 2 * norm.sf((scores.max() - np.delete(scores, scores.argmax())) / np.sqrt(2))
        corrected = dict(zip(np.delete(np.arange(len(means)), scores.argmax()), holm_correction(p_values), strict=True))
        ruled_out += (corrected.get(0) or 1.0) < 0.05
    assert ruled_out / n < 0.035


def test_sizes_times_and_inner_losses_are_those_of_the_folds(boards: dict[str, Leaderboard]) -> None:
    entries = {entry.title: entry for entry in boards["genre"].entries}
    strong = entries["strong, all layers"]
    assert (strong.embedding, strong.parameters, strong.seconds) == (10, 1000, (35.0, 65.0))
    assert strong.inner == pytest.approx(np.mean(INNER["strong", "all"]))
    baseline = entries["baseline, mel, chroma statistics"]
    assert (baseline.inner, baseline.embedding, baseline.seconds) == (None, None, None)
    mean = {entry.title: entry for entry in boards["mean"].entries}
    expected = np.mean([(0.1 + 4000 / 200**2) / 2 * loss for loss in INNER["close", "all"]])
    assert mean["close, all layers"].inner == pytest.approx(expected)


def test_choice_of_each_fold_is_scored_on_its_test_clips(boards: dict[str, Leaderboard]) -> None:
    board = boards["genre"]
    assert board.chosen is not None and board.chosen.title == "close, all layers"
    assert board.choices == {"close, all layers": 1, "strong, all layers": 1}
    rows = list(ENCODERS)
    tables = [predictions(rows.index(row) + 1, ENCODERS[row]) for row in (("close", "all"), ("strong", "all"))]
    third = np.arange(CLIPS) % GROUPS % FOLDS
    mixed = pd.concat([tables[0][third != 1], tables[1][third == 1]])
    for target, score in (("genre", f1), ("mean", rho)):
        choice = boards[target].choice
        assert choice is not None and choice["value"] == pytest.approx(score(mixed))
        assert choice["low"] < choice["value"] < choice["high"]


def test_sentences_name_the_best_the_indistinguishable_rows_and_the_choice(boards: dict[str, Leaderboard]) -> None:
    board = boards["genre"]
    assert re.fullmatch(r"Best: strong, all layers, macro-F1 0\.\d\d \[0\.\d\d, \d\.\d\d\]\.", describe_best(board))
    equal = {f"{entry.encoder} ({entry.readout})" for entry in board.entries[1:] if not entry.is_ruled_out}
    found = re.fullmatch(
        r"Indistinguishable from it here: (.*)\. The other rows are ruled out as the best\.", describe_candidates(board)
    )
    assert found and set(found[1].split(", ")) == equal
    assert "close (all layers)" in equal and not any(title.startswith(("weak", "baseline")) for title in equal)
    assert re.fullmatch(
        r"The best of 5 test scores is optimistic\. Choose by the inner log-loss, which does not use the "
        r"test clips of a fold: it selects close, all layers \(row \d\)\. Selected again in each fold, the test score "
        r"is 0\.\d\d \[0\.\d\d, \d\.\d\d\], the score to expect of this choice\.",
        describe_choice(board),
    )
    best, *others = board.entries
    alike = [replace(entry, is_ruled_out=False) for entry in others]
    assert "these clips do not show which" in describe_candidates(replace(board, entries=[best, *alike]))
    only = [replace(entry, is_ruled_out=entry.is_baseline) for entry in others]
    assert describe_candidates(replace(board, entries=[best, *only])).startswith("Only the baseline is ruled out")
    worse = [replace(entry, is_ruled_out=True) for entry in others]
    assert describe_candidates(replace(board, entries=[best, *worse])) == "All other rows are ruled out as the best."
    untested = [replace(entry, p=None) for entry in others]
    assert "cannot be tested" in describe_candidates(replace(board, entries=[best, *untested]))
    first = next(entry for entry in others if entry.is_baseline)
    assert describe_best(replace(board, entries=[first, best])).startswith("No encoder is ahead of the baseline on mel")


def test_text_fits_the_terminal_and_files_contain_all_rows(boards: dict[str, Leaderboard], sweep: Path) -> None:
    ranked = [*boards.values()]
    *first, last = ranked[0].entries
    long = replace(last, encoder="facebook/wav2vec2-large-xlsr-53 by name", readout="layers 1, 2, 3, 4")
    ranked[0] = replace(ranked[0], entries=[*first, long])
    text = leaderboard_text(ranked, ["a remark"])
    assert max(map(len, text.splitlines())) <= 80
    assert "genre: 144 clips in 18 groups" in text and text.endswith("\n\na remark")
    paths = write_leaderboard(sweep, [*boards.values()], ["a <remark>"], "made")
    assert [path.name for path in paths] == ["leaderboard.csv", "leaderboard.md", "leaderboard.html"]
    rows = pd.read_csv(paths[0])
    assert len(rows) == 4 * 5 and set(rows["target"]) == set(boards)
    assert rows.query("target == 'genre'")["rank"].tolist() == [1, 2, 3, 4, 5]
    assert (sweep / rows["folder"][0] / "report.html").is_file()
    page = paths[2].read_text("utf-8")
    assert page.count("<figure>") == 4 and "a &lt;remark&gt;" in page and 'href="pooled/strong' in page
    for board in boards.values():
        assert describe_candidates(board) in paths[1].read_text("utf-8").replace("\\", "")
        assert describe_best(board) in page


def test_rows_without_all_folds_are_left_out_and_named(tmp_path: Path, write_probe: Callable[..., Path]) -> None:
    for number, row in enumerate([*ENCODERS][:2]):
        for fold in range(FOLDS):
            write_probe(tmp_path, number, row, fold, "genre")
    write_probe(tmp_path, 2, ("close", "all"), 0, "genre")
    failed = write_probe(tmp_path, 2, ("close", "all"), 1, "genre")
    (failed / "metrics.json").unlink()
    (failed / "train.log").write_text("2026-11-22 14:03:11,000 ERROR etude.cli.train: no such file\n")
    boards, remarks = build_leaderboards(compare([tmp_path], CompareOptions(out=tmp_path)))
    assert {entry.encoder for entry in boards[0].entries} == {"strong", "baseline"}
    assert "close_all, fold 1: failed: no such file." in remarks
    reason = "left out of genre, because it was scored on other clips than the other rows."
    assert f"close, all layers (fold 0): {reason}" in remarks


def test_rows_on_one_split_need_no_folds(tmp_path: Path, write_probe: Callable[..., Path]) -> None:
    for number, row in enumerate(ENCODERS):
        write_probe(tmp_path, number, row, 0, "genre")
    board = build_leaderboards(compare([tmp_path], CompareOptions(out=tmp_path)))[0][0]
    assert board.results["n"] == CLIPS // FOLDS and len(board.entries) == 5
    assert re.search(r"it selects close, all layers \(row \d\)\.$", describe_choice(board))


def test_sweep_without_finished_runs_has_an_error_message(tmp_path: Path, write_probe: Callable[..., Path]) -> None:
    (write_probe(tmp_path, 0, ("weak", "all"), 0) / "metrics.json").unlink()
    with pytest.raises(UserError, match="no run of the sweep is finished"):
        build_leaderboards(compare([tmp_path], CompareOptions(out=tmp_path)))
