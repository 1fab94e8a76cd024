"""Readers of the files of a run folder."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.errors import UserError
from etude.runs import schemas

if TYPE_CHECKING:
    import pandas as pd


log = logging.getLogger(__name__)
TABLE, RECORD, METRICS, CONFIG = "predictions.parquet", "record.json", "metrics.json", "config.yaml"
CURVES, SPLIT = "curves.csv", "split.csv"
COLUMNS = ("id", "group", "split")  # of every table of predictions, whatever its targets
CHECKSUM = "checksum"  # key of the hash of all other values
TABLE_HASH = "predictions_sha256"  # key of record.json
CHANGED = "was changed after it was written"
ANEW = "train the run anew, or take the file from where it is whole"


def table(folder: Path) -> pd.DataFrame:
    """A run's predictions, a row per clip.

    Args:
        folder: The run's folder.

    Raises:
        UserError: The file is damaged.
    """
    import pandas as pd

    try:
        found = pd.read_parquet(folder / TABLE, page_checksum_verification=True)
        stored = _stored_record(folder)
        whole = stored.get(TABLE_HASH) in (None, file_hash(folder / TABLE))
    except (OSError, ValueError) as error:  # pyarrow's errors are of these
        raise UserError(f"{folder / TABLE}: cannot be read as a table; {ANEW}") from error
    if not whole:
        raise UserError(f"{folder / TABLE}: {CHANGED}; {ANEW}")
    targets = {} if not stored or schemas.record_fault(stored) else stored["targets"]
    if targets and (fault := schemas.table_fault(found, targets)):
        raise UserError(f"{folder / TABLE}: does not fit {RECORD} ({fault}); {ANEW}")
    if missing := [name for name in COLUMNS if name not in found.columns]:  # also of a run whose record is damaged
        raise UserError(f"{folder / TABLE}: has no column {' and no column '.join(missing)}; {ANEW}")
    return found


def record(folder: Path) -> dict[str, Any]:
    """Return the content of a run's record.json.

    Args:
        folder: The run's folder.

    Raises:
        UserError: The file is damaged.
    """
    found = _sealed_targets(folder / RECORD, "does not say the targets of a run", ANEW)
    if fault := schemas.record_fault(found):
        raise UserError(f"{folder / RECORD}: is not the record of a run ({fault}); {ANEW}")
    return found


def metrics(folder: Path) -> dict[str, Any]:
    """Return the content of a run's metrics.json.

    Args:
        folder: The run's folder.

    Raises:
        UserError: The file is damaged.
    """
    remedy = f"make it anew: python scripts/report.py {folder}"
    found = _sealed_targets(folder / METRICS, "holds no scores", remedy)
    if fault := schemas.metrics_fault(found):
        raise UserError(f"{folder / METRICS}: holds no scores of a run ({fault}); {remedy}")
    return found


def _sealed_targets(path: Path, without: str, remedy: str) -> dict[str, Any]:
    """Return the content of a JSON file that holds values by target and is as it was written.

    Args:
        path: The file.
        without: The sentence for one without targets.
        remedy: What to do about a damaged one.

    Raises:
        UserError: The file is damaged.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON; {remedy}") from error
    if not isinstance(found, dict) or not isinstance(found.get("targets"), dict):
        raise UserError(f"{path}: {without}; {remedy}")
    if not intact(found):
        raise UserError(f"{path}: {CHANGED}; {remedy}")
    return found


def config(folder: Path) -> dict[str, Any]:
    """Return the content of a run's config.yaml.

    Args:
        folder: The run's folder.

    Raises:
        UserError: The file is damaged.
    """
    import yaml

    path = folder / CONFIG
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: is not a config; it holds no settings by name")
    return {str(key): value for key, value in found.items()}


def curves(folder: Path) -> pd.DataFrame:
    """Return a run's curves.csv, a row per logged step; empty where it is missing.

    A damaged file is no reason to refuse a page: it is empty then too, and a warning names it. A cell that should be a
    number and is none counts as empty.

    Args:
        folder: The run's folder.
    """
    import pandas as pd

    path = folder / CURVES
    if not path.is_file() or not path.stat().st_size:
        return pd.DataFrame()
    try:
        found = pd.read_csv(path)
    except (OSError, ValueError, RecursionError) as error:  # pandas' errors are of these
        log.warning("%s: cannot be read, its curves are left out (%s)", path, " ".join(str(error).split())[:200])
        return pd.DataFrame()
    with np.errstate(all="ignore"):
        return found.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)


def split(folder: Path) -> dict[str, str]:
    """Return the part of each clip by its id, from a run's split.csv; empty where it is missing.

    Args:
        folder: The run's folder.

    Raises:
        UserError: The file is damaged.
    """
    import pandas as pd

    path = folder / SPLIT
    if not path.is_file():
        return {}
    try:
        found = pd.read_csv(path, dtype=str, keep_default_na=False)
        return dict(zip(found["id"], found["split"], strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as a table with the columns id and split; {ANEW}") from error


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stored_record(folder: Path) -> dict[str, Any]:
    """Return the content of a run's record.json; empty where there is none or it cannot be read."""
    try:
        found = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file with its checksum, by which `intact` notices a changed number."""
    return content | {CHECKSUM: _checksum(content)}


def intact(content: dict[str, Any]) -> bool:
    """Return whether the content of a JSON file has its checksum; a file without one, of an older version, has."""
    return CHECKSUM not in content or content[CHECKSUM] == _checksum(content)


def _checksum(content: dict[str, Any]) -> str:
    """Return the SHA-256 of all values but the checksum itself, as JSON has them."""
    rest = json.loads(json.dumps({key: value for key, value in content.items() if key != CHECKSUM}))
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
