"""A collection of clips as every source describes it: a table with one row per clip, and what its columns mean."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


class DataError(UserError):
    """Something about the user's data that must be mended; the message is one sentence that says what and where."""


@dataclass(frozen=True)
class Collection:
    """Clips, their labels, and where both come from.

    Args:
        name: Short name, used for files and folders.
        title: One line for people.
        table: One row per clip, with `id` (unique), `path` (to the sound), `group` (what must never cross a split,
            often the artist; missing: the clip is a group of its own), optionally `split`, and a column per target.
        targets: What each target column holds, by name: `{"kind": "label", "classes": [...], "note": ""}` or
            `{"kind": "scalar", "low": 0.0, "high": 1.0, "note": ""}`. The note is shown wherever its scores are.
        card: The data card, in Markdown.
        note: One sentence that every report on this data shows.
    """

    name: str
    title: str
    table: pd.DataFrame
    targets: dict[str, dict[str, Any]]
    card: str = ""
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def check(self) -> Collection:
        """Refuse what would go wrong later.

        Returns:
            Itself.

        Raises:
            DataError: No clips, a column that is missing, an id that occurs twice, or a label outside its classes.
        """
        table = self.table
        if missing := {"id", "path", "group", *self.targets} - set(table.columns):
            raise DataError(f"{self.name}: the table of clips has no column {', '.join(sorted(missing))}")
        if table.empty:
            raise DataError(f"{self.name}: the table of clips is empty")
        if (twice := table["id"][table["id"].duplicated()]).size:
            raise DataError(
                f"{self.name}: id {twice.iloc[0]!r} occurs more than once; ids name clips and must be unique"
            )
        for name, target in self.targets.items():
            values = table[name].dropna()
            if target["kind"] == "label":
                wrong = values[~values.isin(target["classes"])]
            else:
                wrong = values[(values < target["low"]) | (values > target["high"])]
            if len(wrong):
                where = table["id"][wrong.index[0]]
                raise DataError(
                    f"{self.name}: clip {where!r} has {name} = {wrong.tolist()[0]!r}, which the target does not allow"
                )
        return self

    def fingerprint(self) -> str:
        """Hash of the table and of the size of every sound file: changes when a pack made from it would."""
        digest = hashlib.sha256(self.table.drop(columns="path").to_csv(index=False).encode())
        for path in self.table["path"]:
            size = Path(path).stat().st_size if Path(path).is_file() else -1
            digest.update(f"{Path(path).name}:{size};".encode())
        return digest.hexdigest()
