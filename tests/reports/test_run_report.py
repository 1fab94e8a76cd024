"""Tests of the numbers and texts of a run report."""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.reports.report_page import ReportPage, build_report

from etude.evaluation.formatting import LOWER_IS_BETTER, METRIC_ORDER, format_number


@pytest.mark.parametrize(("split", "title"), [("test", "Test"), ("val", "Validation (optimistic)")])
def test_tables_contain_scores_of_metrics_json(report: tuple[ReportPage, dict], split: str, title: str) -> None:
    page, metrics = report
    for name, target in {**metrics["targets"], "Mean of valence, energy, danceability": metrics["mean"]}.items():
        results = target["splits"][split]
        expected = []
        for metric in METRIC_ORDER[target["kind"]]:
            digits = 3 if metric in LOWER_IS_BETTER else 2
            scores = [results["scores"][metric]]
            for baseline in results["baselines"].values():
                scores += [baseline["scores"][metric], baseline["difference"][metric]]
            for score in scores:
                keys = ("value",) if score["low"] is None else ("value", "low", "high")
                expected += [("" if score[k] is None else str(score[k]), format_number(score[k], digits)) for k in keys]
        assert page.tables[f"{name}: {title}"] == expected


def test_classes_confusion_and_errors_match_metrics_and_predictions(
    report: tuple[ReportPage, dict], table: pd.DataFrame
) -> None:
    page, metrics = report
    results = metrics["targets"]["genre"]["splits"]["test"]
    values = [value for value, _ in page.tables["genre: scores per class"]]
    for row in results["per_class"]:
        for key in ("precision", "recall", "f1") if row["predicted"] else ("recall", "f1"):
            assert values.pop(0) == str(row[key])
    assert "never predicted" in page.text
    wrong = table[(table["split"] == "test") & (table["genre.true"] != table["genre.pred"])]
    columns = [c for c in table.columns if c.startswith("genre.score.")]
    confidence = wrong[columns].max(axis=1).sort_values(ascending=False)
    assert [float(v) for v, _ in page.tables["genre: most confident errors"]] == pytest.approx(list(confidence[:10]))
    n_correct = sum(results["confusion"][i][i] for i in range(4))
    assert f"{n_correct} of {results['n']} clips are on the diagonal." in page.text


def test_report_loads_nothing_from_a_network(report: tuple[ReportPage, dict]) -> None:
    page, _ = report
    for tag, attrs in page.tags:
        assert tag not in {"script", "link", "iframe", "img"}
        for key in ("src", "href", "xlink:href", "srcset", "action"):
            assert attrs.get(key, "#").startswith(("#", "data:")), (tag, attrs)
    style = "".join(page.texts)
    assert "@import" not in style and not re.search(r"url\((?!#)", style)


def test_strings_of_a_run_are_escaped(make_run, table: pd.DataFrame) -> None:
    hostile = "<script>alert('clip')</script>"
    changed = table.copy()
    row = changed["id"] == hostile
    columns = ["genre.true", "genre.pred", "genre.score.rock", "group", "valence.pred"]
    changed.loc[row, columns] = ["folk", "rock", 1, hostile, 9]
    data = {"title": hostile, "card": hostile, "note": hostile}
    git = {"commit": hostile, "dirty": False}
    page, _ = build_report(make_run(table=changed, command=hostile, data=data, git=git))
    assert page.text.count(hostile) >= 6
    assert "script" not in {tag for tag, _ in page.tags}


def test_report_is_accessible(report: tuple[ReportPage, dict]) -> None:
    page, _ = report
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.tags:
        if tag == "th":
            assert attrs["scope"] in {"col", "row"}
        if tag == "svg":
            assert attrs.get("aria-hidden") or (attrs["role"] == "img" and attrs["aria-label"])
        if attrs.get("href", "").startswith("#"):
            assert attrs["href"][1:] in ids
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_report_shows_command_versions_and_data(report: tuple[ReportPage, dict]) -> None:
    page, _ = report
    for text in (
        "train.py backbone=ast task=multitask",
        "844e9d2c0ffee844e9d2c0ffee844e9d2c0ffee0 with uncommitted changes",
        "9f86d081884c7d659a2feaa0c55ad015",
        "60303ae22b998861",
        "5,512,345 parameters",
        "CC-BY-4.0 (120)",
        "8 min 33 s",
        "the epoch was selected by these scores, so they are optimistic",
        "Limitations. The intervals are based on only 6 groups",
        "depth: 4",
    ):
        assert text in page.text, text
    # in the summary and in the section of three targets
    assert page.text.count("omputed from the signal, not rated by listeners.") == 6


def test_validation_without_monitor_is_not_called_optimistic(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    record = json.loads((copy / "record.json").read_text(encoding="utf-8"))
    record["model"] |= {"monitor": None, "best_score": None, "best_epoch": 12}
    (copy / "record.json").write_text(json.dumps(record), encoding="utf-8")
    page, _ = build_report(copy)
    assert "Validation (these scores were not used to select an epoch)" in page.text
    assert "12 epochs; predictions use the weights of epoch 12" in page.text
    assert "optimistic" not in page.text and "best by" not in page.text


def test_calibration_and_residuals_match_metrics_json(report: tuple[ReportPage, dict]) -> None:
    page, metrics = report
    measures = {
        "label": ("calibration", ("nll", "brier", "ece")),
        "scalar": ("agreement", ("bias", "sd", "lower", "upper")),
    }
    for name, target in metrics["targets"].items():
        group, keys = measures[target["kind"]]
        scores = target["splits"]["test"][group]
        expected = [(str(scores[k][e]), format_number(scores[k][e], 3)) for k in keys for e in ("value", "low", "high")]
        assert page.tables[f"{name}: {'residuals' if group == 'agreement' else group}"] == expected
    rows = [row for row in metrics["targets"]["genre"]["splits"]["test"]["calibration"]["bins"] if row["n"]]
    values = [float(value) for value, _ in page.tables["genre: confidence bins"]]
    assert values == [x for row in rows for x in (row["confidence"], *row["accuracy"].values()) if x is not None]


def test_report_contains_all_values_of_record(report: tuple[ReportPage, dict], run: Path) -> None:
    page, _ = report
    record = json.loads((run / "record.json").read_text("utf-8"))
    record["data"].pop("card")

    def leaves(value: object) -> list[object]:
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return [leaf for item in values for leaf in leaves(item)] if values is not None else [value]

    for leaf in leaves(record):
        assert json.dumps(leaf, ensure_ascii=False).strip('"') in page.text, leaf
    for key in ("command", "seed", "hardware", "versions", "git", "model", "data", "targets"):
        assert f'"{key}"' in page.text


def test_confusion_of_many_classes_is_a_list_of_pairs(make_run, table: pd.DataFrame) -> None:
    many = pd.concat([table[["id", "group", "split", "embedding"]]] * 5, ignore_index=True)
    names = np.array([f"class {i:03d}" for i in range(100)], dtype=object)
    true = many.index.to_numpy() // 3
    many = many.assign(id=[f"clip {i}" for i in many.index], **{
        "genre.true": names[true], "genre.pred": names[(true + 1) % 100],
        "genre.baseline.constant": names[0], "genre.baseline.linear": names[1],
    })  # fmt: skip
    targets = {"genre": {"kind": "label", "classes": list(names)}}
    page, metrics = build_report(make_run("many-classes", many, targets=targets))
    assert np.shape(metrics["targets"]["genre"]["splits"]["test"]["confusion"]) == (100, 100)
    assert "The matrix of 100 classes is too large for a page; it is in metrics.json." in page.text
    assert "50 of " in page.text and "pairs of a true and a different predicted class" in page.text
    assert "genre: confusion matrix" not in page.tables


@pytest.mark.parametrize("known", ["none", "some", None])
def test_report_makes_no_statement_on_unknown_groups(make_run, table: pd.DataFrame, known: str | None) -> None:
    """Without groups, no text mentions groups. Older records do not have the key, and the table shows it."""
    groups = table["group"].where(table.index >= 40) if known == "some" else None
    folder = make_run("a-run", table.assign(group=groups))
    record = json.loads((folder / "record.json").read_text())
    record["data"] |= {"disjoint": True} | ({"groups_known": known} if known else {})
    (folder / "record.json").write_text(json.dumps(record))
    page, _ = build_report(folder)
    assert "none of them in training" not in page.text
    assert "no group occurs in more than one split" not in page.text
    if known == "some":
        assert "no known group occurs in more than one split; clips with an unknown group may share" in page.text
        assert "have no known group. Each of them is resampled as its own group" in page.text
        return
    assert "unknown: clips of one artist may be in several splits" in page.text
    assert "30 clips with unknown groups" in page.text and "single clips are resampled" in page.text
    assert not re.search(r"\d+ groups|over groups|Groups are resampled", page.text)
    assert "training and test clips may share artists" in page.text


def test_fitted_baselines_are_described_and_old_ones_keep_their_name(make_run, table: pd.DataFrame, targets) -> None:
    fit = {"name": "RBF SVM on mel and chroma statistics", "penalty": {"C": 3.0, "gamma": 0.00028}, "seconds": 0.43}
    fit |= {"inner_score": 0.7, "remark": "no SVM for more than 1,500 training clips"}
    described = targets | {"genre": targets["genre"] | {"baselines": {"statistics": fit}}}
    page, metrics = build_report(make_run(table=table, targets=described))
    assert metrics["targets"]["genre"]["splits"]["test"]["baselines"]["statistics"]["penalty"] == fit["penalty"]
    for text in (
        "RBF SVM on mel and chroma statistics (C = 3, gamma = 0.00028): chosen by cross-validation on the clips "
        "that it was fitted to, fitted in 0.4 s. No SVM for more than 1,500 training clips.",
        "Network minus RBF SVM",
        "Network minus constant",
        "the RBF SVM on mel and chroma statistics",
    ):
        assert text in page.text
    old = table.rename(columns=lambda name: name.replace(".baseline.statistics", ".baseline.linear"))
    page, metrics = build_report(make_run("old", table=old))
    results = metrics["targets"]["genre"]["splits"]["test"]["baselines"]
    assert list(results) == ["constant", "linear"] and results["linear"]["name"] == "linear model on mel statistics"
    assert "Network minus linear" in page.text and "fitted in" not in page.text


def test_scores_without_intervals_are_described_as_such(make_run, table: pd.DataFrame) -> None:
    """A split with one group per class cannot be resampled, so its table has no brackets."""
    single = table.assign(group="artist of " + table["genre.true"].astype(str))
    page, metrics = build_report(make_run("one-group-per-class", single))
    assert metrics["targets"]["genre"]["splits"]["test"]["scores"]["macro_f1"]["low"] is None
    assert "Scores of the network have no confidence intervals, because the clips cannot be resampled." in page.text


@pytest.mark.parametrize(
    ("names", "shown"), [(("a", "b"), "a, b"), (("a", "a"), "outputs/sweep/0_a, outputs/sweep/1_a")]
)
def test_members_of_an_ensemble_are_told_apart(names: tuple[str, str], shown: str, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    record = json.loads((copy / "record.json").read_text())
    members = [{"name": name, "folder": f"outputs/sweep/{i}_{name}"} for i, name in enumerate(names)]
    record["ensemble"] = {"members": members, "fewest": 1, "most": 2}
    (copy / "record.json").write_text(json.dumps(record))
    page, _ = build_report(copy)
    assert f"Mean of 2 runs: {shown}." in page.text
    assert "<a href=" not in read_note(copy)


def read_note(run: Path) -> str:
    """Return the HTML of the note on the members of an ensemble."""
    return (run / "report.html").read_text("utf-8").partition("Mean of 2 runs: ")[2].partition("Each test clip")[0]


def test_members_of_an_ensemble_are_linked_if_they_exist(run: Path, tmp_path: Path) -> None:
    """Links are relative, so that they work after the folders were moved together."""
    copy = Path(shutil.copytree(run, tmp_path / "sweep" / "ensemble"))
    for name in ("0_a b", "1_<c>"):
        shutil.copytree(run, tmp_path / "sweep" / name)
    (tmp_path / "sweep" / "1_<c>" / "report.html").unlink(missing_ok=True)
    (tmp_path / "sweep" / "0_a b" / "report.html").touch()
    record = json.loads((copy / "record.json").read_text())
    members = [{"name": name, "folder": f"outputs/old/{name}"} for name in ("0_a b", "1_<c>", "2_gone")]
    record["ensemble"] = {"members": members, "fewest": 1, "most": 2}
    record["model"] |= {"backbone": "musicnn + efficientat", "feature": "musicnn + efficientat"}
    (copy / "record.json").write_text(json.dumps(record))
    build_report(copy)
    text = (copy / "report.html").read_text("utf-8")
    assert '<a href="../0_a%20b/report.html">0_a b</a>, <a href="../1_%3Cc%3E">1_&lt;c&gt;</a>, 2_gone' in text
    lead = text.partition('<p class="lead">')[2].partition("</p>")[0]
    assert lead.count("musicnn + efficientat") == 1
