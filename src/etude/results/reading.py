"""The two files of a run that everything else is made of, as they are found: whole, or a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

TABLE, RECORD = "predictions.parquet", "record.json"
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
        return pd.read_parquet(folder / TABLE)
    except (OSError, ValueError) as error:  # pyarrow's errors are of these
        raise UserError(f"{folder / TABLE}: cannot be read as a table; {ANEW}") from error


def record(folder: Path) -> dict[str, Any]:
    """What a run says of itself.

    Raises:
        UserError: The file is damaged.
    """
    try:
        found = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / RECORD}: cannot be read as JSON; {ANEW}") from error
    if not isinstance(found, dict) or not isinstance(found.get("targets"), dict):
        raise UserError(f"{folder / RECORD}: does not say the targets of a run; {ANEW}")
    return found
