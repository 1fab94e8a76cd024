"""Schemas of a run's JSON files and table.

A schema is one of these:

- a type or a tuple of types;
- a list with the schema of its items;
- a mapping from keys to schemas. The key `*` means all keys. A key that ends with `?` is optional. Its value may be
  null if its schema is a tuple of types.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from etude.evaluation.formatting import BASELINES, BUILT_IN

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
FIT: dict[str, Any] = {"penalty?": {"*": NUMBER}, "inner_score?": NUMBER, "seconds?": NUMBER, "remark?": TEXT}
BASELINE = {"name": TEXT, **FIT}
SPLIT = {
    **{
        "n": COUNT,
        "groups": COUNT,
        "ungrouped?": COUNT,
        "missing?": COUNT,
        "scores": SCORES,
        "per_class?": [CLASS_ROW],
    },
    **{"confusion?": [[COUNT]], "calibration?": CALIBRATION, "agreement?": SCORES},
    **{"learnable?": {"classes": [TEXT], "untrained?": [TEXT], "scores": SCORES}},
    **{
        "baselines": {
            "*": {
                **FIT,
                "name?": TEXT,
                "scores": SCORES,
                "difference?": SCORES,
                "differing_groups?": COUNT,
                "constant_differences?": [TEXT],
            }
        }
    },
}
FUNCTION = {"_target_": TEXT, "title?": TEXT, "lower_is_better?": (bool,), "on?": TEXT}
TARGET = {
    **{"kind": TEXT, "classes?": [TEXT], "low?": NUMBER, "high?": NUMBER, "note?": TEXT, "baselines?": {"*": BASELINE}},
    **{"train_classes?": {"*": COUNT}, "metrics?": {"*": FUNCTION}, "left_out?": {"*": TEXT}},
}
MEAN_ENTRY = {
    **{"targets": [TEXT], "kind": TEXT, "primary": TEXT, "low?": NUMBER, "high?": NUMBER},
    **{"splits": dict.fromkeys(("test", "val"), SPLIT | {"n_by_target": {"*": COUNT}})},
}
METRICS = {
    **{"version?": COUNT, "resamples?": COUNT, "level?": NUMBER, "mean?": MEAN_ENTRY},
    **{"targets": {"*": {**TARGET, "primary": TEXT, "splits": {"test": SPLIT, "val": SPLIT}}}},
}
DATA = {
    **dict.fromkeys(("name?", "title?", "card?", "note?", "hash?", "labels?", "split_hash?", "groups_known?"), TEXT),
    **dict.fromkeys(("split_kind?", "split_column?", "test_clips?"), TEXT),
    **{
        "clips?": COUNT,
        "seconds?": NUMBER,
        "licences?": {"*": COUNT},
        "fold?": (int, str),
        "folds?": COUNT,
        "fold_names?": (list,),
        "grouped?": COUNT,
        "groups?": COUNT,
        "shared_groups?": COUNT,
        "partitions?": COUNT,
        "unused?": {"*": COUNT},
        "skipped?": {"*": COUNT},
        "copies?": {"*": COUNT},
        "known_artists?": {"*": COUNT},
        "pooled?": (list,),
    },
    **{"splits?": {"*": {"clips": COUNT, "groups?": COUNT}}, "disjoint?": (bool,)},
}
PROBE = {
    **{"name": TEXT, "score": TEXT, "inner_score?": NUMBER_OR_NULL, "penalty": {"*": NUMBER}, "class_weight?": TEXT},
    **dict.fromkeys(("clips", "validation_clips", "folds", "groups"), COUNT),
    **{"candidates": [{"penalty": {"*": NUMBER}, "class_weight?": TEXT, "inner_score": NUMBER}]},
    **{"seconds": NUMBER, "at_end?": TEXT, "separated_groups?": COUNT, "constant_score?": NUMBER_OR_NULL},
}
MODEL = {
    **dict.fromkeys(("backbone?", "head?", "task?", "feature?", "monitor?", "stopped_by?"), TEXT),
    **{"parameters?": COUNT, "trainable?": COUNT, "epochs?": COUNT, "best_epoch?": COUNT, "best_score?": NUMBER},
    **{"weights?": TEXT, "embedding?": TEXT, "dim?": COUNT},
    **{"linear_probe?": {"*": PROBE}, "initial_heads?": {"*": PROBE}, "layer_weights?": {"*": NUMBER}},
}
EARLIER_RUN = {"name": TEXT, "data": TEXT, "clips": COUNT, "validation_clips": COUNT}
EARLIER_TRAINING = {
    **{
        "groups_checked?": (bool,),
        "overlap?": TEXT,
        "runs?": [EARLIER_RUN],
        "left_out_of?": [EARLIER_RUN],
        "unknown?": [TEXT],
    },
    **{"splits?": {"*": dict.fromkeys(("trained", "same_group", "validated", "left_out"), COUNT)}},
}
ENSEMBLE = {
    **{"members": [{"name": TEXT, "folder": TEXT}], "fewest": COUNT, "most": COUNT},
    "weights?": {"*": (list,)},
}
RECORD = {
    **{"targets": {"*": TARGET}, "name?": TEXT, "command?": TEXT, "started?": TEXT, "trial?": TEXT, "data?": DATA},
    **{"seconds?": {"train?": NUMBER, "total?": NUMBER}, "model?": MODEL, "versions?": {"*": (str, type(None))}},
    **{"git?": (dict,), "hardware?": (dict,), "earlier_training?": EARLIER_TRAINING},
    "ensemble?": ENSEMBLE,
}
VALIDATION = {"epoch": COUNT, "losses": {"val/loss": NUMBER}}
OVERFIT = {
    **{"first": VALIDATION, "last": VALIDATION, "threshold?": NUMBER, "clips": [{"id": TEXT, "target": TEXT}]},
    **{"targets": {"*": {"kind": TEXT, "classes?": [TEXT], "low?": NUMBER, "high?": NUMBER}}},
}
OVERFIT_CLIPS: dict[str, dict[str, Any]] = {
    "label": dict.fromkeys(("true", "first", "last"), TEXT)
    | dict.fromkeys(("first_probability", "last_probability"), NUMBER),
    "scalar": dict.fromkeys(("true", "first", "last"), NUMBER),
}
"""Further keys of a clip in overfit.json by kind of target."""


def find_fault(value: Any, schema: Any, path: str = "") -> str:
    """Return the first deviation of a value from its schema, or an empty string.

    Args:
        value: Parsed JSON.
        schema: Schema as described in the module.
        path: Keys that lead to the value, joined with dots.
    """
    if isinstance(schema, tuple):
        return "" if _has_type(value, schema) else f"{path or 'it'} is {_format_value(value)}"
    if isinstance(schema, list):
        if not isinstance(value, list):
            return f"{path or 'it'} is {_format_value(value)} and not a list"
        return next(filter(None, (find_fault(item, schema[0], f"{path}[{k}]") for k, item in enumerate(value))), "")
    if not isinstance(value, dict):
        return f"{path or 'it'} is {_format_value(value)} and not a mapping"
    for key, item in schema.items():
        name = key.removesuffix("?")
        if key == "*":
            faults = (find_fault(inner, item, f"{path}.{inner_key}".lstrip(".")) for inner_key, inner in value.items())
            if first := next(filter(None, faults), ""):
                return first
        elif key == name and name not in value:
            return f"{f'{path}.{name}'.lstrip('.')} is missing"
        elif (key == name or not _is_left_out(value, name, item)) and (
            first := find_fault(value[name], item, f"{path}.{name}".lstrip("."))
        ):
            return first
    return ""


def target_fault(name: str, target: dict[str, Any]) -> str:
    """Return the reason why a target that matches its schema cannot be used, or an empty string."""
    if target["kind"] == "label":
        classes = target.get("classes")
        return "" if classes and len(set(classes)) == len(classes) else f"{name} is a label without distinct classes"
    if target["kind"] != "scalar":
        return f"{name} is of the kind {_format_value(target['kind'])}; the kinds are label and scalar"
    low, high = target.get("low"), target.get("high")
    return "" if low is not None and high is not None and low < high else f"{name} is a scalar without a range"


def metrics_fault(content: Any) -> str:
    """Return the first fault of the content of metrics.json, or an empty string."""
    if first := find_fault(content, METRICS):
        return first
    for name, target in content["targets"].items():
        if first := target_fault(name, target):
            return first
    mean = [("mean", content["mean"])] if "mean" in content else []
    for name, target in [*content["targets"].items(), *mean]:
        if target["primary"] not in BUILT_IN:
            return f"{name} has the primary metric {_format_value(target['primary'])}, which is unknown"
        size, functions = len(target.get("classes") or ()), set(target.get("metrics") or ())
        if invalid := sorted(name for name in functions if name in BUILT_IN or not name.isidentifier()):
            return f"{name} has a metric with the name {_format_value(invalid[0])}"
        for split, results in target["splits"].items():
            if unknown := sorted(set(results["scores"]) - (BUILT_IN | functions)):
                return f"{name}.{split} has the score {_format_value(unknown[0])}, which is unknown"
            counts = results.get("confusion") or []
            if counts and [len(row) for row in counts] != [size] * size:
                return f"{name}.{split} has a confusion matrix of another size than its classes"
    return ""


def record_fault(content: Any) -> str:
    """Return the first fault of the content of record.json, or an empty string."""
    if first := find_fault(content, RECORD):
        return first
    return next(filter(None, (target_fault(name, target) for name, target in content["targets"].items())), "")


def overfit_fault(content: dict[str, Any]) -> str:
    """Return the first fault of the content of overfit.json, or an empty string. Losses and outputs can be infinite."""
    content = json.loads(json.dumps(content), parse_constant=lambda _: 0.0)
    if first := find_fault(content, OVERFIT):
        return first
    targets, clips = content["targets"], content["clips"]
    if not targets or not clips:
        return "there are no targets or no clips"
    if first := next(filter(None, (target_fault(name, target) for name, target in targets.items())), ""):
        return first
    for k, clip in enumerate(clips):
        if clip["target"] not in targets:
            return f"clips[{k}] has the target {_format_value(clip['target'])}, which is unknown"
        if first := find_fault(clip, OVERFIT_CLIPS[targets[clip["target"]]["kind"]], f"clips[{k}]"):
            return first
    return ""


def table_fault(table: DataFrame, targets: dict[str, Any]) -> str:
    """Return the first fault of a table of predictions, or an empty string.

    Args:
        table: Content of predictions.parquet.
        targets: Targets of a valid record.json.
    """
    if missing := [name for name in ("id", "group", "split") if name not in table.columns]:
        return f"there is no column {missing[0]}"
    if "out_of_fold" in table.columns and table["out_of_fold"].dtype.kind != "b":
        return "column out_of_fold does not contain true and false"
    if not table["id"].map(lambda clip_id: isinstance(clip_id, str)).all():
        return "ids are not strings"
    if len(duplicates := table["id"][table.duplicated(["id", "split"]) & (table["split"] == "test")]):
        # with pooled folds, a clip can be in the validation split several times
        return f"id {_format_value(duplicates.iloc[0])} is in the test split twice"
    for name, target in targets.items():
        columns = [f"{name}.true", f"{name}.pred"]
        if missing := [column for column in columns if column not in table.columns]:
            return f"there is no column {missing[0]}"
        columns += [column for key in BASELINES if (column := f"{name}.baseline.{key}") in table.columns]
        scores = [f"{name}.score.{class_name}" for class_name in target.get("classes") or ()]
        numeric = [column for column in scores if column in table.columns] if target["kind"] == "label" else columns
        if invalid := [column for column in numeric if not _is_numeric(table[column])]:
            return f"column {invalid[0]} is not numeric"
        for column in columns if target["kind"] == "label" else ():
            values = table[column].dropna()
            if len(unknown := values[~values.isin(target["classes"])]):
                return f"column {column} contains {_format_value(unknown.iloc[0])}, which is not a class of {name}"
    return _embedding_fault(table)


def check_error_clip(clip: dict[str, Any]) -> None:
    """Check the types of the values of a clip in errors/index.json by converting them as the report does."""
    float(clip.get("excerpt_seconds", 0)), float(clip.get("seconds", 0)), dict(clip.get("credit", {}).items())
    if clip.get("picture"):
        int(clip["length"])


def check_error_scale(scale: dict[str, Any]) -> None:
    """Check the types of the image scale in errors/index.json by converting its values as the report does."""
    float(scale["limits"][0]), float(scale["limits"][1]), int(scale["bins"])
    if scale.get("sound"):
        1 / float(scale["rate"]), [(float(position), str(label)) for position, label in scale["hertz"]]


def _embedding_fault(table: DataFrame) -> str:
    """Return the fault of the embedding column, or an empty string if it is valid or missing."""
    import numpy as np

    if "embedding" not in table.columns:
        return ""
    try:
        vectors = [np.asarray(value, dtype=np.float64) for value in table["embedding"].dropna()]
    except (TypeError, ValueError):
        vectors = [np.zeros(())]
    return "" if all(vector.ndim == 1 for vector in vectors) else "column embedding does not contain vectors"


def _is_numeric(column: Series) -> bool:
    """Return whether a column contains only finite numbers and missing values."""
    import numpy as np

    if column.dtype.kind not in "fiu" and not column.isna().all():
        return False
    return not np.isinf(column.to_numpy(dtype=np.float64, na_value=np.nan)).any()


def _is_left_out(value: dict[str, Any], name: str, schema: Any) -> bool:
    """Return whether an optional value is missing, or is null and has a tuple of types as its schema."""
    return name not in value or (value[name] is None and isinstance(schema, tuple))


def _has_type(value: Any, types: tuple[type, ...]) -> bool:
    """Return whether a value is finite and of one of the types. A bool is not an int."""
    if isinstance(value, bool):
        return bool in types
    return isinstance(value, types) and not (isinstance(value, float) and not math.isfinite(value))


def _format_value(value: Any) -> str:
    """Return the representation of a value, truncated to 39 characters."""
    text = repr(value)
    return text if len(text) < 40 else f"{text[:36]}..."
