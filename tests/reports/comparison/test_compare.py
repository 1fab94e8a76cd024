"""Tests of the table of runs: scores, baselines, ranking on equal clips only, and selection of pairs."""

import json
from pathlib import Path

import pandas as pd
import pytest
from tests.commands import compare as main

from etude.reports.comparison.axes import CompareOptions
from etude.reports.comparison.compare import compare, show
from etude.reports.comparison.page import render_page
from etude.reports.comparison.scores import COLUMNS, collect
from etude.runs.folder import RunFolder, find_runs, write_metrics


@pytest.fixture
def sweep(make_run, table: pd.DataFrame) -> Path:
    """Sweep of two finished runs, the second with worse valence, and an unfinished run."""
    worse = table.assign(**{"valence.pred": 1 - table["valence.pred"]})
    runs = [make_run("sweep/0"), make_run("sweep/1", table=worse), make_run("sweep/2")]
    for run in runs[:2]:
        write_metrics(RunFolder(run))
    (runs[2] / "record.json").unlink()
    (runs[0] / ".hydra").mkdir()
    (runs[0] / ".hydra" / "config.yaml").write_text("not: a run")
    return runs[0].parent


def test_one_row_per_run_and_target(sweep: Path) -> None:
    frame = collect(sweep)
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 5 + 5 + 1  # four targets and the mean of the scalars
    metrics = json.loads((sweep / "1" / "metrics.json").read_text(encoding="utf-8"))
    results = metrics["targets"]["valence"]["splits"]["test"]
    row = frame[(frame["folder"] == str(sweep / "1")) & (frame["target"] == "valence")].iloc[0]
    assert row[["value", "low", "high"]].tolist() == list(results["scores"]["spearman"].values())
    assert row["statistics"] == results["baselines"]["statistics"]["scores"]["spearman"]["value"]
    assert pd.isna(row["constant"])
    assert (row["n"], row["groups"], row["seconds"]) == (results["n"], results["groups"], 512.8)
    assert (row["metric"], row["backbone"], row["task"]) == ("spearman", "ast", "multitask")


def test_unfinished_runs_are_listed(sweep: Path, capsys) -> None:
    frame = collect([sweep / "0", sweep / "2"])
    assert frame["status"].tolist() == ["finished"] * 5 + ["unfinished"]
    show([sweep / "0", sweep / "2"])
    show([sweep / "2"])
    out = capsys.readouterr().out
    assert out.count(" unfinished  ") == 5 + 1
    assert out.count("2: unfinished, without log messages.") == 2


def test_best_scores_are_marked_and_csv_is_written(sweep: Path, capsys) -> None:
    assert main([str(sweep)]) == 0
    out = capsys.readouterr().out
    first, second = (next(line for line in out.splitlines() if line.startswith(f"{i} ")) for i in (0, 1))
    assert first.count("*") == 5 and second.count("*") == 3  # equal but for valence and the mean
    assert "linear model" in out and "undefined" in out and "\x1b" not in out
    written = pd.read_csv(sweep / "compare.csv", dtype={"name": str})
    pd.testing.assert_frame_equal(written, collect(sweep), check_dtype=False)


def test_scores_on_different_splits_are_not_ranked(sweep: Path, capsys) -> None:
    path = sweep / "1" / "record.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["data"]["split_hash"] = "another"
    path.write_text(json.dumps(record), encoding="utf-8")
    show([sweep])
    out = capsys.readouterr().out
    assert "*" not in out and "scores are not comparable" in out


def test_single_run_has_no_csv_and_folder_without_runs_is_refused(sweep: Path, tmp_path: Path, capsys) -> None:
    assert main([str(sweep / "0")]) == 0
    assert not (sweep / "0" / "compare.csv").exists()
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
    assert "contains no run" in capsys.readouterr().err
    assert find_runs(sweep) == [sweep / "0", sweep / "1", sweep / "2"]


def test_jobs_are_sorted_by_number(tmp_path: Path) -> None:
    for job in (10, 9, 1):
        (tmp_path / f"{job}_genre").mkdir()
        (tmp_path / f"{job}_genre" / "config.yaml").touch()
    assert [path.name for path in find_runs(tmp_path)] == ["1_genre", "9_genre", "10_genre"]


def test_p_values_are_corrected_for_the_number_of_pairs(grid: Path) -> None:
    pairs = [pair for pair in compare([grid]).pairs if pair.target == "genre"]
    assert len(pairs) == 28 and {pair.family for pair in pairs} == {28}
    better = {(pair.a[2:6], pair.b[2:6]) for pair in pairs if pair.better}
    assert ("lstm", "cnn_") in better and ("cnn_", "cnn_") not in better


def test_only_runs_on_the_same_clips_are_paired(tmp_path: Path, write_run, make_table) -> None:
    write_run(tmp_path / "a", make_table(1))
    write_run(tmp_path / "b", make_table(2).sample(frac=1, random_state=0))  # the order of rows has no influence
    write_run(tmp_path / "c", make_table(3, split=1), split="other")
    changed = make_table(4)
    changed.loc[1, "genre.true"] = "jazz" if changed.loc[1, "genre.true"] != "jazz" else "rock"
    write_run(tmp_path / "d", changed)  # the same ids with another true value
    comparison = compare([tmp_path])
    assert [(p.a, p.b) for p in comparison.pairs if p.target == "genre"] == [("a", "b")]
    assert {(p.a, p.b) for p in comparison.pairs if p.target == "valence"} == {("a", "b"), ("a", "d"), ("b", "d")}
    assert "c, d: not tested on genre, because no other run was scored on the same clips." in comparison.remarks


def test_comparison_of_runs_with_unknown_groups_mentions_clips(tmp_path: Path, write_run, make_table) -> None:
    for name in "ab":
        write_run(tmp_path / name, make_table(ord(name)).assign(group=None))
    comparison = compare([tmp_path])
    notes = " ".join(comparison.tables[0].notes)
    assert "bootstrap over clips, because the groups of the clips, such as artists, are unknown" in notes
    assert comparison.frame["groups"].isna().all() and (comparison.frame["ungrouped"] == comparison.frame["n"]).all()
    page = render_page(comparison)
    assert "64 clips with unknown groups" in page and "64 groups" not in page
    partly = make_table(1)
    write_run(tmp_path / "c", partly.assign(group=partly["group"].where(partly.index > 30)))
    notes = " ".join(compare([tmp_path / "c"]).tables[0].notes)
    assert "bootstrap over groups; a clip with an unknown group is drawn as its own group" in notes


def test_few_groups_are_not_compared_as_many(tmp_path: Path, write_run, make_table, capsys) -> None:
    """A perfect and a useless run on two groups do not differ significantly."""
    for name, right, noise in (("good", 1.0, 0.0), ("bad", 0.0, 3.0)):
        table = make_table(1, right, noise)
        write_run(tmp_path / name, table.assign(group=[f"artist {i % 2}" for i in range(len(table))]))
    assert main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "p < 0.001" not in out and "is better" not in out
    assert "differ in only 2 groups, too few for a significant difference" in out
    assert "With fewer than 6 groups, no difference is significant." in out


def test_run_scored_on_training_clips_of_its_weights_is_not_tested(tmp_path: Path, write_run, make_table) -> None:
    """The weights of one of three runs were trained on test clips; the record of another has only left-out clips."""
    numbers = {"trained": 5, "same_group": 2, "validated": 0, "left_out": 0}
    for name, left_out in (("clean", None), ("drop", 7), ("allow", 0)):
        folder = write_run(tmp_path / name, make_table(seed=len(name)), backbone=name)
        record = json.loads((folder / "record.json").read_text("utf-8"))
        if left_out is not None:
            record["earlier_training"] = {"runs": [], "splits": {"test": numbers | {"left_out": left_out}}}
        (folder / "record.json").write_text(json.dumps(record), "utf-8")
    comparison = compare([tmp_path])
    (remark,) = [remark for remark in comparison.remarks if "optimistic" in remark]
    assert remark.startswith("allow: the initial weights were trained on 7 test clips")
    assert {frozenset((pair.a, pair.b)) for pair in comparison.pairs} == {frozenset(("clean", "drop"))}


def test_runs_before_and_after_a_change_of_labels_are_named(tmp_path: Path, write_run, make_table) -> None:
    """Runs of one table have equal settings although its labels changed, so a mean over seeds would mix both."""
    for seed in range(3):
        folder = write_run(tmp_path / f"run{seed}", make_table(seed), seed=seed, name=f"run{seed}")
        record = json.loads((folder / "record.json").read_text("utf-8"))
        record["data"]["labels"] = "changed" if seed == 2 else "l"
        (folder / "record.json").write_text(json.dumps(record), "utf-8")
    text = "the clips, groups or labels of made changed between these runs"
    assert [remark for remark in compare([tmp_path]).remarks if text in remark] == [
        f"run0, run1, run2: {text}, so their scores and means over them are not comparable."
    ]
    assert not any("changed" in remark for remark in compare([tmp_path / "run0", tmp_path / "run1"]).remarks)
    record = json.loads((tmp_path / "run1/record.json").read_text("utf-8"))
    record["data"]["hash"] = "other frames"
    (tmp_path / "run1/record.json").write_text(json.dumps(record), "utf-8")
    remarks = compare([tmp_path / "run0", tmp_path / "run1"]).remarks
    assert any("run0, run1: the audio or frames of made changed between" in remark for remark in remarks)


def test_trial_runs_are_hidden_beside_other_runs(tmp_path: Path, write_run, make_table) -> None:
    for name in ("first", "second"):
        write_run(tmp_path / name, make_table())
    path = tmp_path / "second" / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trial": "fast"}))
    comparison = compare([tmp_path], tests=False)
    assert [run.folder.name for run in comparison.runs] == ["first"]
    assert "1 trial run (debug=...) is hidden; --trials shows them." in comparison.remarks
    for folders, options in (([tmp_path], CompareOptions(trials=True)), ([tmp_path / "second"], None)):
        shown = compare(folders, options, tests=False)
        assert "second" in [run.folder.name for run in shown.runs]
        assert any("a trial run (debug=fast)" in remark for remark in shown.remarks)
