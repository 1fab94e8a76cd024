"""The two files of a run that everything else is made of, as they are found: whole, or a sentence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

TABLE, RECORD, METRICS = "predictions.parquet", "record.json", "metrics.json"
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
        whole = _recorded_hash(folder) in (None, file_hash(folder / TABLE))
    except (OSError, ValueError) as error:  # pyarrow's errors are of these
        raise UserError(f"{folder / TABLE}: cannot be read as a table; {ANEW}") from error
    if not whole:
        raise UserError(f"{folder / TABLE}: {CHANGED}; {ANEW}")
    if missing := [name for name in COLUMNS if name not in found.columns]:
        raise UserError(f"{folder / TABLE}: has no column {' and no column '.join(missing)}; {ANEW}")
    return found


def record(folder: Path) -> dict[str, Any]:
    """What a run says of itself.

    Raises:
        UserError: The file is damaged.
    """
    try:
        found = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder / RECORD}: cannot be read as JSON; {ANEW}") from error
    if not isinstance(found, dict) or not isinstance(found.get("targets"), dict):
        raise UserError(f"{folder / RECORD}: does not say the targets of a run; {ANEW}")
    if not intact(found):
        raise UserError(f"{folder / RECORD}: {CHANGED}; {ANEW}")
    if fault := _fault(found):
        raise UserError(f"{folder / RECORD}: {fault}; {ANEW}")
    return found


def _fault(record: dict[str, Any]) -> str:
    """Return which value of a record is not of its type, as a sentence; empty if there is none.

    Values may be missing, as in records of older versions.
    """
    for key in ("data", "model", "seconds"):
        if key in record and not isinstance(record[key], dict):
            return f"{key} must be an object"
    seconds = record.get("seconds")
    if seconds and not all(isinstance(seconds.get(key), int | float) for key in ("total", "train")):
        return "seconds must hold the numbers total and train"
    if not isinstance(record.get("data", {}).get("card", ""), str):
        return "data.card must be text"
    for name, target in record["targets"].items():
        if not isinstance(target, dict) or target.get("kind") not in ("label", "scalar"):
            return f"targets.{name} must be an object with the kind label or scalar"
        classes = target.get("classes", [])
        if target["kind"] == "label" and not (
            isinstance(classes, list) and classes and all(isinstance(one, str) for one in classes)
        ):
            return f"targets.{name}.classes must be a list of names"
    return ""


def metrics(folder: Path) -> dict[str, Any]:
    """Return the content of a run's metrics.json.

    Args:
        folder: The run's folder.

    Raises:
        UserError: The file is damaged.
    """
    path, remedy = folder / METRICS, f"make it anew: python scripts/report.py {folder}"
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON; {remedy}") from error
    if not isinstance(found, dict) or not isinstance(found.get("targets"), dict):
        raise UserError(f"{path}: holds no scores; {remedy}")
    if not intact(found):
        raise UserError(f"{path}: {CHANGED}; {remedy}")
    return found


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _recorded_hash(folder: Path) -> str | None:
    """Return the hash of the table that a run's record.json holds; None where it holds none or cannot be read."""
    try:
        found = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found.get(TABLE_HASH) if isinstance(found, dict) else None


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
