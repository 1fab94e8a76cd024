"""Tests of the tables and maps at the end of a sweep, with failed and missing runs."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

from etude.errors import Refused
from etude.experiment import ensemble, start
from etude.experiment.ensemble import EnsembleOptions
from etude.reports.comparison.scores import best_and_worst_runs, read_runs
from etude.reports.maps import page
from etude.reports.maps.page import MapOptions
from etude.runs.folder import ENSEMBLE, RunFolder, write_metrics
from etude.sweeps.callback import SweepTable
from etude.sweeps.progress import STATUS

TABLES = {
    "genre": {
        "rows": ["backbone"],
        "cols": ["metric", "method"],
        "metrics": ["accuracy", "macro_f1"],
        "where": {"target": ["genre"], "method": ["reproduction", "improved"]},
    },
    "step9": {
        "rows": ["method", "pretrained"],
        "cols": ["target"],
        "where": {"target": ["valence", "energy"], "backbone": ["ast"], "method": ["reproduction", "improved"]},
    },
    "old": ["rows=backbone"],
    "nothing": {"rows": ["backbone"], "cols": ["target"], "where": {"backbone": ["cnn"]}},
}


@pytest.fixture
def sweep(make_run: Callable[..., Path], table: pd.DataFrame) -> Path:
    """Two settings with two seeds each, of which one setting predicts all clips correctly, and a failed run."""
    correct = table.assign(**{"genre.pred": table["genre.true"]})
    model = {"head": "linear", "task": "joint", "feature": "mel"}
    for method, predictions, backbone in (("improved", correct, "lstm"), ("reproduction", table, "ast")):
        for seed in (0, 1):
            values = {"seed": seed, "model": model | {"backbone": backbone}}
            changed = predictions.assign(**{"valence.pred": predictions["valence.pred"] + 0.01 * seed})
            folder = make_run(f"sweep/{method}_{backbone}_seed{seed}", table=changed, **values)
            record = json.loads((folder / "record.json").read_text())
            (folder / "record.json").write_text(json.dumps(record | {"name": f"{method}_{backbone}"}))
            transfer = {"train": "full", "init_from": f"elsewhere/{method}_first_seed{seed}"}
            config = {"seed": seed, "choices": {"experiment": f"{method}/step7/{backbone}"}, "transfer": transfer}
            config |= {"sweep": {"reproduction_ast": f"elsewhere/{seed}"}}
            (folder / "config.yaml").write_text(json.dumps(config))
            write_metrics(RunFolder(folder))
    failed = make_run("sweep/reproduction_ast_seed2", table=table)
    (failed / "record.json").unlink()
    (failed / "train.log").write_text("2026-11-22 14:03:11,000 ERROR etude.cli.train: it fell over\n")
    return failed.parent


def end(callback: SweepTable, folder: Path) -> None:
    callback.on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))


def refusal(callback: SweepTable) -> str:
    """Return the error message of a callback whose options are refused before the first job."""
    with pytest.raises(Refused) as refused:
        callback.on_multirun_start(OmegaConf.create({}))
    return str(refused.value.error)


def test_tables_separate_settings_and_average_over_seeds_only(
    sweep: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    end(SweepTable(OmegaConf.create(TABLES)), sweep)
    out = capsys.readouterr().out
    assert out.splitlines()[-2:] == [str(sweep / "genre.html"), str(sweep / "step9.html")]
    assert {path.name for path in sweep.glob("*.html")} == {"compare.html", "curves.html", "genre.html", "step9.html"}
    assert "old: left out: hydra.callbacks.table.tables.old: must be a mapping of options" in caplog.text
    assert "nothing: left out: --where backbone=cnn: no run has this value; the known values are" in caplog.text
    genre = (sweep / "genre.md").read_text()
    assert "mean ± sd over 2 seeds, same split" in genre
    assert (
        "| backbone | accuracy / reproduction | accuracy / improved | macro-F1 / reproduction | macro-F1 / improved |"
        in genre
    )
    assert "**1.00 ± 0.00**" in genre.split("| lstm |")[1].splitlines()[0]
    step9 = (sweep / "step9.md").read_text()
    assert step9.count("| reproduction | from reproduction\\_first |") == 1  # one origin for all seeds
    assert "improved" not in step9  # it has no AST
    assert "Different settings" not in genre + step9
    assert set(pd.read_csv(sweep / "genre.csv")["name"]) == {"reproduction_ast", "improved_lstm"}


PUBLISHED = {"source": "report, table 9", "data": "patreco", "columns": ["network", "rho"], "rows": [["AST", ".526"]]}
PAGE = {
    "name": "report",
    "title": "All tables",
    "sections": {
        "step9": {"title": "Step 9: transfer <b>", "text": "From genre.", "published": PUBLISHED},
        "genre": {"title": "Table 1: genre"},
        "nothing": {"title": "Table 2: CNN"},
    },
}


def test_page_contains_all_tables_in_order_with_intervals_times_and_missing_tables(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end(SweepTable(OmegaConf.create(TABLES), page=OmegaConf.create(PAGE)), sweep)
    assert capsys.readouterr().out.splitlines()[-1] == str(sweep / "report.html")
    html = (sweep / "report.html").read_text()
    titles = re.findall(r"<h2[^>]*>([^<]*)</h2>", html)
    assert titles == ["Table 1: genre", "Step 9: transfer &lt;b&gt;", "old", "Table 2: CNN", "Runs", "Interpretation"]
    assert "4 of 5 runs finished" in html
    assert "This table is left out: --where backbone=cnn: no run has this value" in html
    assert "failed: it fell over" in re.sub(r"<[^>]+>", "", html)
    assert "1.00 ± 0.00" in html
    assert "majority class / training mean" in html
    assert "report, table 9" not in html  # the runs have other data
    for run in sweep.glob("*_seed[01]/config.yaml"):
        config = json.loads(run.read_text())
        config["choices"]["data"] = "patreco"
        run.write_text(json.dumps(config))
    end(SweepTable(OmegaConf.create(TABLES), page=OmegaConf.create(PAGE)), sweep)
    assert "Published: report, table 9" in (sweep / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "report"}, "page.title: is missing"),
        ({"name": "report", "title": "T", "foo": 1}, "page.foo: is not an option; available: name, title, text"),
        ({"name": "../evil", "title": "T"}, "page.name: '../evil': is not a name of a page"),
        ({"name": "curves", "title": "T"}, "page.name: curves: is the name of another page of the sweep"),
        ({"name": "genre", "title": "T"}, "page.name: genre: is the name of another page of the sweep"),
        ("report", "page: must be a mapping"),
        ({"name": "r", "title": "T", "sections": {"a": "x"}}, "page.sections.a: must be a mapping"),
        ({"name": "r", "title": "T", "sections": {"a": {"titel": "x"}}}, "page.sections.a.titel: is not an option"),
        (
            {"name": "r", "title": "T", "sections": {"a": {"published": PUBLISHED | {"rows": [["AST"]]}}}},
            "page.sections.a.published.rows: ['AST'] has 1 cells instead of 2",
        ),
    ],
)
def test_wrong_options_of_the_page_are_refused(options: Any, message: str) -> None:
    assert refusal(SweepTable({"genre": TABLES["genre"]}, page=options)).startswith(f"hydra.callbacks.table.{message}")


def test_page_with_wrong_options_is_left_out(sweep: Path, caplog: pytest.LogCaptureFixture) -> None:
    end(SweepTable({"genre": TABLES["genre"]}, page={"name": "../evil", "title": "T"}), sweep)
    assert "page of the sweep: left out: hydra.callbacks.table.page.name: '../evil': is not a name" in caplog.text
    assert not (sweep.parent / "evil.html").exists()
    assert "Learning curves" in (sweep / "curves.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tables": ["genre"]}, "tables: must be a mapping of tables by name"),
        ({"tables": {"one": {"row": ["backbone"]}}}, "tables.one: row: is not an option of a table; available: rows"),
        ({"tables": {"one": {"metrics": ["f2"]}}}, "tables.one: --metric f2: is not one of "),
        ({"tables": {"one": {"rows": "backbone"}}}, "tables.one: rows: must be a list, such as [backbone]"),
        ({"maps": ["genre"]}, "maps: must be the name of a target, such as genre, or null; got ['genre']"),
        (
            {"tables": {"one": {}}, "page": {"name": "r", "title": "T", "sections": {"two": {}}}},
            "page.sections.two: is not a table of this sweep; available: one",
        ),
    ],
)
def test_wrong_options_are_refused_before_the_first_job(options: Any, message: str) -> None:
    assert refusal(SweepTable(**options)).startswith(f"hydra.callbacks.table.{message}")


def test_table_does_not_leave_the_folder_or_replace_a_page(sweep: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ("../esc", "compare", "<b>x</b>")
    tables = dict.fromkeys(names, TABLES["genre"])
    for name, table in tables.items():
        assert refusal(SweepTable({name: table})).startswith(f"hydra.callbacks.table.tables.{name}: ")
    end(SweepTable(tables), sweep)
    assert all(f"{name}: left out: " in caplog.text for name in names)
    assert "Paired tests" in (sweep / "compare.html").read_text()
    assert not (sweep.parent / "esc.html").exists()


def test_page_that_is_not_ours_is_kept(sweep: Path, caplog: pytest.LogCaptureFixture) -> None:
    (sweep / "report.html").write_text("mine")
    end(SweepTable(page=PAGE), sweep)
    assert "page of the sweep: left out: " in caplog.text
    assert (sweep / "report.html").read_text() == "mine"


def test_comparison_that_cannot_be_written_has_an_error_message(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sweep / "compare.html").write_text("mine")
    end(SweepTable(), sweep)
    assert "compare.html: exists and is not in" in capsys.readouterr().err
    assert (sweep / "compare.html").read_text() == "mine"


def test_rows_have_the_order_of_the_selected_values(sweep: Path) -> None:
    for order in (["ast", "lstm"], ["lstm", "ast"]):
        end(SweepTable({"one": {"rows": ["backbone"], "cols": ["target"], "where": {"backbone": order}}}), sweep)
        lines = (sweep / "one.md").read_text().splitlines()
        assert [line.split("|")[1].strip() for line in lines if line.startswith(("| ast", "| lstm"))] == order


def test_maps_show_the_best_and_the_worst_runs_on_validation(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[MapOptions] = []
    monkeypatch.setattr(page, "draw_maps", lambda o: calls.append(o) or o.out / "maps.html")
    end(SweepTable(maps="genre"), sweep)
    assert capsys.readouterr().out.splitlines()[-1] == str(sweep / "maps.html")
    (options,) = calls
    assert options.folders[0].name.startswith("improved_lstm_seed")
    assert {run.name.rpartition("_")[0] for run in options.folders} == {"improved_lstm", "reproduction_ast"}
    assert (options.dims, options.out) == ((2, 3), sweep)
    calls.clear()
    end(SweepTable(maps="tempo"), sweep)
    assert calls == []


def test_test_scores_do_not_select_runs(sweep: Path) -> None:
    runs = [run for run in read_runs(sweep) if run.status == "finished"]

    def scored(index: int, backbone: str, val: float | None, test: float) -> object:
        values = (("val", val), ("test", test))
        splits = {split: {"scores": {"macro_f1": {"value": value}}} for split, value in values}
        genre = {"kind": "label", "primary": "macro_f1", "splits": splits}
        return replace(runs[index], record={"model": {"backbone": backbone}}, metrics={"genre": genre})

    selected = [scored(0, "ast", 0.5, 0.1), scored(1, "ast", 0.4, 0.9), scored(2, "lstm", 0.2, 0.8)]
    assert best_and_worst_runs(selected, "genre") == [selected[0], selected[2]]  # type: ignore[arg-type, comparison-overlap]
    selected[0] = scored(0, "ast", 0.1, 0.9)
    assert best_and_worst_runs(selected, "genre") == [selected[1], selected[2], selected[0]]  # type: ignore[arg-type, comparison-overlap]
    selected[1] = scored(1, "ast", None, 0.9)
    assert best_and_worst_runs(selected, "genre") == [selected[2], selected[0]]  # type: ignore[arg-type, comparison-overlap]


def test_incomplete_or_earlier_ensemble_is_named(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed job is not left out of the mean without a message, and neither is a run that was added later."""
    monkeypatch.setattr(STATUS, "exit_status", 0)
    folders = [f"{sweep}/{name}" for name in ("improved_lstm_seed0", "improved_lstm_seed1")]
    shutil.copytree(folders[0], sweep / ENSEMBLE)
    record = json.loads((sweep / ENSEMBLE / "record.json").read_text())
    members = [{"name": Path(folder).name, "folder": folder} for folder in folders]
    record |= {"ensemble": {"members": members, "fewest": 2, "most": 2}}
    (sweep / ENSEMBLE / "record.json").write_text(json.dumps(record))
    (sweep / ENSEMBLE / "report.html").touch()
    assert RunFolder(sweep / ENSEMBLE).is_finished
    end(SweepTable(ensemble=True), sweep)
    assert "ensemble is the mean of other runs; remove it, and resume the sweep" in capsys.readouterr().err
    assert STATUS.exit_status == 1
    others = [path for path in sweep.glob("*_seed*") if str(path) not in folders]
    for path in others:
        shutil.rmtree(path)
    end(SweepTable(ensemble=True), sweep)
    assert "not averaged" not in capsys.readouterr().err
    shutil.rmtree(sweep / ENSEMBLE)
    (sweep / "jobs.csv").write_text("number,folder,status,reason\n9,9_mine,failed,no.pt: no such file\n", "utf-8")
    end(SweepTable(ensemble=True), sweep)
    assert "the runs are not averaged: 9_mine: failed: no.pt: no such file; etude ensemble" in capsys.readouterr().err
    assert not (sweep / ENSEMBLE).exists()


def test_leaderboard_names_failed_jobs_without_a_run_folder(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["number,folder,status,reason", "0,improved_lstm_seed0,done,", "9,9_mine,failed,no.pt: no such file"]
    rows += ["10,10_a,failed,data.split.fold=4: no such fold", "11,11_b,failed,data.split.fold=4: no such fold"]
    (sweep / "jobs.csv").write_text("\n".join(rows) + "\n", "utf-8")
    end(SweepTable(leaderboard=True), sweep)
    output = capsys.readouterr().out
    assert "9_mine: failed: no.pt: no such file" in output and output.count("9_mine") == 1
    assert "10_a, 11_b: failed: data.split.fold=4: no such fold" in output
    assert "9\\_mine: failed: no.pt" in (sweep / "leaderboard.md").read_text("utf-8")
    assert {"compare.html", "leaderboard.html", "leaderboard.csv"} <= {path.name for path in sweep.iterdir()}


def test_log_of_the_ensemble_contains_the_messages(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def log_members(options: EnsembleOptions) -> Path:
        out = options.runs[0] / ENSEMBLE
        start.lock_folder(out, resume=False)
        start.open_log(out)
        logging.getLogger("etude.experiment.ensemble").info("averaging 2 runs")
        start.close(out)
        return out

    monkeypatch.setattr(ensemble, "make_ensemble", log_members)
    monkeypatch.setattr(logging.getLogger(), "level", logging.WARNING)  # as in the process of a sweep
    end(SweepTable(ensemble=True), sweep)
    assert capsys.readouterr().out.startswith(str(sweep / ENSEMBLE / "report.html"))
    assert (sweep / ENSEMBLE / "train.log").read_text().endswith("INFO etude.experiment.ensemble: averaging 2 runs\n")
    assert logging.getLogger().level == logging.WARNING
