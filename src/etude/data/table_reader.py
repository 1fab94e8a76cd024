"""Reading of table files as text cells."""

from __future__ import annotations

import codecs
import csv
import io
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from etude.data.collection import nfc
from etude.errors import DataError

log = logging.getLogger(__name__)
WIDE = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SAVE = "save it as 'CSV UTF-8' with commas between cells, or as .xlsx"


def read_table(file: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Read a .csv, .tsv, .xlsx or .parquet file; empty rows, and columns without a name, are left out.

    Args:
        file: Any other suffix is read as .csv: UTF-8, commas between cells. Of a workbook the first sheet is read.

    Returns:
        Columns by name, cells without the white space around them; and the place of each row for messages, counted as
        a spreadsheet does: the header is row 1.

    Raises:
        DataError: The file cannot be read, has a column twice, a quote that swallows rows, or a row that is not as long
            as the header.
    """
    reader = {".parquet": _parquet, ".xlsx": _excel}.get(file.suffix.lower(), _text)
    try:
        header, *lines = reader(file)
    except DataError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # what pyarrow raises is one of the first two
        raise DataError(f"{file}: cannot be read as a table ({error})") from error
    header = [nfc(name.strip()) for name in header]
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
    if unnamed := [place for place, name in enumerate(header) if not name and any(row[place] for row in rows)]:
        log.info("%s: column %d has no name and is not read", file, unnamed[0] + 1)
    return {name: [row[place] for row in rows] for place, name in enumerate(header) if name}, where


def _text(file: Path) -> list[list[str]]:
    """Read the rows of a text file."""
    data = file.read_bytes()
    if data.startswith(WIDE) or b"\0" in data or data.startswith(b"PK\x03\x04"):
        kind = "is UTF-16" if data.startswith(WIDE) else "is an Excel workbook" if data[:2] == b"PK" else "is no text"
        raise DataError(f"{file}: cannot be read as a table: it {kind}; {SAVE} under the right suffix")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}: cannot be read as a table: line {row} is not UTF-8 (byte 0x{data[error.start]:02x}, perhaps of "
            f"Windows-1252); {SAVE}"
        ) from error
    mark, others = ("\t", ",;") if file.suffix.lower() == ".tsv" else (",", ";\t|")
    first = text.partition("\n")[0].strip()
    if first.lower().startswith("sep="):
        raise DataError(f"{file}, row 1: {first!r} is a line for Excel alone; delete it, or {SAVE}")
    if mark not in first and (other := [char for char in others if char in first]):
        raise DataError(f"{file}: its cells are separated by {other[0]!r}, expected is {mark!r}; {SAVE}")
    return _records(file, text, mark)


def _records(file: Path, text: str, mark: str) -> list[list[str]]:
    """Split text into rows of cells.

    A cell may hold line breaks between quotes. A cell that begins with a quote of its own, such as `"Heroes`, would
    swallow the rows up to the next quote without an error: `csv` accepts it, and so do pandas and Excel.

    Raises:
        DataError: A quote does not end before the file does, or more than its cell stands between two quotes.
    """
    lines = io.StringIO(text, newline="").readlines()
    reader = csv.reader(lines, delimiter=mark)
    records: list[list[str]] = []
    start = 0
    for record in reader:
        source = lines[start : reader.line_num]
        if (len(source) > 1 or reader.line_num == len(lines)) and _unbalanced(source, mark, records[:1]):
            _swallowed(file, len(records) + 1, start + 1, "".join(source))
        start = reader.line_num
        records.append(record)
    return records or [[]]


def _unbalanced(lines: list[str], mark: str, header: list[list[str]]) -> bool:
    """Return whether the lines of one row begin with a quote that is part of the text.

    Args:
        lines: The lines that `csv` took for one row.
        mark: What separates cells.
        header: The first row, or nothing when this is it.
    """
    if len(list(csv.reader([*lines, "next"], delimiter=mark))) == 1:
        return True  # the quote is still open
    if len(lines) == 1:
        return False
    try:
        list(csv.reader(lines, delimiter=mark, strict=True))
    except csv.Error:
        return True  # text stands right behind the quote that ends the cell
    if not header or len(header[0]) < 2:
        return False
    names = [name.strip() for name in header[0]]
    split = [line.strip().split(mark) for line in lines]
    # each line is a row by itself, with a file name where the paths are
    place = names.index("path") if "path" in names else None
    return all(
        len(cells) == len(names) and (place is None or Path(cells[place].strip(' "')).suffix != "") for cells in split
    )


def _swallowed(file: Path, row: int, line: int, text: str) -> NoReturn:
    """Refuse a row in which a cell begins with a quote that is no quotation."""
    begin = text[text.index('"') :][:20].splitlines()[0]
    raise DataError(
        f"{file}, row {row} (line {line}): a quote begins at {begin!r} and does not end in its cell, so that rows "
        'would be lost; write two quotes for one, between quotes ("""Heroes"), or remove it'
    )


def _excel(file: Path) -> list[list[str]]:
    """Read the rows of a workbook's first sheet.

    Raises:
        DataError: openpyxl is not installed, or the file is no workbook.
    """
    import pandas as pd

    if find_spec("openpyxl") is None:
        raise DataError(f"{file}: .xlsx needs openpyxl: pip install 'etude[xlsx]', or {SAVE[: SAVE.index(',')]}")
    if not file.is_file():
        raise DataError(f"{file}: cannot be read as a table (there is no such file)")
    try:
        with pd.ExcelFile(file, engine="openpyxl") as book:
            sheets = [str(name) for name in book.sheet_names]
            frame = book.parse(0, header=None, dtype=object, keep_default_na=False, na_values=[""])
    except Exception as error:  # of a broken workbook openpyxl raises KeyError, BadZipFile, ParseError, ...
        raise DataError(f"{file}: cannot be read as a workbook ({' '.join(str(error).split())})") from error
    if len(sheets) > 1:
        log.warning("%s: the first sheet, %s, is read; left out are %s", file, sheets[0], ", ".join(sheets[1:]))
    return [[_cell(value) for value in row] for row in frame.itertuples(index=False, name=None)] or [[]]


def _parquet(file: Path) -> list[list[str]]:
    from pyarrow import parquet

    columns = parquet.read_table(file).to_pydict()
    names = [name for name in columns if not name.startswith("__index_level_")]  # an index that pandas wrote along
    return [names, *map(list, zip(*([_cell(cell) for cell in columns[name]] for name in names), strict=True))]


def _cell(value: object) -> str:
    """Return a value as text; a missing number may be NaN, the one value that does not equal itself."""
    return "" if value is None or value != value else str(value)
