"""A table file to cells of text: nothing is taken for a number, a date or a missing value before somebody asks."""

from __future__ import annotations

import csv
from pathlib import Path

from etude.errors import DataError


def read(file: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Read a .csv, .tsv or .parquet file; empty rows, and columns without a name, are left out.

    Args:
        file: Any other suffix is read as .csv: UTF-8, commas between cells.

    Returns:
        Columns by name, cells without the white space around them; and the place of each row for messages, counted as
        a spreadsheet does: the header is row 1.

    Raises:
        DataError: The file cannot be read, has a column twice, or a row that is not as long as the header.
    """
    try:
        header, *lines = (_parquet if file.suffix.lower() == ".parquet" else _text)(file)
    except (OSError, ValueError, csv.Error) as error:  # what pyarrow raises is one of the first two
        raise DataError(f"{file}: cannot be read as a table ({error})") from error
    header = [name.strip() for name in header]
    if twice := [name for place, name in enumerate(header) if name and name in header[:place]]:
        raise DataError(f"{file}: has two columns {twice[0]!r}")
    rows, where = [], []
    for place, line in enumerate(lines, 2):
        cells = [cell.strip() for cell in line]
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise DataError(f"{file}, row {place}: has {len(cells)} cells, the header has {len(header)}")
        rows.append(cells)
        where.append(f"{file}, row {place}")
    return {name: [row[place] for row in rows] for place, name in enumerate(header) if name}, where


def _text(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8-sig") as opened:
        return list(csv.reader(opened, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")) or [[]]


def _parquet(file: Path) -> list[list[str]]:
    from pyarrow import parquet

    columns = parquet.read_table(file).to_pydict()
    names = [name for name in columns if not name.startswith("__index_level_")]  # an index that pandas wrote along
    # a missing number may be NaN, the one value that does not equal itself
    cells = [["" if cell is None or cell != cell else str(cell) for cell in columns[name]] for name in names]
    return [names, *map(list, zip(*cells, strict=True))]
