"""Compare settings for small data sets, one at a time, over artist-disjoint folds and several seeds.

python scripts/recipe.py run [NAME ...]     train missing runs into outputs/recipe
python scripts/recipe.py table              print the rows of docs/explanations/small-collections.md that were run
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd

from etude.reports.comparison.scores import collect

ROOT = Path(__file__).resolve().parents[1]
FOLDS, SEEDS = "0,1,2,3,4", "0,1,2"
BEST, MIXUP = "callbacks=best_epoch", "augment=mixup"
EFFICIENTAT = "backbone=efficientat backbone.weights=mn04_as"
UNCHANGED = "augment=none data.crop=null"  # complete clips, so that the outputs of a frozen network can be cached
PROBE = f"{EFFICIENTAT} {UNCHANGED} transfer=probe head.norm=true trainer.max_epochs=30 optim.lr=5e-3"
LSTM, CNN, AST, SCALARS = "backbone=lstm", "backbone=cnn", "backbone=ast", "backbone=lstm task=multitask"

VARIANTS: dict[str, tuple[str, str | None]] = {  # overrides, and the variant for comparison
    "lstm": (LSTM, None),
    "lstm, best epoch": (f"{LSTM} {BEST}", "lstm"),
    "lstm, no augmentation": (f"{LSTM} augment=none", "lstm"),
    "lstm, mixup": (f"{LSTM} {MIXUP}", "lstm"),
    "lstm, gain": (f"{LSTM} augment.gain=10", "lstm"),
    "lstm, balanced classes": (f"{LSTM} task.targets.genre.class_weight=balanced", "lstm"),
    "lstm, label smoothing": (f"{LSTM} task.targets.genre.smoothing=0.1", "lstm"),
    "lstm, mean of weights": (f"{LSTM} callbacks=ema", "lstm"),
    "lstm, whole clips": (f"{LSTM} data.crop=null", "lstm"),
    "lstm, short crops": (f"{LSTM} data.crop=2.5", "lstm"),
    "cnn": (CNN, None),
    "cnn, best epoch": (f"{CNN} {BEST}", "cnn"),
    "cnn, mixup": (f"{CNN} {MIXUP}", "cnn"),
    "ast": (AST, None),
    "ast, best epoch": (f"{AST} {BEST}", "ast"),
    "ast, mixup": (f"{AST} {MIXUP}", "ast"),
    "efficientat, probe": (PROBE, None),
    "efficientat, probe, lower rate": (PROBE.replace("5e-3", "1e-3"), "efficientat, probe"),
    "efficientat, probe, dropout": (f"{PROBE} head.dropout=0.3", "efficientat, probe"),
    "efficientat, all": (f"{EFFICIENTAT} head.norm=true", "efficientat, probe"),
    "efficientat, all, mixup": (f"{EFFICIENTAT} {MIXUP} head.norm=true", "efficientat, all"),
    "scalars": (SCALARS, None),
    "scalars, bounded": (
        f"{SCALARS} task.targets.valence.bounded=true task.targets.energy.bounded=true "
        "task.targets.danceability.bounded=true",
        "scalars",
    ),
    "scalars, uncertainty": (f"{SCALARS} weighting=uncertainty", "scalars"),
    "scalars, random weights": (f"{SCALARS} weighting=random", "scalars"),
    "scalars, pcgrad": (f"{SCALARS} weighting=pcgrad", "scalars"),
}


def train_variants(names: list[str], folder: Path) -> int:
    """Run a sweep for each variant, with five folds of three splits of the artists and a different seed for each."""
    status = 0
    for name in names:
        sweep = sweep_folder(folder, name)
        if len(pooled_scores(sweep)) == len(SEEDS.split(",")):
            continue
        overrides = [f"data.split.fold={FOLDS}", f"seed={SEEDS}", "data.split.seed=${seed}", f"hydra.sweep.dir={sweep}"]
        command = [sys.executable, str(ROOT / "train.py"), "-m", *overrides, *VARIANTS[name][0].split()]
        status |= subprocess.run(command, check=False).returncode
    return status


def pooled_scores(sweep: Path) -> pd.DataFrame:
    """Return the scores of network and baseline by seed, as means over the targets of pooled folds."""
    frame = collect(sweep)
    frame = frame[frame["fold"].fillna("").str.endswith("folds")]
    return frame.groupby("seed")[["value", "statistics"]].mean()


def build_table(folder: Path) -> str:
    """Return a Markdown table of means and standard deviations over the seeds, and gains over the compared variant."""
    lines = ["| setting | score | linear model or SVM | gain |", "|---|---|---|---|"]
    for name, (overrides, other) in VARIANTS.items():
        rows = pooled_scores(sweep_folder(folder, name))
        if rows.empty:
            continue
        scores, baseline = rows["value"], rows["statistics"]
        gain = ""
        if other and len(reference := pooled_scores(sweep_folder(folder, other))) == len(rows):
            gains = scores - reference["value"]
            gain = f"{gains.mean():+.3f} ({', '.join(f'{value:+.2f}' for value in gains)}) to {other}"
        lines.append(
            f"| {name}: `{overrides}` | {scores.mean():.3f} ± {scores.std():.3f} | {baseline.mean():.3f} | {gain} |"
        )
    return "\n".join(lines)


def sweep_folder(folder: Path, name: str) -> Path:
    """Return the folder of the sweep of a variant."""
    return folder / re.sub(r"\W+", "_", name)


def main() -> int:
    """Train missing runs or print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("names", nargs="*", metavar="NAME", help="; ".join(VARIANTS))
    parser.add_argument("--folder", type=Path, default=Path("outputs/recipe"))
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in VARIANTS]:
        parser.error(f"{unknown[0]!r}: there is no such variant; available: {'; '.join(VARIANTS)}")
    if options.action == "run":
        return train_variants(options.names or list(VARIANTS), options.folder)
    print(build_table(options.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
