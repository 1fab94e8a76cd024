"""Compare encoders and their read-outs on several collections, over disjoint folds and several splits.

python scripts/encoder_table.py run [gtzan=FOLDER] [esc10=FOLDER] [--row ROW] [--repeats N]    train missing runs
python scripts/encoder_table.py table [--inner]                                                print Markdown tables

The demo clips are in the package. Two other collections are folders with tables of clips: `gtzan` with clips.csv
(tempo) and six_genres.csv (genre), and `esc10` with clips.csv (label and official folds). Collections without a folder
are skipped and named. Finished sweeps and jobs are not repeated, so an interrupted command can be given again.

Choose between rows by the inner score (`table --inner`), the score of the fitted clips in inner folds. It does not
depend on test clips.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from etude.evaluation import bootstrap
from etude.evaluation.formatting import NAMES, format_score
from etude.evaluation.means import build_mean_scorer, build_scorer, encode_columns, known_values_mask
from etude.evaluation.metrics import PRIMARY
from etude.evaluation.predictions import encode_column
from etude.runs.folder import RunFolder, find_runs

ROOT = Path(__file__).resolve().parents[1]
PROBE = "optim=linear_probe transfer=probe"
EFFICIENTAT = f"backbone=efficientat backbone.weights=mn04_as {PROBE}"
MUSICNN = {name: f"backbone=musicnn backbone.weights={name} {PROBE}" for name in ("msd", "mtt")}
ALL_LAYERS = "readout.layers=all readout.pooling="
POOLINGS = {"mean": "mean", "mean_std": "mean and deviation", "mean_max": "mean and maximum"}
EMBEDDINGS = {
    "penultimate": "last layer",
    "mean_pool": "pooled mean",
    "max_pool": "pooled maximum",
    "mean_max_pool": "pooled mean and maximum",
}
SCRATCH, TUNED = "CNN from scratch", "EfficientAT, fine-tuned"
ONE_SEED = (SCRATCH, TUNED)  # they take the longest
RECIPE = "EfficientAT, all layers, mean and maximum"  # of experiment=small
AVERAGES = {"average of EfficientAT and musicnn": (RECIPE, "musicnn MSD, all layers, mean and deviation")}
ROWS: dict[str, str] = {
    "mel statistics": f"{EFFICIENTAT} readout.layers=[0] readout.pooling=mean_std",
    SCRATCH: "backbone=cnn",
    TUNED: "experiment=finetune",
    "EfficientAT, last layer": EFFICIENTAT,
    **{f"EfficientAT, all layers, {title}": f"{EFFICIENTAT} {ALL_LAYERS}{name}" for name, title in POOLINGS.items()},
    **{
        f"musicnn {weights.upper()}, {title}": f"{overrides} backbone.embedding={name}"
        for weights, overrides in MUSICNN.items()
        for name, title in EMBEDDINGS.items()
    },
    **{
        f"musicnn {weights.upper()}, all layers, {title}": f"{overrides} {ALL_LAYERS}{name}"
        for weights, overrides in MUSICNN.items()
        for name, title in POOLINGS.items()
    },
}


@dataclass(frozen=True)
class Collection:
    """Collection of clips and its target.

    Args:
        overrides: Overrides of data and task.
        folds: Values of `data.split.fold`.
        folder: Name of the folder in the command, or None for clips of the package.
        table: Name of the table of clips in the folder.
        repeats: Largest number of split seeds.
    """

    overrides: tuple[str, ...]
    folds: str = "0,1,2,3,4"
    folder: str | None = None
    table: str = ""
    repeats: int = 1


def single_target(name: str, kind: str) -> tuple[str, ...]:
    """Return the overrides of a task with one target that has no option in the config."""
    return "task=genre", "~task.targets.genre", f"+task.targets.{name}={{_target_:etude.tasks.targets.{kind}}}"


TEMPO = ("data=table", "data.source.targets={tempo:[30,300]}", *single_target("tempo", "Scalar"))
LABEL = ("data=table", "data.source.targets={label:label}", *single_target("label", "Label"))
COLLECTIONS: dict[str, Collection] = {
    "demo, genre": Collection(("data=demo", "task=genre"), repeats=3),
    "demo, descriptors": Collection(("data=demo", "task=multitask"), repeats=3),
    "GTZAN mini, tempo": Collection(TEMPO, folder="gtzan", table="clips.csv"),
    "GTZAN mini, six genres": Collection(("data=table", "task=genre"), folder="gtzan", table="six_genres.csv"),
    "ESC-10, label": Collection(LABEL, "1,2,3,4,5", "esc10", "clips.csv"),
}


def train_missing(rows: list[str], folders: dict[str, Path], outputs: Path, repeats: int) -> int:
    """Run the sweeps that are not complete, and return the highest exit status."""
    status = 0
    for name, collection in COLLECTIONS.items():
        if collection.folder and collection.folder not in folders:
            print(f"{name}: skipped, because no folder is given; add {collection.folder}=FOLDER")
            continue
        for row in rows:
            sweep, seeds = outputs / folder_name(name) / folder_name(row), min(repeats, collection.repeats)
            seeds = 1 if row in ONE_SEED else seeds
            if len(pooled_runs(sweep)) >= seeds:
                continue
            overrides = [*collection.overrides, *ROWS[row].split(), f"outputs={outputs}"]
            overrides += [f"data.split.fold={collection.folds}", f"data.split.seed={','.join(map(str, range(seeds)))}"]
            if collection.folder:
                overrides.append(f"data.source.table={folders[collection.folder] / collection.table}")
            overrides.append(f"sweep.resume={sweep}" if sweep.is_dir() else f"hydra.sweep.dir={sweep}")
            print(f"{name}: {row}", flush=True)
            command = [sys.executable, str(ROOT / "train.py"), "-m", *overrides]
            status = max(status, subprocess.run(command, check=False).returncode)
    return status


def pooled_runs(sweep: Path) -> list[RunFolder]:
    """Return the pooled results of a sweep with all folds, one for each split seed."""
    runs = [RunFolder(run) for run in sorted(find_runs(sweep / "pooled"))] if (sweep / "pooled").is_dir() else []
    return [run for run in runs if len(run.record["data"]["pooled"]) == run.record["data"]["folds"]]


def read_tests(sweep: Path) -> list[pd.DataFrame]:
    """Return the pooled test predictions of a sweep, one table for each split seed, sorted by clip."""
    tables = [run.predictions for run in pooled_runs(sweep)]
    return [table[table["split"] == "test"].sort_values("id", ignore_index=True) for table in tables]


def same_folds(tests: list[pd.DataFrame], others: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Return the tables among `others` that have the folds of `tests`, in their order."""
    return [next(other for other in others if other["fold"].tolist() == table["fold"].tolist()) for table in tests]


def average_tables(tables: list[pd.DataFrame], targets: dict[str, Any]) -> pd.DataFrame:
    """Return the mean of predictions for the same clips, as `etude ensemble` computes it."""
    result = tables[0].copy()
    for name, spec in targets.items():
        if spec["kind"] == "scalar":
            result[f"{name}.pred"] = np.mean([table[f"{name}.pred"] for table in tables], axis=0)
            continue
        columns = [f"{name}.score.{value}" for value in spec["classes"]]
        result[columns] = np.mean([table[columns] for table in tables], axis=0)
        result[f"{name}.pred"] = np.array(spec["classes"], dtype=object)[result[columns].to_numpy().argmax(axis=1)]
    return result


def score_test(
    tests: list[pd.DataFrame], targets: dict[str, Any], reference: list[pd.DataFrame] | None
) -> dict[str, Any]:
    """Score the test predictions of repeated cross-validations, and their differences on the same clips.

    The score is the mean over repeats and targets. A resample draws groups once for all of them.

    Args:
        tests: Pooled test predictions of each repeat.
        targets: Kind, and classes or range, of each target.
        reference: Predictions of the recommended recipe for the same folds.

    Returns:
        `score`, `baseline`, `difference` (from the baseline) and, with a reference, `recipe` (the difference from it),
        each with value, low and high; `metric`, `n` clips and `groups`.
    """
    first, spec = next(iter(targets.items()))
    known = known_values_mask(tests[0], list(targets))
    kept = np.flatnonzero(known.any(axis=1))
    tests, known = [table.iloc[kept] for table in tests], known[kept]
    groups = tests[0]["group"].astype(object).where(tests[0]["group"].notna(), None).tolist()
    is_label, metric = spec["kind"] == "label", PRIMARY[spec["kind"]]

    def columns(table: pd.DataFrame, suffix: str) -> np.ndarray:
        if is_label:
            return encode_column(table, f"{first}.{suffix}", spec)
        return encode_columns(table, [f"{name}.{suffix}" for name in targets], known)

    true = columns(tests[0], "true")
    score = build_scorer(true, spec) if is_label else build_mean_scorer(true, known, errors=False)
    resamples = bootstrap.draw_resamples(groups, strata=true if is_label else None)

    def mean_scores(tables: list[pd.DataFrame], suffix: str) -> tuple[dict[str, Any], dict[str, Any]]:
        scored = [bootstrap.resampled_scores(score, columns(table, suffix), resamples) for table in tables]
        point, drawn = ({metric: np.mean([pair[i][metric] for pair in scored], axis=0)} for i in (0, 1))
        return point, drawn

    own, baseline = mean_scores(tests, "pred"), mean_scores(tests, "baseline.statistics")
    result: dict[str, Any] = {"metric": metric, "n": len(kept), "groups": bootstrap.count_groups(groups)}
    result["score"] = bootstrap.scores_with_intervals(*own)[metric]
    result["baseline"] = bootstrap.scores_with_intervals(*baseline)[metric]
    result["difference"] = bootstrap.differences_with_intervals(own, baseline)[metric]
    if reference:
        recipe = mean_scores([table.iloc[kept] for table in reference], "pred")
        result["recipe"] = bootstrap.differences_with_intervals(own, recipe)[metric]
    return result


def inner_score(sweep: Path) -> float | None:
    """Return the mean inner score over the runs and targets of a sweep, or None if they have no linear probes."""
    scores = [
        probe["inner_score"]
        for run in map(RunFolder, find_runs(sweep))
        if run.path.parent.name != "pooled" and run.is_finished
        for probe in (run.record["model"].get("linear_probe") or {}).values()
    ]
    return float(np.mean(scores)) if scores and None not in scores else None


def build_tables(outputs: Path, inner: bool) -> str:
    """Return a Markdown table for each collection, with a row for each finished sweep.

    Args:
        outputs: Folder of the sweeps.
        inner: Show inner scores instead of test scores.
    """
    lines: list[str] = []
    for name in COLLECTIONS:
        sweeps = {row: outputs / folder_name(name) / folder_name(row) for row in ROWS}
        sweeps = {row: sweep for row, sweep in sweeps.items() if pooled_runs(sweep)}
        if inner:
            scores = {row: inner_score(sweep) for row, sweep in sweeps.items()}
            rows = [f"| {row} | {score:.4f} |" for row, score in scores.items() if score is not None]
            heading = [f"{name}: inner score", "", "| row | negative log-loss or squared error |", "|---|---|"]
        else:
            heading, rows = test_rows(name, sweeps)
        if rows:
            lines += [*heading, *rows, ""]
    return "\n".join(lines)


def test_rows(name: str, sweeps: dict[str, Path]) -> tuple[list[str], list[str]]:
    """Return heading and rows of the test scores of a collection.

    Args:
        name: Name of the collection.
        sweeps: Folder of each finished sweep by row.
    """
    tests = {row: read_tests(sweep) for row, sweep in sweeps.items()}
    heading: list[str] = []
    rows: list[str] = []
    if not sweeps:
        return heading, rows
    targets = pooled_runs(next(iter(sweeps.values())))[0].record["targets"]
    for row, members in AVERAGES.items():
        if all(member in tests for member in members):
            first, *others = (tests[member] for member in members)
            aligned = zip(first, *(same_folds(first, other) for other in others), strict=True)
            tests[row] = [average_tables(list(tables), targets) for tables in aligned]
    for row, tables in tests.items():
        reference = same_folds(tables, tests[RECIPE]) if RECIPE in tests and row != RECIPE else None
        test = score_test(tables, targets, reference)
        seconds = sum(run_seconds(sweeps[member]) for member in AVERAGES.get(row, (row,)))
        recipe = format_score(test["recipe"]) if reference else ""
        cells = [row, format_score(test["score"]), format_score(test["difference"]), recipe, f"{seconds:.0f}"]
        rows.append(f"| {' | '.join(cells)} |")
        title = f"{name}: {NAMES[test['metric']]}, {test['n']} clips, {test['groups']} groups; baseline "
        heading = [
            title + format_score(test["baseline"]),
            "",
            f"| row | score | minus baseline | minus {RECIPE} | seconds of a run |",
            "|---|---|---|---|---|",
        ]
    return heading, rows


def run_seconds(sweep: Path) -> float:
    """Return the median duration of the runs of a sweep."""
    jobs = [RunFolder(run) for run in find_runs(sweep) if run.parent.name != "pooled"]
    # a sweep may be running
    return float(np.median([run.record["seconds"]["total"] for run in jobs if run.is_finished]))


def folder_name(text: str) -> str:
    """Return a name for a folder."""
    return re.sub(r"\W+", "_", text)


def named_folder(text: str) -> tuple[str, Path]:
    """Parse NAME=FOLDER."""
    name, _, folder = text.partition("=")
    names = sorted({collection.folder for collection in COLLECTIONS.values() if collection.folder})
    if name not in names or not Path(folder).is_dir():
        raise argparse.ArgumentTypeError(f"{text}: must be NAME=FOLDER, with one of the names {', '.join(names)}")
    return name, Path(folder).resolve()


def main() -> int:
    """Train missing runs or print the tables, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("folders", nargs="*", type=named_folder, metavar="NAME=FOLDER")
    parser.add_argument("--row", action="append", choices=list(ROWS), metavar="ROW", help="; ".join(ROWS))
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="largest number of split seeds")
    parser.add_argument("--outputs", type=Path, default=Path("outputs/encoders"), metavar="FOLDER")
    parser.add_argument("--inner", action="store_true", help="print inner scores instead of test scores")
    options = parser.parse_args()
    if options.action == "run":
        return train_missing(options.row or list(ROWS), dict(options.folders), options.outputs, options.repeats)
    print(build_tables(options.outputs, options.inner))
    return 0


if __name__ == "__main__":
    sys.exit(main())
