"""Tables of predictions for files and windows."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from etude.evaluation.formatting import number
from etude.files.atomic import open_file, remove, replace
from etude.files.ownership import draft_of, record
from etude.inference.engine import FilePrediction
from etude.inference.figure import clock
from etude.inference.inputs import text
from etude.inference.model import Columns, Row

if TYPE_CHECKING:
    import pandas as pd

    from etude.inference.model import Model


FORMATS = ("csv", "json", "parquet")
ROWS = 1000  # of a parquet file that are in memory at a time
FILES, WINDOWS = "files", "windows"


def file_row(said: FilePrediction, columns: Columns, embedding: bool = False) -> Row:
    """The row of a file."""
    row = {"path": text(said.path), "seconds": round(said.seconds, 3), "windows": len(said.windows)}
    row |= columns.row(said.values) | {"error": said.reason or None}
    return row | ({"embedding": None if said.embedding is None else said.embedding.tolist()} if embedding else {})


def window_rows(said: FilePrediction, columns: Columns) -> list[Row]:
    """The rows of its windows; those that are silent have no values."""
    path = text(said.path)
    return [
        {"path": path, "start": round(start, 3), "end": round(end, 3)} | columns.row(values)
        for start, end, values in said.windows
    ]


def write(folder: Path, results: Iterable[FilePrediction], columns: Columns, formats: Sequence[str]) -> list[Path]:
    """Write both tables in some formats, each there whole or not at all; those of other formats are removed.

    Args:
        folder: Where to.
        results: Of all files, in order; only one is in memory at a time.
        columns: What is said.
        formats: Of FORMATS.

    Returns:
        Paths of the files.
    """
    paths = paths_of(folder, formats)
    drafts = [draft_of(path) for path in paths]
    for path in paths:
        record(path)
    types: dict[str, dict[str, Any]] = {
        FILES: {"path": str, "seconds": float, "windows": int, **columns.types, "error": str},
        WINDOWS: {"path": str, "start": float, "end": float, **columns.types},
    }
    try:
        with ExitStack() as stack:
            writers = [
                stack.enter_context(WRITERS[path.suffix[1:]](draft, types[path.stem]))
                for path, draft in zip(paths, drafts, strict=True)
            ]
            for said in results:
                for path, writer in zip(paths, writers, strict=True):
                    if path.stem == WINDOWS:
                        writer.add(window_rows(said, columns))
                    else:
                        writer.add([file_row(said, columns, path.suffix == ".parquet")])
        for path, draft in zip(paths, drafts, strict=True):
            replace(draft, path)
    finally:
        for draft in drafts:
            remove(draft)
    for name in FORMATS:
        for table in (FILES, WINDOWS):
            if name not in formats:
                remove(folder / f"{table}.{name}")
    return paths


def paths_of(folder: Path, formats: Sequence[str]) -> list[Path]:
    """Return the paths of both tables in some formats."""
    return [folder / f"{table}.{name}" for name in formats for table in (FILES, WINDOWS)]


def frames(results: Iterable[FilePrediction], columns: Columns) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables in memory."""
    import pandas as pd

    files: list[Row] = []
    windows: list[Row] = []
    for said in results:
        files.append(file_row(said, columns, embedding=True))
        windows += window_rows(said, columns)
    names = ["path", "start", "end", *columns.types]
    floats = {name: float for name, kind in columns.types.items() if kind is float}
    return pd.DataFrame(files).astype(floats), pd.DataFrame(windows, columns=names).astype(floats)


class Writer(Protocol):
    """A table that grows; a context manager."""

    def __init__(self, path: Path, types: dict[str, Any]) -> None: ...
    def __enter__(self) -> Writer: ...
    def __exit__(self, *ended: object) -> None: ...
    def add(self, rows: list[Row]) -> None:
        """Add rows."""


class _Csv:
    def __init__(self, path: Path, types: dict[str, Any]) -> None:
        self.file = open_file(path, "w", newline="", encoding="utf-8")
        self.writer = csv.writer(self.file, lineterminator="\n")
        self.writer.writerow(types)

    def __enter__(self) -> _Csv:
        return self

    def __exit__(self, *ended: object) -> None:
        self.file.close()

    def add(self, rows: list[Row]) -> None:
        self.writer.writerows(row.values() for row in rows)


class _Json:
    """A list of objects."""

    def __init__(self, path: Path, types: dict[str, Any]) -> None:
        self.file, self.before = open_file(path, "w", encoding="utf-8"), "[\n"

    def __enter__(self) -> _Json:
        return self

    def __exit__(self, *ended: object) -> None:
        self.file.write("\n]\n" if self.before == ",\n" else "[]\n")
        self.file.close()

    def add(self, rows: list[Row]) -> None:
        for row in rows:
            self.file.write(self.before + json.dumps(row, ensure_ascii=False))
            self.before = ",\n"


class _Parquet:
    def __init__(self, path: Path, types: dict[str, Any]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        known = {str: pa.string(), float: pa.float64(), int: pa.int64()}
        fields = {name: known[kind] for name, kind in types.items()}
        if path.name.startswith(f".{FILES}"):
            fields["embedding"] = pa.list_(pa.float32())
        self.schema, self.rows = pa.schema(fields), list[Row]()
        open_file(path).close()  # records it; the writer opens it by its name
        self.writer = parquet.ParquetWriter(path, self.schema)

    def __enter__(self) -> _Parquet:
        return self

    def __exit__(self, *ended: object) -> None:
        self._flush()
        self.writer.close()

    def add(self, rows: list[Row]) -> None:
        self.rows += rows
        if len(self.rows) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self.rows:
            self.writer.write_table(pa.Table.from_pylist(self.rows, self.schema))
            self.rows = []


WRITERS: dict[str, type[Writer]] = {"csv": _Csv, "json": _Json, "parquet": _Parquet}


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
    from etude.inference import engine, inputs

    for name, value in (("batch", batch), ("workers", workers)):
        if value is not None and value < 1:
            raise UserError(f"{name}={value}: must be a whole number of at least 1")
    files = inputs.files([paths] if isinstance(paths, str | Path) else paths)
    said = engine.predict(model, files, model.plan(window, overlap), batch, workers)
    return Predictions(*frames(said, model.columns), model.columns)


MOST, LEAST = 20, 12  # rows; letters of a name


def show(results: Iterable[FilePrediction], count: int, columns: Columns, failed: int) -> None:
    """Print the first files.

    Args:
        results: Of all files, in order.
        count: How many there are.
        columns: What is said.
        failed: How many could not be heard.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    kinds = [spec["kind"] for spec in columns.targets.values()]
    rows = [["file", "length", *columns.targets]]
    for said in islice(results, MOST):
        length = "" if said.reason else clock(said.seconds)
        cells = ["–"] * len(kinds) if said.reason else words(said, columns)
        rows.append([text(said.path.name), length, *cells])
    console = Console(highlight=False)
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room = max(LEAST, console.width - sum(wide[1:]) - 3 * len(wide))  # where it is narrow, names of files give way
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, (name, width) in enumerate(zip(rows[0], wide, strict=True)):
        left = not place or (place > 1 and kinds[place - 2] == "label")
        table.add_column(
            Text(name), justify="left" if left else "right", no_wrap=True, min_width=width if place else None
        )
    for name, *cells in rows[1:]:
        table.add_row(*map(Text, (shortened(name, room), *cells)))
    console.print(table)
    if count > MOST:
        console.print(f"{count - MOST:,} more are in the tables.")
    if failed:
        console.print(f"{failed:,} of {count:,} files could not be heard; the column error says why.")


def shortened(name: str, most: int) -> str:
    """A name of a file with its beginning and its end."""
    end = min(10, most // 3)
    return name if len(name) <= most else f"{name[: most - end - 1]}…{name[-end:]}"


def words(said: FilePrediction, columns: Columns) -> list[str]:
    """The class with its probability, or the value, of each target."""
    row, found = columns.row(said.values), []
    for name, spec in columns.targets.items():
        value = row[f"{name}.pred"]
        found.append(f"{value} {number(row[f'{name}.score.{value}'])}" if spec["kind"] == "label" else number(value))
    return found
