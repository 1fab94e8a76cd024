"""Readers of the files of a run folder; `RunFolder` calls them."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import UserError
from etude.runs import schemas

if TYPE_CHECKING:
    import pandas as pd


log = logging.getLogger(__name__)
COLUMNS = ("id", "group", "split")  # of every table of predictions, whatever its targets
CHECKSUM = "checksum"  # key of the hash of all other values
TABLE_HASH = "predictions_sha256"  # key of record.json
CHANGED = "was changed after it was written"
ANEW = "train the run anew, or take the file from where it is whole"
MEDIA = (".png", ".ogg", ".mp3")  # of the files that an index of errors may name


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping that a JSON or YAML file holds, without a check of its structure or checksum.

    Raises:
        ValueError: The file cannot be read, or holds something else.
    """
    found = _parse(path)
    if not isinstance(found, dict):
        raise ValueError("it holds no values by name")
    return found


def _parse(path: Path) -> Any:
    """Return the content of a JSON or YAML file.

    Raises:
        ValueError: It cannot be read; the message says why on one line.
    """
    import yaml  # heavy for every start of the command line

    try:
        text = path.read_text("utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(_reason(error)) from error


def read_predictions(path: Path, record: Path) -> pd.DataFrame:
    """Return a run's predictions, a row per clip.

    Args:
        path: predictions.parquet.
        record: record.json of the same run, which holds the hash and the targets of the table; it may be missing.

    Raises:
        UserError: The file is damaged.
    """
    import pandas as pd

    try:
        found = pd.read_parquet(path, page_checksum_verification=True)
        stored = _stored_record(record)
        whole = stored.get(TABLE_HASH) in (None, file_hash(path))
    except (OSError, ValueError) as error:  # pyarrow's errors are of these
        raise UserError(f"{path}: cannot be read as a table; {ANEW}") from error
    if not whole:
        raise UserError(f"{path}: {CHANGED}; {ANEW}")
    targets = {} if not stored or schemas.record_fault(stored) else stored["targets"]
    if targets and (fault := schemas.table_fault(found, targets)):
        raise UserError(f"{path}: does not fit {record.name} ({fault}); {ANEW}")
    if missing := [name for name in COLUMNS if name not in found.columns]:  # also of a run whose record is damaged
        raise UserError(f"{path}: has no column {' and no column '.join(missing)}; {ANEW}")
    return found


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of a run's record.json.

    Raises:
        UserError: The file is damaged.
    """
    found = _sealed_targets(path, "does not say the targets of a run", ANEW)
    if fault := schemas.record_fault(found):
        raise UserError(f"{path}: is not the record of a run ({fault}); {ANEW}")
    return found


def read_metrics(path: Path) -> dict[str, Any]:
    """Return the content of a run's metrics.json.

    Raises:
        UserError: The file is damaged.
    """
    remedy = f"make it anew: python scripts/report.py {path.parent}"
    found = _sealed_targets(path, "holds no scores", remedy)
    if fault := schemas.metrics_fault(found):
        raise UserError(f"{path}: holds no scores of a run ({fault}); {remedy}")
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
        found = _parse(path)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON; {remedy}") from error
    if not isinstance(found, dict) or not isinstance(found.get("targets"), dict):
        raise UserError(f"{path}: {without}; {remedy}")
    if not intact(found):
        raise UserError(f"{path}: {CHANGED}; {remedy}")
    return found


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a run's config.yaml.

    Raises:
        UserError: The file is damaged.
    """
    try:
        found = _parse(path)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: is not a config; it holds no settings by name")
    return {str(key): value for key, value in found.items()}


def read_curves(path: Path) -> pd.DataFrame:
    """Return a run's curves.csv, a row per logged step; empty where it is missing.

    A damaged file is no reason to refuse a page: it is empty then too, and a warning names it. A cell that should be a
    number and is none counts as empty.
    """
    import numpy as np
    import pandas as pd

    if not path.is_file() or not path.stat().st_size:
        return pd.DataFrame()
    try:
        found = read_raw_curves(path)
    except UserError as error:
        log.warning("%s: cannot be read, its curves are left out (%s)", path, _reason(error.__cause__))
        return pd.DataFrame()
    with np.errstate(all="ignore"):
        return found.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)


def read_raw_curves(path: Path) -> pd.DataFrame:
    """Return a run's curves.csv, a row per logged step, every cell as it is.

    Raises:
        UserError: The file is missing or damaged.
    """
    import pandas as pd

    try:
        return pd.read_csv(path)
    except (OSError, ValueError, RecursionError) as error:  # pandas' errors are of these
        raise UserError(f"{path}: cannot be read as a table ({_reason(error)})") from error


def read_curve_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a run's curves.csv as texts by column, without pandas; empty where it is missing.

    Raises:
        OSError, ValueError, csv.Error: The file is damaged.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_split(path: Path) -> dict[str, str]:
    """Return the part of each clip by its id, from a run's split.csv; empty where it is missing.

    Raises:
        UserError: The file is damaged.
    """
    import pandas as pd

    if not path.is_file():
        return {}
    try:
        found = pd.read_csv(path, dtype=str, keep_default_na=False)
        return dict(zip(found["id"], found["split"], strict=True))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read as a table with the columns id and split; {ANEW}") from error


def read_trackers(path: Path) -> dict[str, str]:
    """Return a run's name in each tracker by the tracker's key, from trackers.json; empty where it is missing.

    Raises:
        ValueError: The file is damaged.
    """
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def read_worst_errors(path: Path, folder: Path) -> dict[str, Any]:
    """Return what a run kept of its worst errors.

    Args:
        path: errors/index.json.
        folder: The run's folder; a link that leads out of it is not followed.

    Returns:
        `scale`, what is said once for all pictures; `clips` by id; both empty where nothing was kept. `fault` says what
        is wrong with what is there.
    """
    found: dict[str, Any] = {"scale": {}, "clips": {}, "fault": ""}
    shown = path.relative_to(folder).as_posix()
    if not path.is_file():
        return found
    if not is_inside(path, folder):
        return found | {"fault": f"{shown} is a link that leads out of the run"}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        for clip in kept.pop("clips"):
            for kind in ("picture", "audio"):
                name = clip.get(kind)
                if name and (Path(name).name != name or Path(name).suffix not in MEDIA):
                    raise ValueError(f"{name!r} is no name of a picture or a sound")
                if name and not is_inside(path.parent / name, folder):
                    raise ValueError(f"{name!r} is a link that leads out of the run")
                if name and not (path.parent / name).is_file():
                    clip[kind] = None
            schemas.check_error_clip(clip)
            found["clips"][str(clip["id"])] = clip
        schemas.check_error_scale(kept)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        return {"scale": {}, "clips": {}, "fault": f"what is in {shown} cannot be read ({error})"}
    return found | {"scale": kept}


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path stays in a folder when its links are followed.

    A run folder may come from somebody else: a link in it must not bring other files of this machine into a page.
    """
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))  # does not raise for a loop of links


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stored_record(path: Path) -> dict[str, Any]:
    """Return the content of a run's record.json; empty where there is none or it cannot be read."""
    try:
        return read_mapping(path)
    except ValueError:
        return {}


def _reason(error: BaseException | None) -> str:
    """Return the message of an error on one line, of at most 200 characters."""
    return " ".join(str(error).split())[:200]


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
