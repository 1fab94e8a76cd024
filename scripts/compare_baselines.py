"""Compare the baseline of runs with the linear model on mel statistics of version 0.1.

Both are fitted to the training clips of five folds that keep groups together, and their pooled test predictions are
compared by a paired bootstrap over groups. The old baseline chooses its penalty on the validation fold.

    python scripts/compare_baselines.py genre data=demo
    python scripts/compare_baselines.py tempo data=table data.source.table=clips.csv
    python scripts/compare_baselines.py label data=table data.source.table=clips.csv --folds clips.csv
"""

from __future__ import annotations

import argparse
import logging

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from etude.audio.clip_statistics import StatisticsFront, mel_statistics
from etude.data.from_overrides import PrepareOptions, datamodule_from_overrides
from etude.data.splits import Split
from etude.evaluation import bootstrap
from etude.evaluation.formatting import format_score
from etude.evaluation.linear_models import fit_linear_model
from etude.evaluation.means import build_scorer
from etude.evaluation.metrics import PRIMARY
from etude.evaluation.predictions import encode_column

N_FOLDS = 5


def fit_old_baseline(x: np.ndarray, y: np.ndarray, splits: np.ndarray, kind: str) -> np.ndarray:
    """Return the predictions of the linear model on mel statistics, with the best penalty on the validation split."""
    train, val = (splits == "train") & pd.notna(y), (splits == "val") & pd.notna(y)
    if kind == "label":
        models = [LogisticRegression(C=penalty, max_iter=2000) for penalty in (1e-3, 1e-2, 1e-1, 1.0)]
    else:
        models = [Ridge(alpha=penalty) for penalty in (1.0, 1e1, 1e2, 1e3, 1e4)]
    spec = {"kind": kind, "classes": sorted(set(y[train | val])) if kind == "label" else []}
    scores = []
    for model in (fitted := [make_pipeline(StandardScaler(), model).fit(x[train], y[train]) for model in models]):
        pred = model.predict(x[val])
        if kind == "label":
            table = pd.DataFrame({"true": y[val], "pred": pred})
            true, codes = (encode_column(table, column, spec) for column in ("true", "pred"))
            scores.append(float(build_scorer(true, spec)(codes, None)["macro_f1"][0]))
        else:
            scores.append(-float(np.mean((pred - y[val]) ** 2)))
    return np.asarray(fitted[int(np.argmax(scores))].predict(x))


def compare(target: str, overrides: list[str], folds: str | None, seed: int) -> None:
    """Print the scores of both baselines and their difference with 95 % intervals."""
    module = datamodule_from_overrides(PrepareOptions(overrides))
    pack, spec = module.open_pack(), module.targets[target]
    index, kind = pack.index, spec["kind"]
    y = index[target].to_numpy(dtype=object if kind == "label" else np.float64)
    clips = [pack.clip(row) for row in range(len(index))]
    old_x = np.stack([mel_statistics(clip[:, : module.feature.front.n_mels]) for clip in clips])
    new_x = np.stack([StatisticsFront().from_frames(clip) for clip in clips])
    if folds:
        table = pd.read_csv(folds, dtype=str).set_index("id")
        fold = np.unique(table["fold"].reindex(index["id"]).to_numpy(dtype=str), return_inverse=True)[1]
    pred = {name: np.empty(len(y), y.dtype) for name in ("old", "new")}
    names, seconds = [], 0.0
    for k in range(N_FOLDS):
        if folds:
            splits = np.select([fold == k, fold == (k + 1) % N_FOLDS], ["test", "val"], "train")
        else:
            splits = Split(folds=N_FOLDS, fold=k, seed=seed, stratify=target).assign(index)
        train, test = splits == "train", splits == "test"
        fitted = fit_linear_model(new_x[train], y[train], kind, index["group"][train].tolist())
        pred["old"][test] = fit_old_baseline(old_x, y, splits, kind)[test]
        pred["new"][test] = fitted.predict(new_x[test].astype(np.float64))
        names.append(fitted.name)
        seconds += fitted.seconds
    known = pd.notna(y)
    table = pd.DataFrame({"true": y, **pred})[known].reset_index(drop=True)
    true = encode_column(table, "true", spec)
    groups = index["group"][known].astype(object).where(index["group"][known].notna(), None).tolist()
    resamples = bootstrap.draw_resamples(groups, strata=true if kind == "label" else None)
    score, metric = build_scorer(true, spec), PRIMARY[kind]
    scores = {
        name: bootstrap.resampled_scores(score, encode_column(table, name, spec), resamples) for name in ("old", "new")
    }
    for name, (point, drawn) in scores.items():
        print(f"{name}: {metric} {format_score(bootstrap.scores_with_intervals(point, drawn)[metric], 3)}")
    difference = bootstrap.differences_with_intervals(scores["new"], scores["old"])[metric]
    print(f"new minus old: {format_score(difference, 3)}; {', '.join(names)}; {seconds:.1f} s for {N_FOLDS} fits")


def main() -> None:
    """Parse the arguments and compare the baselines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="name of the target")
    parser.add_argument("overrides", nargs="*", help="overrides of data, as in training")
    parser.add_argument("--folds", metavar="FILE", help="table with the columns id and fold; default: grouped folds")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the grouped folds")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    compare(options.target, options.overrides, options.folds, options.seed)


if __name__ == "__main__":
    main()
