"""What helps when there is little to learn from: settings one at a time, over artist-disjoint folds and seeds.

python scripts/recipe.py run [NAME ...]     trains what is not there yet, into outputs/recipe
python scripts/recipe.py table              prints the table of docs/recipe.md from what is there

EFFICIENTAT names the file of its published weights, mn04_as_mAP_432.pt.
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
EFFICIENTAT = "backbone=efficientat backbone.weights=${oc.env:EFFICIENTAT}"
WHOLE = "augment=none data.crop=null"  # clips as they are: what leaves a frozen network is then kept
PROBE = f"{EFFICIENTAT} {WHOLE} transfer=probe head.norm=true trainer.max_epochs=30 optim.lr=5e-3"
LSTM, CNN, AST, SCALARS = "backbone=lstm", "backbone=cnn", "backbone=ast", "backbone=lstm task=multitask"

VARIANTS: dict[str, tuple[str, str | None]] = {  # overrides, and the variant that it is compared with
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


def run(names: list[str], folder: Path) -> int:
    """One multirun for each variant: five folds of three splits of the artists, each with a seed of its own."""
    status = 0
    for name in names:
        sweep = place(folder, name)
        if len(pooled(sweep)) == len(SEEDS.split(",")):
            continue
        words = [f"data.split.fold={FOLDS}", f"seed={SEEDS}", "data.split.seed=${seed}", f"hydra.sweep.dir={sweep}"]
        command = [sys.executable, str(ROOT / "train.py"), "-m", *words, *VARIANTS[name][0].split()]
        status |= subprocess.run(command, check=False).returncode
    return status


def pooled(sweep: Path) -> pd.DataFrame:
    """Score of the network and of the linear model by seed (a row each), mean over the targets of its pooled folds."""
    frame = collect(sweep)
    frame = frame[frame["fold"].fillna("").str.endswith("folds")]
    return frame.groupby("seed")[["value", "linear"]].mean()


def table(folder: Path) -> str:
    """Markdown: mean and standard deviation over the seeds, and how much better than what it is compared with."""
    lines = ["| setting | score | linear model | gain |", "|---|---|---|---|"]
    for name, (words, other) in VARIANTS.items():
        rows = pooled(place(folder, name))
        if rows.empty:
            continue
        own, linear = rows["value"], rows["linear"]
        gain = ""
        if other and len(before := pooled(place(folder, other))) == len(rows):
            gains = own - before["value"]
            gain = f"{gains.mean():+.3f} ({', '.join(f'{one:+.2f}' for one in gains)}) to {other}"
        shown = words.replace("${oc.env:EFFICIENTAT}", "<file>")
        lines.append(f"| {name}: `{shown}` | {own.mean():.3f} ± {own.std():.3f} | {linear.mean():.3f} | {gain} |")
    return "\n".join(lines)


def place(folder: Path, name: str) -> Path:
    """Where the sweep of a variant is."""
    return folder / re.sub(r"\W+", "_", name)


def main() -> int:
    """Train or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("names", nargs="*", metavar="NAME", help="; ".join(VARIANTS))
    parser.add_argument("--folder", type=Path, default=Path("outputs/recipe"))
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in VARIANTS]:
        parser.error(f"there is no {unknown[0]!r}; there are {'; '.join(VARIANTS)}")
    if options.what == "run":
        return run(options.names or list(VARIANTS), options.folder)
    print(table(options.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
