"""Readers of the files of a run folder, which `RunFolder` calls."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import UserError, one_line_message
from etude.evaluation.formatting import register_metrics
from etude.files.journal import file_hash
from etude.runs import schemas

if TYPE_CHECKING:
    import pandas as pd


log = logging.getLogger(__name__)
COLUMNS = ("id", "group", "split")  # columns of every table of predictions
CHECKSUM = "checksum"  # key of the hash of all other values
TABLE_HASH = "predictions_sha256"  # key of record.json
CHANGED = "was changed after it was written"
RETRAIN = "train the run again, or restore the file from a copy"
MEDIA = (".png", ".ogg", ".mp3")  # file types in an index of errors


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a mapping from a JSON or YAML file without checking its structure or checksum.

    Raises:
        ValueError: The file cannot be read, or does not contain a mapping.
    """
    content = _load_json_or_yaml(path)
    if not isinstance(content, dict):
        raise ValueError("it is not a mapping")
    return content


def _load_json_or_yaml(path: Path) -> Any:
    """Read a JSON or YAML file.

    Raises:
        ValueError: The file cannot be read. The message has one line.
    """
    import yaml  # slow, so it is not imported at every start of the command line

    try:
        text = path.read_text("utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(one_line_message(error, 200)) from error


def read_predictions(path: Path, record: Path) -> pd.DataFrame:
    """Read a run's predictions, a row per clip.

    Args:
        path: predictions.parquet.
        record: record.json of the same run, with the hash and the targets of the table. It may be missing.

    Raises:
        UserError: The file is damaged.
    """
    import pandas as pd

    try:
        table = pd.read_parquet(path, page_checksum_verification=True)
        stored = _read_record_or_empty(record)
        unchanged = stored.get(TABLE_HASH) in (None, file_hash(path))
    except (OSError, ValueError) as error:  # pyarrow's errors are subclasses
        raise UserError(f"{path}: cannot be read as a table; {RETRAIN}") from error
    if not unchanged:
        raise UserError(f"{path}: {CHANGED}; {RETRAIN}")
    targets = {} if not stored or schemas.record_fault(stored) else stored["targets"]
    if targets and (fault := schemas.table_fault(table, targets)):
        raise UserError(f"{path}: does not match {record.name} ({fault}); {RETRAIN}")
    if missing := [name for name in COLUMNS if name not in table.columns]:  # checked even if the record is damaged
        raise UserError(f"{path}: has no column {' and no column '.join(missing)}; {RETRAIN}")
    return table


def read_record(path: Path) -> dict[str, Any]:
    """Read a run's record.json.

    Raises:
        UserError: The file is damaged.
    """
    record = _read_targets(path, "does not list the targets of a run", RETRAIN)
    if fault := schemas.record_fault(record):
        raise UserError(f"{path}: is not the record of a run ({fault}); {RETRAIN}")
    return record


def read_metrics(path: Path) -> dict[str, Any]:
    """Read a run's metrics.json.

    Raises:
        UserError: The file is damaged.
    """
    remedy = f"recreate it: etude report {path.parent}"
    metrics = _read_targets(path, "contains no scores", remedy)
    if fault := schemas.metrics_fault(metrics):
        raise UserError(f"{path}: the scores are invalid ({fault}); {remedy}")
    register_metrics(metrics["targets"])
    return metrics


def _read_targets(path: Path, fault: str, remedy: str) -> dict[str, Any]:
    """Read a JSON file with values by target, and verify its checksum.

    Args:
        path: The file.
        fault: Message for a file without targets.
        remedy: Remedy for a damaged file, as part of the message.

    Raises:
        UserError: The file is damaged.
    """
    try:
        content = _load_json_or_yaml(path)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON; {remedy}") from error
    if not isinstance(content, dict) or not isinstance(content.get("targets"), dict):
        raise UserError(f"{path}: {fault}; {remedy}")
    if not is_unchanged(content):
        raise UserError(f"{path}: {CHANGED}; {remedy}")
    return content


def read_config(path: Path) -> dict[str, Any]:
    """Read a run's config.yaml.

    Raises:
        UserError: The file is damaged.
    """
    try:
        content = _load_json_or_yaml(path)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not a config, because it is not a mapping")
    return {str(key): value for key, value in content.items()}


def read_curves(path: Path) -> pd.DataFrame:
    """Read a run's curves.csv, a row per logged step. Empty if the file is missing or damaged.

    A report can be written without curves, so a damaged file causes only a warning. A cell that is not a number counts
    as empty.
    """
    import numpy as np
    import pandas as pd

    if not path.is_file() or not path.stat().st_size:
        return pd.DataFrame()
    try:
        table = read_raw_curves(path)
    except UserError as error:
        log.warning(
            "%s: cannot be read, its curves are left out (%s)", path, one_line_message(error.__cause__ or error, 200)
        )
        return pd.DataFrame()
    with np.errstate(all="ignore"):
        return table.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)


def read_raw_curves(path: Path) -> pd.DataFrame:
    """Read a run's curves.csv, a row per logged step, without converting cells.

    Raises:
        UserError: The file is missing or damaged.
    """
    import pandas as pd

    try:
        return pd.read_csv(path)
    except (OSError, ValueError, RecursionError) as error:  # pandas' errors are subclasses
        raise UserError(f"{path}: cannot be read as a table ({one_line_message(error, 200)})") from error


def read_curve_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a run's curves.csv as strings by column, without pandas. Empty if the file is missing.

    Raises:
        OSError, ValueError, csv.Error: The file is damaged.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_split(path: Path) -> dict[str, str]:
    """Read the split of each clip by id from a run's split.csv. Empty if the file is missing.

    Raises:
        UserError: The file is damaged.
    """
    import pandas as pd

    if not path.is_file():
        return {}
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        return dict(zip(table["id"], table["split"], strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as a table with the columns id and split; {RETRAIN}") from error


def read_trackers(path: Path) -> dict[str, str]:
    """Read the run's name in each tracker, by key of the tracker, from trackers.json. Empty if the file is missing.

    Raises:
        ValueError: The file is damaged.
    """
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def read_worst_errors(path: Path, folder: Path) -> dict[str, Any]:
    """Read the saved worst errors of a run.

    Args:
        path: errors/index.json.
        folder: The run's folder. A link to a file outside of it is not followed.

    Returns:
        scale: Values common to all images; empty if no errors are saved.
        clips: Clips by id; empty if no errors are saved.
        fault: Reason why the errors cannot be used, or "".
    """
    result: dict[str, Any] = {"scale": {}, "clips": {}, "fault": ""}
    name_in_run = path.relative_to(folder).as_posix()
    if not path.is_file():
        return result
    if not is_inside(path, folder):
        return result | {"fault": f"{name_in_run} is a link to a file outside of the run"}
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        for clip in index.pop("clips"):
            for kind in ("picture", "audio"):
                name = clip.get(kind)
                if name and (Path(name).name != name or Path(name).suffix not in MEDIA):
                    raise ValueError(f"{name!r} is not the name of an image or audio file")
                if name and not is_inside(path.parent / name, folder):
                    raise ValueError(f"{name!r} is a link to a file outside of the run")
                if name and not (path.parent / name).is_file():
                    clip[kind] = None
            schemas.check_error_clip(clip)
            result["clips"][str(clip["id"])] = clip
        schemas.check_error_scale(index)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        return {"scale": {}, "clips": {}, "fault": f"{name_in_run} cannot be read ({error})"}
    return result | {"scale": index}


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path is inside a folder after all links are resolved.

    A run folder may come from another user. A link in it must not add other files of this machine to a page.
    """
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))  # also for a loop of links


def _read_record_or_empty(path: Path) -> dict[str, Any]:
    """Read a run's record.json. Empty if the file is missing or cannot be read."""
    try:
        return read_mapping(path)
    except ValueError:
        return {}


def add_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file with its checksum, which `is_unchanged` verifies."""
    return content | {CHECKSUM: _checksum(content)}


def is_unchanged(content: dict[str, Any]) -> bool:
    """Return whether the content of a JSON file matches its checksum, or has none, as in files of older versions."""
    return CHECKSUM not in content or content[CHECKSUM] == _checksum(content)


def _checksum(content: dict[str, Any]) -> str:
    """Return the SHA-256 of all values except the checksum itself, encoded as JSON."""
    rest = json.loads(json.dumps({key: value for key, value in content.items() if key != CHECKSUM}))
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
