"""Tables of predictions for files and windows."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from etude.data.audio_files import as_text
from etude.errors import UserError
from etude.evaluation.formatting import format_number, printable
from etude.files.atomic import open_file, remove, replace, write_text
from etude.files.ownership import draft_path, record
from etude.inference import engine, inputs
from etude.inference.engine import FilePrediction
from etude.inference.figure import format_clock
from etude.inference.model import TOP_TAGS, Model, PredictionColumns, PredictionRow, rank_classes

if TYPE_CHECKING:
    import pandas as pd


FORMATS = ("csv", "json", "parquet")
FILES, WINDOWS = "files", "windows"
PARQUET_ROWS = 1000  # rows of a parquet file in memory at a time
SUMMARY_ROWS, MIN_NAME_LENGTH = 20, 12  # of the printed summary
MODELS = "models.csv"  # predictions of several models side by side
ID, DIGITS = "Id", 6  # column of ids, and digits of a value, in a table with a column per target


@dataclass(frozen=True)
class Predictions:
    """Predictions of a network for audio files and arrays.

    Args:
        files: Table with a row per file. It has the columns `path`, `seconds` (missing for an array of beat-synchronous
            frames), `windows` (their number), `<target>.pred` for each target, `<target>.score.<class>` for the
            probabilities of a label or of tags, `error` (the reason why there is no prediction) and `embedding`.
        windows: Table with a row per window. It has the columns `path`, `start` and `end` (in seconds), and the
            predictions, which are missing for a silent window.
        columns: Columns of the predictions.
    """

    files: pd.DataFrame
    windows: pd.DataFrame
    columns: PredictionColumns

    def _repr_html_(self) -> str:
        return self.files.drop(columns="embedding").to_html(index=False)  # pandas escapes the cells

    def __repr__(self) -> str:
        failed = int(self.files["error"].notna().sum())
        suffix = f", {failed} of which could not be decoded" if failed else ""
        return f"Predictions for {len(self.files)} files{suffix}, {len(self.windows)} windows"


def predict_tables(
    model: Model,
    paths: str | Path | Iterable[str | Path],
    window: float | None = None,
    overlap: float = 0.5,
    batch_size: int = 32,
    workers: int | None = 1,
) -> Predictions:
    """Predict audio files and arrays and return the tables, for `etude.Run.predict`."""
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if value is not None and value < 1:
            raise UserError(f"{name}={value}: must be a whole number of at least 1")
    files = inputs.find_files([paths] if isinstance(paths, str | Path) else paths).select(model.takes_arrays)
    if window is not None:
        inputs.check_no_arrays(files, f"window={window:g}")
    results = engine.predict(model, files, model.plan(window, overlap), batch_size, workers)
    return Predictions(*_data_frames(results, model.columns), model.columns)


class TableWriter(Protocol):
    """Context manager that writes a table row by row."""

    def __init__(self, path: Path, types: dict[str, Any]) -> None: ...
    def __enter__(self) -> TableWriter: ...
    def __exit__(self, *ended: object) -> None: ...
    def add(self, rows: list[PredictionRow]) -> None:
        """Add rows."""


def write_tables(
    folder: Path, results: Iterable[FilePrediction], columns: PredictionColumns, formats: Sequence[str]
) -> list[Path]:
    """Write both tables in the given formats, and remove tables of other formats. No table is written partly.

    Args:
        folder: Folder of the tables.
        results: Predictions for all files, in order. Only one is in memory at a time.
        columns: Columns of the predictions.
        formats: Some of FORMATS.

    Returns:
        Paths of the tables.
    """
    paths = table_paths(folder, formats)
    drafts = [draft_path(path) for path in paths]
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
            for result in results:
                for path, writer in zip(paths, writers, strict=True):
                    if path.stem == WINDOWS:
                        writer.add(_window_rows(result, columns))
                    else:
                        writer.add([file_row(result, columns, path.suffix == ".parquet")])
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


def print_summary(results: Iterable[FilePrediction], count: int, columns: PredictionColumns, n_failed: int) -> None:
    """Print the predictions for the first files.

    Args:
        results: Predictions for all files, in order.
        count: Number of files.
        columns: Columns of the predictions.
        n_failed: Number of files that could not be decoded.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    kinds = [spec["kind"] for spec in columns.targets.values()]
    rows = [["file", "length", *columns.targets]]
    for result in islice(results, SUMMARY_ROWS):
        length = "" if result.reason or math.isnan(result.seconds) else format_clock(result.seconds)
        cells = ["–"] * len(kinds) if result.reason else format_predictions(result, columns)
        rows.append([printable(as_text(result.path.name)), length, *cells])
    console = Console(highlight=False)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # file names are shortened in a narrow terminal
    name_length = max(MIN_NAME_LENGTH, console.width - sum(widths[1:]) - 3 * len(widths))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, (name, width) in enumerate(zip(rows[0], widths, strict=True)):
        left = not i or (i > 1 and kinds[i - 2] != "scalar")
        table.add_column(Text(name), justify="left" if left else "right", no_wrap=True, min_width=width if i else None)
    for name, *cells in rows[1:]:
        table.add_row(*map(Text, (_shorten(name, name_length), *cells)))
    console.print(table)
    if count > SUMMARY_ROWS:
        console.print(f"{count - SUMMARY_ROWS:,} more are in the tables.")
    if n_failed:
        console.print(f"{n_failed:,} of {count:,} files could not be decoded; the column error contains the reason.")


def table_paths(folder: Path, formats: Sequence[str]) -> list[Path]:
    """Return the paths of both tables in the given formats."""
    return [folder / f"{table}.{name}" for name in formats for table in (FILES, WINDOWS)]


def format_predictions(result: FilePrediction, columns: PredictionColumns) -> list[str]:
    """Format the prediction of each target, which is a class or several tags with probabilities, or a value."""
    texts = []
    for name, scores in columns.split_by_target(result.values or []).items():
        spec = columns.targets[name]
        if spec["kind"] == "scalar":
            texts.append(format_number(scores[0]))
            continue
        top = rank_classes(scores, TOP_TAGS if spec["kind"] == "tags" else 1)
        texts.append(", ".join(f"{spec['classes'][i]} {format_number(scores[i])}" for i in top))
    return texts


def write_id_table(path: Path, rows: Sequence[PredictionRow], columns: PredictionColumns) -> Path:
    """Write a CSV table with the id of each file and a column per target, and return its path.

    Args:
        path: Path of the table.
        rows: Row of each file, with its id and its predictions for all targets.
        columns: Columns of the predictions.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([ID, *columns.targets])
    for row in rows:
        values = [row[f"{name}.pred"] for name in columns.targets]
        writer.writerow([row[ID], *(f"{value:.{DIGITS}g}" if isinstance(value, float) else value for value in values)])
    return write_text(path, text.getvalue())


def join_rows(names: Sequence[str], rows: Sequence[Sequence[PredictionRow]]) -> list[PredictionRow]:
    """Return a row per file with the predictions of several models, with the name of the model before each column."""
    joined = []
    for first, *others in zip(*rows, strict=True):
        row: PredictionRow = {key: first[key] for key in ("path", "seconds")}
        for name, own in zip(names, (first, *others), strict=True):
            row |= {f"{name}/{key}": value for key, value in own.items() if key not in row}
        joined.append(row)
    return joined


def write_models(path: Path, rows: Sequence[PredictionRow]) -> Path:
    """Write the joined rows of several models as CSV, and return the path."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_text(path, text.getvalue())


def file_row(result: FilePrediction, columns: PredictionColumns, embedding: bool = False) -> PredictionRow:
    """Return the row of a file."""
    row = {"path": as_text(result.path), "seconds": _round_time(result.seconds), "windows": len(result.windows)}
    row |= columns.row(result.values) | {"error": result.reason or None}
    return row | ({"embedding": None if result.embedding is None else result.embedding.tolist()} if embedding else {})


def _window_rows(result: FilePrediction, columns: PredictionColumns) -> list[PredictionRow]:
    """Return the rows of the windows of a file. The predictions of silent windows are None."""
    path = as_text(result.path)
    return [
        {"path": path, "start": _round_time(start), "end": _round_time(end)} | columns.row(values)
        for start, end, values in result.windows
    ]


def _round_time(seconds: float) -> float | None:
    """Return a time in seconds with three decimals. None if it is unknown (NaN)."""
    return None if math.isnan(seconds) else round(seconds, 3)


def _data_frames(results: Iterable[FilePrediction], columns: PredictionColumns) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of files and windows."""
    import pandas as pd

    files: list[PredictionRow] = []
    windows: list[PredictionRow] = []
    for result in results:
        files.append(file_row(result, columns, embedding=True))
        windows += _window_rows(result, columns)
    names = ["path", "start", "end", *columns.types]
    floats = {name: float for name, kind in columns.types.items() if kind is float}
    return (
        pd.DataFrame(files).astype({"seconds": float, **floats}),
        pd.DataFrame(windows, columns=names).astype({"end": float, **floats}),
    )


def _shorten(name: str, max_length: int) -> str:
    """Return a name of at most `max_length` characters, with its beginning and its end."""
    end = min(10, max_length // 3)
    return name if len(name) <= max_length else f"{name[: max_length - end - 1]}…{name[-end:]}"


class _CsvWriter:
    """Writer of a CSV table."""

    def __init__(self, path: Path, types: dict[str, Any]) -> None:
        self.file = open_file(path, "w", newline="", encoding="utf-8")
        self.writer = csv.writer(self.file, lineterminator="\n")
        self.writer.writerow(types)

    def __enter__(self) -> _CsvWriter:
        return self

    def __exit__(self, *ended: object) -> None:
        self.file.close()

    def add(self, rows: list[PredictionRow]) -> None:
        self.writer.writerows(row.values() for row in rows)


class _JsonWriter:
    """Writer of a JSON list of objects."""

    def __init__(self, path: Path, types: dict[str, Any]) -> None:
        self.file, self.prefix = open_file(path, "w", encoding="utf-8"), "[\n"

    def __enter__(self) -> _JsonWriter:
        return self

    def __exit__(self, *ended: object) -> None:
        self.file.write("\n]\n" if self.prefix == ",\n" else "[]\n")
        self.file.close()

    def add(self, rows: list[PredictionRow]) -> None:
        for row in rows:
            self.file.write(self.prefix + json.dumps(row, ensure_ascii=False))
            self.prefix = ",\n"


class _ParquetWriter:
    """Writer of a Parquet table."""

    def __init__(self, path: Path, types: dict[str, Any]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        arrow_types = {str: pa.string(), float: pa.float64(), int: pa.int64()}
        fields = {name: arrow_types[kind] for name, kind in types.items()}
        if path.name.startswith(f".{FILES}"):
            fields["embedding"] = pa.list_(pa.float32())
        self.schema, self.rows = pa.schema(fields), list[PredictionRow]()
        open_file(path).close()  # records the file, which the writer opens by its name
        self.writer = parquet.ParquetWriter(path, self.schema)

    def __enter__(self) -> _ParquetWriter:
        return self

    def __exit__(self, *ended: object) -> None:
        self._flush()
        self.writer.close()

    def add(self, rows: list[PredictionRow]) -> None:
        self.rows += rows
        if len(self.rows) >= PARQUET_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self.rows:
            self.writer.write_table(pa.Table.from_pylist(self.rows, self.schema))
            self.rows = []


WRITERS: dict[str, type[TableWriter]] = {"csv": _CsvWriter, "json": _JsonWriter, "parquet": _ParquetWriter}
