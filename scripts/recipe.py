"""What helps when there is little to learn from: settings one at a time, over artist-disjoint folds and seeds.

python scripts/recipe.py run [NAME ...]     trains what is not there yet, into outputs/recipe
python scripts/recipe.py table              prints the table of docs/recipe.md from what is there
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = os.environ.get("ETUDE_WEIGHTS", "weights") + "/efficientat_mn04/mn04_as_mAP_432.pt"
FOLDS, SEEDS = "0,1,2,3,4", "0,1,2"
VARIANTS: dict[str, dict[str, list[str]]] = {}


def run(names: list[str], folder: Path) -> int:
    """One multirun for each variant: five folds of three splits of the artists, each with a seed of its own."""
    status = 0
    for name in names:
        sweep = folder / name
        if len(pooled(sweep)) == len(SEEDS.split(",")):
            continue
        words = [f"data.split.fold={FOLDS}", f"seed={SEEDS}", "data.split.seed=${seed}", f"hydra.sweep.dir={sweep}"]
        command = [sys.executable, str(ROOT / "train.py"), "-m", *words, *VARIANTS[name]["overrides"]]
        status |= subprocess.run(command, check=False).returncode
    return status


def pooled(sweep: Path) -> list[dict[str, float]]:
    """Score of the network and of the linear model in each pooled result of a sweep, mean over its targets."""
    scores = []
    for path in sorted(sweep.glob("pooled/*/metrics.json")):
        targets = json.loads(path.read_text("utf-8"))["targets"].values()
        seed = json.loads(path.with_name("record.json").read_text("utf-8"))["seed"]
        parts = [(target["primary"], target["splits"]["test"]) for target in targets]
        own = float(np.mean([part["scores"][metric]["value"] for metric, part in parts]))
        linear = float(np.mean([part["baselines"]["linear"]["scores"][metric]["value"] for metric, part in parts]))
        scores.append({"seed": seed, "network": own, "linear": linear})
    return sorted(scores, key=lambda row: row["seed"])


def table(folder: Path) -> str:
    """Markdown: mean and standard deviation over the seeds, and how much better than what it is compared with."""
    lines = ["| setting | score | linear model | against |", "|---|---|---|---|"]
    for name, about in VARIANTS.items():
        rows = pooled(folder / name)
        if not rows:
            continue
        own, linear = (np.array([row[key] for row in rows]) for key in ("network", "linear"))
        words = " ".join(about["overrides"]) or "the default"
        against = ""
        if (other := about.get("against")) and len(before := pooled(folder / other[0])) == len(rows):
            gains = own - np.array([row["network"] for row in before])
            against = f"{gains.mean():+.3f} of {other[0]} ({', '.join(f'{gain:+.2f}' for gain in gains)})"
        lines.append(f"| {name}: `{words}` | {own.mean():.3f} ± {own.std():.3f} | {linear.mean():.3f} | {against} |")
    return "\n".join(lines)
