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
from etude.evaluation.means import build_mean_scorer, encode_columns, known_values_mask
from etude.evaluation.measure import build_scorer, encode_column
from etude.evaluation.metrics import PRIMARY
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
SCRATCH = "CNN from scratch"  # with one split seed, because it takes the longest
ROWS: dict[str, str] = {
    "mel statistics": f"{EFFICIENTAT} readout.layers=[0] readout.pooling=mean_std",
    SCRATCH: "backbone=cnn",
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
            seeds = 1 if row == SCRATCH else seeds
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
    """Return the pooled results of a sweep, one for each split seed."""
    return [RunFolder(run) for run in sorted(find_runs(sweep / "pooled"))] if (sweep / "pooled").is_dir() else []


def score_test(runs: list[RunFolder]) -> dict[str, Any]:
    """Score the test predictions of repeated cross-validations and of the baseline on the same clips.

    The score is the mean over repeats and targets. A resample draws groups once for all of them.

    Args:
        runs: Pooled results of the repeats.

    Returns:
        `score`, `baseline` and `difference` with value, low and high; `metric`, `n` clips and `groups`.
    """
    targets = runs[0].record["targets"]
    first, spec = next(iter(targets.items()))
    tests = [run.predictions for run in runs]
    tests = [table[table["split"] == "test"].sort_values("id", ignore_index=True) for table in tests]
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
    means = []
    for suffix in ("pred", "baseline.statistics"):
        scored = [bootstrap.resampled_scores(score, columns(table, suffix), resamples) for table in tests]
        point, drawn = ({metric: np.mean([pair[i][metric] for pair in scored], axis=0)} for i in (0, 1))
        means.append((point, drawn))
    scores = [bootstrap.scores_with_intervals(*mean)[metric] for mean in means]
    difference = bootstrap.differences_with_intervals(*means)[metric]
    result = dict(zip(("score", "baseline"), scores, strict=True)) | {"difference": difference, "metric": metric}
    return result | {"n": len(kept), "groups": bootstrap.count_groups(groups)}


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
        rows: list[str] = []
        for row in ROWS:
            sweep = outputs / folder_name(name) / folder_name(row)
            if not (runs := pooled_runs(sweep)):
                continue
            if inner:
                score = inner_score(sweep)
                rows += [f"| {row} | {score:.4f} |"] if score is not None else []
                continue
            test = score_test(runs)
            jobs = [RunFolder(run) for run in find_runs(sweep) if run.parent.name != "pooled"]
            jobs = [run for run in jobs if run.is_finished]  # a sweep may be running
            seconds = np.median([run.record["seconds"]["total"] for run in jobs])
            rows.append(
                f"| {row} | {format_score(test['score'])} | {format_score(test['difference'])} | {seconds:.0f} |"
            )
            heading = (
                f"{name}: {NAMES[test['metric']]}, {test['n']} clips, {test['groups']} groups; baseline "
                f"{format_score(test['baseline'])}"
            )
        if rows and inner:
            lines += [
                f"{name}: inner score",
                "",
                "| row | negative log-loss or squared error |",
                "|---|---|",
                *rows,
                "",
            ]
        elif rows:
            lines += [
                heading,
                "",
                "| row | score | minus baseline | seconds of a run |",
                "|---|---|---|---|",
                *rows,
                "",
            ]
    return "\n".join(lines)


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
