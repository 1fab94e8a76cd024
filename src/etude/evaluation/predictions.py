"""Table of predictions, its columns as arrays, and selection of the worst errors.

The columns are:

- `id`, `group` and `split`;
- `members`, only in ensembles: the number of runs whose predictions are averaged;
- `out_of_fold`, only in runs of linear probes that are fitted to validation clips too: whether the predictions are from
  the inner folds, which are fitted without the clip. All other columns of predictions then have these predictions;
- for each target `<target>.true`, `<target>.pred`, and the predictions of the baselines: `<target>.baseline.constant`,
  `<target>.baseline.statistics`, and on request `<target>.baseline.shortcuts`. Runs of earlier versions have
  `<target>.baseline.linear` instead;
- for each class of a label the probability `<target>.score.<class>`;
- `embedding`, the input of the heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.errors import UserError
from etude.evaluation.linear_candidates import MIN_PROBABILITY, known_values

if TYPE_CHECKING:
    import pandas as pd
    from pandas import DataFrame


def assemble_predictions(
    clips: pd.DataFrame,
    splits: np.ndarray,
    rows: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    embedding: np.ndarray,
    targets: Mapping[str, Mapping[str, Any]],
    baselines: Mapping[str, Mapping[str, np.ndarray]],
    out_of_fold: np.ndarray | None = None,
    fitted_splits: Sequence[str] = ("train",),
) -> pd.DataFrame:
    """Combine predictions, true values and baselines in one table.

    Args:
        clips: All clips (N) with `id`, `group` and a column per target.
        splits: Split of each clip (N,).
        rows: Predicted clips (n,), as rows of `clips`.
        predicted: Probabilities (n, K) of a label or values (n,) of a scalar, by target.
        embedding: Embeddings (n, D).
        targets: Kind and classes of each target.
        baselines: Predictions of the fitted baselines for the predicted clips (n,), by target and name of the baseline.
        out_of_fold: Mask of the clips whose predictions are from inner folds (n,), bool. None adds no column.
        fitted_splits: Splits to whose clips the network and the baselines are fitted.

    Returns:
        The table (n rows).
    """
    import pandas as pd

    columns: dict[str, Any] = {name: clips[name].to_numpy()[rows] for name in ("id", "group")}
    columns["split"] = splits[rows]
    if out_of_fold is not None and out_of_fold.any():
        columns["out_of_fold"] = out_of_fold
    fitted = np.isin(splits, fitted_splits)
    for name, spec in targets.items():
        true = clips[name].to_numpy()
        columns[f"{name}.true"] = true[rows]
        if spec["kind"] == "label":
            classes = np.array(spec["classes"], dtype=object)
            columns[f"{name}.pred"] = classes[predicted[name].argmax(1)]
            columns |= {f"{name}.score.{c}": predicted[name][:, i] for i, c in enumerate(classes)}
        else:
            columns[f"{name}.pred"] = predicted[name].astype(np.float64)
        columns[f"{name}.baseline.constant"] = constant_baseline(true[fitted], spec["kind"])
        columns |= {f"{name}.baseline.{key}": values for key, values in baselines.get(name, {}).items()}
    columns["embedding"] = list(embedding.astype(np.float32))
    return pd.DataFrame(columns)


def constant_baseline(y_train: Iterable[Any], kind: str) -> str | float:
    """Return the majority class or the mean of the training split.

    It shows which score is possible without audio, from the distribution of the target.

    Args:
        y_train: True values of the training split. Missing values (None, nan) are ignored.
        kind: "label" for the majority class, with ties resolved by name, or "scalar" for the mean.

    Raises:
        ValueError: All values are missing.
    """
    _, values = known_values(y_train, kind)
    if kind == "scalar":
        return float(values.mean())
    names, counts = np.unique(values, return_counts=True)
    return str(names[counts.argmax()])


def encode_column(table: DataFrame, column: str, target: Mapping[str, Any]) -> np.ndarray:
    """Return a column as class indices (n,), int64, or as numbers (n,), float64.

    Raises:
        UserError: A value is missing, or is not one of the classes.
    """
    values = table[column]
    if values.isna().any():
        raise UserError(f"{values.isna().sum()} of {len(values)} clips have no {column}; the network may have diverged")
    if target["kind"] == "scalar":
        return values.to_numpy(dtype=np.float64)
    index = {name: i for i, name in enumerate(target["classes"])}
    unknown = sorted(set(values) - set(index))
    if unknown:
        raise UserError(f"{column} contains {unknown}, not among the classes {target['classes']}")
    return values.map(index).to_numpy(dtype=np.int64)


def class_probabilities(table: DataFrame, name: str, target: Mapping[str, Any]) -> np.ndarray | None:
    """Return the class probabilities (n, C) of a label, or None for a scalar and for a table without probabilities."""
    columns = [f"{name}.score.{class_name}" for class_name in target.get("classes", ())]
    if target["kind"] != "label" or not set(columns) <= set(table.columns):
        return None
    probability = table[columns].to_numpy(dtype=np.float64)
    if np.isnan(probability).any():
        count = np.isnan(probability).any(axis=1).sum()
        raise UserError(f"{count} of {len(table)} clips have no predicted probabilities for {name}")
    return probability


MOST_ERRORS = {"label": 10, "scalar": 6}
"""Maximum number of listed errors. Next to a scatter plot there is less space."""


def find_worst_errors(table: DataFrame, name: str, kind: str) -> dict[str, Any]:
    """Return the worst errors of one target on the test split, sorted from the worst.

    Args:
        table: Content of predictions.parquet.
        name: Name of the target.
        kind: `label` or `scalar`.

    Returns:
        rows: Id, group (None if unknown), true value, prediction and sort key of each error. The sort key is the
            probability of the wrong class, or the signed error of a scalar.
        errors: Number of errors.
        scored: Whether the table has the sort key.
    """
    test = table[(table["split"] == "test") & table[f"{name}.true"].notna()]
    if kind == "label":
        return _confident_errors(test, name)
    test = test.assign(_error=test[f"{name}.pred"] - test[f"{name}.true"])
    test = test.sort_values("_error", key=abs, ascending=False, kind="stable")
    return {"rows": _error_rows(test.head(MOST_ERRORS["scalar"]), name, "_error"), "errors": len(test), "scored": True}


def _confident_errors(test: DataFrame, name: str) -> dict[str, Any]:
    """Return the misclassified clips, sorted by decreasing confidence."""
    wrong = test[test[f"{name}.true"] != test[f"{name}.pred"]]
    columns = {c.removeprefix(f"{name}.score."): c for c in test.columns if c.startswith(f"{name}.score.")}
    if wrong.empty or not columns:
        return {"rows": [], "errors": len(wrong), "scored": bool(columns)}
    confidence = [row[columns[row[f"{name}.pred"]]] for _, row in wrong.iterrows()]
    wrong = wrong.assign(_confidence=confidence).sort_values("_confidence", ascending=False, kind="stable")
    return {
        "rows": _error_rows(wrong.head(MOST_ERRORS["label"]), name, "_confidence"),
        "errors": len(wrong),
        "scored": True,
    }


def _error_rows(table: DataFrame, name: str, sort_key: str) -> list[list[Any]]:
    """Return id, group, true value, prediction and sort key of each clip."""
    rows = table[["id", "group", f"{name}.true", f"{name}.pred", sort_key]]
    return rows.astype(object).where(rows.notna(), None).to_numpy().tolist()


def average_predictions(
    tables: Sequence[DataFrame],
    targets: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, Sequence[float]] | None = None,
) -> DataFrame:
    """Average the predictions of several networks, clip by clip.

    A clip is averaged over the tables that contain it in the same split. Its baselines are those of the first of them.

    Args:
        tables: Table of each network, with the clips that it may score.
        targets: Kind and classes of each target.
        weights: Weight of each network, by target. None for equal weights.

    Returns:
        The table with a row per clip and split. The column `members` contains the number of averaged networks.
        `embedding` is the concatenation of the embeddings if each clip has a prediction of every network; otherwise the
        column is missing.

    Raises:
        UserError: A clip has different true values or groups, or a table has no probabilities.
    """
    import pandas as pd

    entries = pd.concat([table.assign(_table=i) for i, table in enumerate(tables)], ignore_index=True)
    entries = entries.iloc[np.argsort(entries["split"].eq("test"), kind="stable")]
    row, keys = pd.factorize(pd.MultiIndex.from_frame(entries[["id", "split"]].astype(str)))
    first = np.unique(row, return_index=True)[1]
    members = np.bincount(row)
    columns: dict[str, Any] = {name: entries[name].to_numpy()[first] for name in ("id", "group", "split")}
    _check_equal(entries, row, first, "group")
    if "out_of_fold" in entries:
        marked = entries["out_of_fold"].fillna(False).to_numpy(dtype=bool)
        columns["out_of_fold"] = np.bincount(row, weights=marked) > 0
    columns["members"] = members
    number = entries["_table"].to_numpy()
    for name, spec in targets.items():
        weight = np.asarray((weights or {}).get(name) or np.full(len(tables), 1 / len(tables)), np.float64)[number]
        total = np.bincount(row, weights=weight)

        def mean(column: str, weight: np.ndarray = weight, total: np.ndarray = total) -> np.ndarray:
            if column not in entries or entries[column].isna().any():
                raise UserError(f"a run has no {column} for some of its clips, so its predictions cannot be averaged")
            return np.bincount(row, weights=weight * entries[column].to_numpy(dtype=np.float64)) / total

        _check_equal(entries, row, first, f"{name}.true")
        columns[f"{name}.true"] = entries[f"{name}.true"].to_numpy()[first]
        if spec["kind"] == "label":
            scores = {value: mean(f"{name}.score.{value}") for value in spec["classes"]}
            classes = np.array(spec["classes"], dtype=object)
            columns[f"{name}.pred"] = classes[np.stack([*scores.values()]).argmax(0)]
            columns |= {f"{name}.score.{value}": values for value, values in scores.items()}
        else:
            columns[f"{name}.pred"] = mean(f"{name}.pred")
        for column in map(str, tables[0].columns):
            if column.startswith(f"{name}.baseline.") and all(column in table for table in tables):
                columns[column] = entries[column].to_numpy()[first]
    if (members == len(tables)).all() and all("embedding" in table for table in tables):
        order = np.lexsort((number, row)).reshape(len(keys), len(tables))
        vectors = entries["embedding"].to_numpy()
        columns["embedding"] = [np.concatenate([vectors[i] for i in positions]) for positions in order]
    return pd.DataFrame(columns)


def _check_equal(entries: DataFrame, row: np.ndarray, first: np.ndarray, column: str) -> None:
    """Check that all entries of a clip have the same value.

    Raises:
        UserError: A clip has different values.
    """
    values = entries[column].astype(object).where(entries[column].notna(), None).to_numpy()
    if (different := values != values[first[row]]).any():
        clip = entries["id"].iloc[int(np.flatnonzero(different)[0])]
        raise UserError(f"clip {clip} has different values of {column} in these runs, so they are not averaged")


def fit_average_weights(
    tables: Sequence[DataFrame], targets: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[float]]:
    """Fit the weight of each network by the predictions of inner folds.

    The weights have the sum 1. They minimise the log-loss of a label or the squared error of a scalar on the clips with
    out-of-fold predictions of every network.

    Args:
        tables: Table of each network.
        targets: Kind and classes of each target.

    Raises:
        UserError: There are fewer than two such clips for a target.
    """
    from scipy.optimize import minimize
    from scipy.special import softmax

    marked = [table[table["out_of_fold"]] if "out_of_fold" in table else table.iloc[:0] for table in tables]
    common = set.intersection(*(set(table["id"]) for table in marked))
    aligned = [table[table["id"].isin(common)].sort_values("id", kind="stable") for table in marked]
    weights = {}
    for name, spec in targets.items():
        true = aligned[0][f"{name}.true"]
        known = true.notna().to_numpy()
        if known.sum() < 2:
            raise UserError(
                f"--weights: {known.sum()} clips with a {name} have predictions of the inner folds of all runs, and "
                "weights are fitted only to such clips; average linear probes of one split, or remove --weights"
            )
        columns = [_true_probabilities(table, name) if spec["kind"] == "label" else table[f"{name}.pred"].to_numpy()
                   for table in aligned]  # fmt: skip
        predicted = np.stack(columns)[:, known]

        def loss(z: np.ndarray, predicted: np.ndarray = predicted, true: Any = true[known], spec: Any = spec) -> float:
            mean = softmax(z) @ predicted
            if spec["kind"] == "label":
                return -float(np.log(np.maximum(mean, MIN_PROBABILITY)).mean())
            return float(((mean - true.to_numpy(dtype=np.float64)) ** 2).mean())

        weights[name] = softmax(minimize(loss, np.zeros(len(tables)), method="L-BFGS-B").x).tolist()
    return weights


def _true_probabilities(table: DataFrame, name: str) -> np.ndarray:
    """Return the probability of the true class of each clip (n,), NaN if the true class is missing."""
    probabilities = np.full(len(table), np.nan)
    for value in table[f"{name}.true"].dropna().unique():
        rows = (table[f"{name}.true"] == value).to_numpy()
        probabilities[rows] = table[f"{name}.score.{value}"].to_numpy(dtype=np.float64)[rows]
    return probabilities
