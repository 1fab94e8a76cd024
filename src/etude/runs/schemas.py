"""Schemas of a run's JSON files and table.

A shape is a type or a tuple of types; a list with the shape of its items; or a mapping from keys to shapes, in which a
key that ends with `?` may be missing, or null where it has no structure of its own, and `*` stands for all keys.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from etude.evaluation.formatting import NAMES

if TYPE_CHECKING:
    from pandas import DataFrame, Series


NUMBER, NUMBER_OR_NULL, COUNT, TEXT = (int, float), (int, float, type(None)), (int,), (str,)
SCORE = {"value": NUMBER_OR_NULL, "low": NUMBER_OR_NULL, "high": NUMBER_OR_NULL}
SCORES = {"*": SCORE}
CLASS_ROW = {
    **{"class": TEXT, "precision": NUMBER_OR_NULL, "recall": NUMBER_OR_NULL, "f1": NUMBER_OR_NULL, "support": COUNT},
    **{"groups?": COUNT, "predicted?": COUNT},
}
BIN = {"from": NUMBER, "to": NUMBER, "n": COUNT, "confidence": NUMBER_OR_NULL, "accuracy": SCORE}
CALIBRATION = {
    **{"nll?": SCORE, "brier?": SCORE, "ece?": SCORE, "bins?": [BIN]},
    **{"chance?": {"mean": NUMBER_OR_NULL, "high": NUMBER_OR_NULL}},
}
SPLIT = {
    **{"n": COUNT, "groups": COUNT, "missing?": COUNT, "scores": SCORES, "per_class?": [CLASS_ROW]},
    **{"confusion?": [[COUNT]], "calibration?": CALIBRATION, "agreement?": SCORES},
    **{"baselines": {"*": {"name?": TEXT, "scores": SCORES, "difference?": SCORES}}},
}
TARGET = {"kind": TEXT, "classes?": [TEXT], "low?": NUMBER, "high?": NUMBER, "note?": TEXT}
METRICS = {
    **{"version?": COUNT, "resamples?": COUNT, "level?": NUMBER},
    **{"targets": {"*": {**TARGET, "primary": TEXT, "splits": {"test": SPLIT, "val": SPLIT}}}},
}
DATA = {
    **dict.fromkeys(("name?", "title?", "card?", "note?", "hash?", "labels?", "split_hash?"), TEXT),
    **{
        "clips?": COUNT,
        "seconds?": NUMBER,
        "licences?": {"*": COUNT},
        "fold?": COUNT,
        "folds?": COUNT,
        "pooled?": (list,),
    },
    **{"splits?": {"*": {"clips": COUNT, "groups": COUNT}}, "disjoint?": (bool,)},
}
MODEL = {
    **dict.fromkeys(("backbone?", "head?", "task?", "feature?", "monitor?"), TEXT),
    **{"parameters?": COUNT, "epochs?": COUNT, "best_epoch?": COUNT, "best_score?": NUMBER},
}
RECORD = {
    **{"targets": {"*": TARGET}, "name?": TEXT, "command?": TEXT, "started?": TEXT, "trial?": TEXT, "data?": DATA},
    **{"seconds?": {"train?": NUMBER, "total?": NUMBER}, "model?": MODEL, "versions?": {"*": (str, type(None))}},
    **{"git?": (dict,), "hardware?": (dict,)},
}


def fault(value: Any, shape: Any, where: str = "") -> str:
    """Return the first place where a value has another structure than its shape, or an empty string.

    Args:
        value: Parsed JSON.
        shape: What it should be; see the module.
        where: Keys that lead to the value.
    """
    if isinstance(shape, tuple):
        return "" if _is_one_of(value, shape) else f"{where or 'it'} is {_shown(value)}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where or 'it'} is {_shown(value)} and no list"
        return next(filter(None, (fault(item, shape[0], f"{where}[{k}]") for k, item in enumerate(value))), "")
    if not isinstance(value, dict):
        return f"{where or 'it'} is {_shown(value)} and holds no values by name"
    for key, item in shape.items():
        name = key.removesuffix("?")
        if key == "*":
            found = (fault(inner, item, f"{where}.{one}".lstrip(".")) for one, inner in value.items())
            if first := next(filter(None, found), ""):
                return first
        elif key == name and name not in value:
            return f"{f'{where}.{name}'.lstrip('.')} is missing"
        elif (key == name or not _is_left_out(value, name, item)) and (
            first := fault(value[name], item, f"{where}.{name}".lstrip("."))
        ):
            return first
    return ""


def target_fault(name: str, target: dict[str, Any]) -> str:
    """Return why a target that has its shape cannot be used, or an empty string."""
    if target["kind"] == "label":
        classes = target.get("classes")
        return "" if classes and len(set(classes)) == len(classes) else f"{name} is a label without distinct classes"
    if target["kind"] != "scalar":
        return f"{name} is of the kind {_shown(target['kind'])}; there are label and scalar"
    low, high = target.get("low"), target.get("high")
    return "" if low is not None and high is not None and low < high else f"{name} is a scalar without a range"


def metrics_fault(found: Any) -> str:
    """Return the first fault of the content of metrics.json, or an empty string."""
    if first := fault(found, METRICS):
        return first
    for name, target in found["targets"].items():
        if first := target_fault(name, target):
            return first
        if target["primary"] not in NAMES:
            return f"{name} has the leading metric {_shown(target['primary'])}, which is unknown"
        size = len(target.get("classes") or ())
        for split, part in target["splits"].items():
            if unknown := sorted(set(part["scores"]) - set(NAMES)):
                return f"{name}.{split} has the score {_shown(unknown[0])}, which is unknown"
            counts = part.get("confusion") or []
            if counts and [len(row) for row in counts] != [size] * size:
                return f"{name}.{split} has a confusion matrix of another size than its classes"
    return ""


def record_fault(found: Any) -> str:
    """Return the first fault of the content of record.json, or an empty string."""
    first = fault(found, RECORD)
    return first or next(filter(None, (target_fault(name, one) for name, one in found["targets"].items())), "")


def table_fault(table: DataFrame, targets: dict[str, Any]) -> str:
    """Return the first fault of a table of predictions, or an empty string.

    Args:
        table: Content of predictions.parquet.
        targets: Those of a record.json without faults.
    """
    if missing := [name for name in ("id", "group", "split") if name not in table.columns]:
        return f"there is no column {missing[0]}"
    if not table["id"].map(lambda one: isinstance(one, str)).all():
        return "ids are not texts"
    if len(twice := table["id"][table.duplicated(["id", "split"]) & (table["split"] == "test")]):
        return f"id {_shown(twice.iloc[0])} is tested twice"  # pooled folds have a validation clip several times
    for name, target in targets.items():
        columns = [f"{name}.true", f"{name}.pred"]
        if missing := [column for column in columns if column not in table.columns]:
            return f"there is no column {missing[0]}"
        columns += [one for one in (f"{name}.baseline.constant", f"{name}.baseline.linear") if one in table.columns]
        scores = [f"{name}.score.{one}" for one in target.get("classes") or ()]
        numbers = [one for one in scores if one in table.columns] if target["kind"] == "label" else columns
        if odd := [one for one in numbers if not _is_numeric(table[one])]:
            return f"column {odd[0]} holds no numbers"
        for column in columns if target["kind"] == "label" else ():
            values = table[column].dropna()
            if len(unknown := values[~values.isin(target["classes"])]):
                return f"column {column} holds {_shown(unknown.iloc[0])}, which is no class of {name}"
    return _embedding_fault(table)


def check_error_clip(clip: dict[str, Any]) -> None:
    """Raise what the drawing of a clip of errors/index.json would raise for values of other types."""
    float(clip.get("heard", 0)), float(clip.get("seconds", 0)), dict(clip.get("credit", {}).items())
    if clip.get("picture"):
        int(clip["length"])


def check_error_scale(scale: dict[str, Any]) -> None:
    """Raise what the drawing of pictures of errors/index.json would raise for values of other types."""
    float(scale["limits"][0]), float(scale["limits"][1]), int(scale["bins"])
    if scale.get("sound"):
        1 / float(scale["rate"]), [(float(place), str(words)) for place, words in scale["hertz"]]


def _embedding_fault(table: DataFrame) -> str:
    """Return the fault of the column of embeddings, or an empty string where it has none or is missing."""
    import numpy as np

    if "embedding" not in table.columns:
        return ""
    try:
        vectors = [np.asarray(one, dtype=np.float64) for one in table["embedding"].dropna()]
    except (TypeError, ValueError):
        vectors = [np.zeros(())]
    return "" if all(one.ndim == 1 for one in vectors) else "column embedding holds no vectors"


def _is_numeric(column: Series) -> bool:
    """Return whether a column holds finite numbers and missing values only."""
    import numpy as np

    if column.dtype.kind not in "fiu" and not column.isna().all():
        return False
    return not np.isinf(column.to_numpy(dtype=np.float64, na_value=np.nan)).any()


def _is_left_out(value: dict[str, Any], name: str, shape: Any) -> bool:
    """Return whether an optional value is missing, or null where it has no structure of its own."""
    return name not in value or (value[name] is None and isinstance(shape, tuple))


def _is_one_of(value: Any, types: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types) and not (isinstance(value, float) and not math.isfinite(value))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:36]}..."
