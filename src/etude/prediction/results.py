"""Predictions from Python: two tables in memory, which a notebook shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from etude.prediction.columns import Columns

if TYPE_CHECKING:
    import pandas as pd

    from etude.prediction.model import Model


@dataclass(frozen=True)
class Predictions:
    """What a network says of sounds.

    Args:
        files: A row for each file: `path`, `seconds`, `windows`, of each target `<t>.pred` and of a label a probability
            `<t>.score.<class>`; `error`, why there is nothing; and its `embedding`.
        windows: A row for each window: `path`, `start` and `end` in seconds, and the same; nothing where it is silent.
        columns: What is said.
    """

    files: pd.DataFrame
    windows: pd.DataFrame
    columns: Columns

    def _repr_html_(self) -> str:
        return self.files.drop(columns="embedding").to_html(index=False)  # pandas escapes what is in it

    def __repr__(self) -> str:
        failed = int(self.files["error"].notna().sum())
        more = f", {failed} of which could not be heard" if failed else ""
        return f"Predictions of {len(self.files)} files{more}, {len(self.windows)} windows"


def predicted(
    model: Model,
    paths: str | Path | Iterable[str | Path],
    window: float | None = None,
    overlap: float = 0.5,
    batch: int = 32,
    workers: int | None = 1,
) -> Predictions:
    """Predict sounds; see `etude.Run.predict`."""
    from etude.errors import UserError
    from etude.prediction import engine, inputs, tables

    for name, value in (("batch", batch), ("workers", workers)):
        if value is not None and value < 1:
            raise UserError(f"{name}={value}: must be a whole number of at least 1")
    files = inputs.files([paths] if isinstance(paths, str | Path) else paths)
    said = engine.predict(model, files, model.plan(window, overlap), batch, workers)
    return Predictions(*tables.frames(said, model.columns), model.columns)
