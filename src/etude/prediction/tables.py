"""Results as tables, written row by row: `files`, a row for each file, and `windows`, a row for each window."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from etude.files.atomic import open_file, remove, replace
from etude.files.ownership import draft_of, record
from etude.prediction.columns import Columns, Row
from etude.prediction.engine import Said
from etude.prediction.inputs import text

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("csv", "json", "parquet")
ROWS = 1000  # of a parquet file that are in memory at a time
FILES, WINDOWS = "files", "windows"


def file_row(said: Said, columns: Columns, embedding: bool = False) -> Row:
    """The row of a file."""
    row = {"path": text(said.path), "seconds": round(said.seconds, 3), "windows": len(said.windows)}
    row |= columns.row(said.values) | {"error": said.reason or None}
    return row | ({"embedding": None if said.embedding is None else said.embedding.tolist()} if embedding else {})


def window_rows(said: Said, columns: Columns) -> list[Row]:
    """The rows of its windows; those that are silent have no values."""
    path = text(said.path)
    return [
        {"path": path, "start": round(start, 3), "end": round(end, 3)} | columns.row(values)
        for start, end, values in said.windows
    ]


def write(folder: Path, results: Iterable[Said], columns: Columns, formats: Sequence[str]) -> list[Path]:
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


def frames(results: Iterable[Said], columns: Columns) -> tuple[pd.DataFrame, pd.DataFrame]:
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
