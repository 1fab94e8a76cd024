"""Reading of tables as text cells, and inference of targets from columns of text."""

from __future__ import annotations

import codecs
import csv
import io
import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from etude.data.collection import label_target, scalar_target, to_nfc
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
    header = [to_nfc(name.strip()) for name in header]
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
        raise DataError(f"{file}: its cells are separated by {other[0]!r}, expected {mark!r}; {SAVE}")
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


FEW = 20  # whole numbers of more values than this were measured or counted; of fewer, they number classes
MOSTLY = 0.9  # share of cells from which on a column is one of numbers, and other cells are taken for mistakes
OBSERVED = "the range {low:g} to {high:g} is that of the values in the table, not of the scale they were given on"
FOLDS = {"fold", "folds", "cv_fold", "kfold"}
BOOLEAN = ({"true", "false"}, {"yes", "no"}, {"t", "f"}, {"y", "n"})
ABSENT = {"na", "n/a", "n.a.", "#n/a", "nan", "none", "null", "nil", "-", "--", "?"}  # words for a missing value
SEVERAL = ("|", ";", ",", "/")  # marks between the values of one cell


def parse_number(cell: str) -> float | None:
    """A cell as a finite number, or None when it is none; `1_000` and `nan` are none."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def normalize_class_names(cells: Sequence[str]) -> list[str]:
    """Return the cells of a label as class names: whole numbers that were stored as 1.0 become 1.

    pandas stores whole numbers so in a column in which one is missing.
    """
    numbers = [cell for cell in set(cells) if parse_number(cell) is not None]
    if not numbers or not all(re.fullmatch(r"[+-]?\d+(\.0+)?", cell) for cell in numbers):
        return list(cells)
    return [re.sub(r"\.0+$", "", cell) if parse_number(cell) is not None else cell for cell in cells]


def parse_declared_target(name: str, cells: Sequence[str], said: Any, where: Sequence[str]) -> dict[str, Any]:
    """The specification of a target that the user has described.

    Args:
        name: The column.
        cells: Its cells; an empty one is a missing label.
        said: `label`, `scalar` (the range is the observed one) or a range such as [40, 220].
        where: The file and row of each cell, for messages.

    Raises:
        DataError: What is said makes no sense, a scalar has a cell that is no number, or there is nothing to learn.
    """
    bounds = (
        [parse_number(str(bound)) for bound in said] if isinstance(said, Sequence) and not isinstance(said, str) else []
    )
    if said not in ("label", "scalar") and (len(bounds) != 2 or None in bounds or not bounds[0] < bounds[1]):  # type: ignore[operator]
        raise DataError(f"targets: {name} must be label, scalar or a range such as [0, 1], got {said!r}")
    if len(distinct := sorted(set(filter(None, cells)))) < 2:
        raise DataError(
            f"targets: column {name} holds {f'nothing but {distinct[0]!r}' if distinct else 'nothing'}; "
            "there is nothing to learn"
        )
    if said == "label":
        return label_target(normalize_class_names(distinct))
    for cell, place in zip(cells, where, strict=True):
        if cell and parse_number(cell) is None:
            hint = "; write it with a decimal point, such as 0.5" if _comma(cell) else ""
            raise DataError(f"{place}: {name} = {cell!r} is not a number{hint}")
    return scalar_target(*bounds) if bounds else _range([float(cell) for cell in distinct])  # type: ignore[arg-type]


def infer_target(name: str, cells: Sequence[str], where: Sequence[str]) -> tuple[dict[str, Any] | str, list[str]]:
    """The specification of a target that nobody has described, or the reason why the column is none.

    Numbers are a scalar: in [0, 1] if they all are, else in the range that they have. Text is a label if values repeat
    (twice on average) and none stands alone, and so are whole numbers of few values. Folds of a cross-validation and
    columns of true and false are no targets unless somebody declares them.

    Args:
        name: The column.
        cells: Its cells; an empty one is a missing label.
        where: The file and row of each cell, for messages.

    Returns:
        The specification or the reason, and remarks on what may have been meant otherwise.

    Raises:
        DataError: Nearly all cells are numbers and some are not.
    """
    cells = normalize_class_names(cells)
    counts = Counter(filter(None, cells))
    if len(counts) < 2:
        return "all its cells are the same" if counts else "it is empty", []
    if name.lower() in FOLDS:
        return f"it numbers folds of a cross-validation; to learn it, set targets={{{name}: label}}", []
    if any({cell.lower() for cell in counts} == words for words in BOOLEAN):
        return f"it holds {' and '.join(sorted(counts))} alone; to learn it, set targets={{{name}: label}}", []
    odd = [cell for cell in counts if parse_number(cell) is None]
    if odd and all(_comma(cell) for cell in odd):
        return f"its numbers have commas, such as {odd[0]!r}; write them with a decimal point, such as 0.5", []
    if odd and sum(counts[cell] for cell in odd) <= (1 - MOSTLY) * counts.total():
        _ask(name, cells, odd, where)
    alone = [cell for cell in sorted(counts) if counts[cell] == 1]
    repeats = 2 * len(counts) <= counts.total()
    if not odd:
        if len({float(cell) for cell in counts}) < 2:
            return "all its cells are the same", []
        numbered = len(counts) <= FEW and all(re.fullmatch(r"[+-]?\d+", cell) for cell in counts)
        if not (numbered and repeats and not alone):
            return _range([float(cell) for cell in counts]), []
        low, high = (f"{end([float(cell) for cell in counts]):g}" for end in (min, max))
        scale = f"whole numbers from {low} to {high} are taken as {len(counts)} classes"
        return label_target(counts), [f"{scale}; if they are a scale, set targets={{{name}: [{low}, {high}]}}"]
    several = _several(counts)
    if not repeats:
        hint = f", and {odd[0]!r} is not a number" if 2 * len(odd) < len(counts) else ""
        return f"it has {len(counts)} values in {counts.total()} clips, too many for classes{hint}{several}", []
    if alone:
        return f"{alone[0]!r} has a single clip, which cannot be both learned and tested{several}", []
    remarks = [f"{counts[cell]} cells are {cell!r}, which is taken as a class; if it stands for a missing value, set "
               f"missing=[{cell!r}]" for cell in counts if cell.lower() in ABSENT]  # fmt: skip
    return label_target(counts), remarks + ([several.removeprefix("; ")] if several else [])


def _comma(cell: str) -> bool:
    """Return whether a cell is a number with a decimal comma."""
    return re.fullmatch(r"[+-]?\d*,\d+", cell) is not None


def _several(counts: Counter[str]) -> str:
    """Return a hint when cells hold several values, such as `rock|pop`; "" when they do not."""
    for mark in SEVERAL:
        parts = {cell: [part.strip() for part in cell.split(mark)] for cell in counts if mark in cell.strip(mark)}
        # a mark may belong to a name, as in R&B/Soul or "Earth, Wind & Fire", unless what it parts occurs alone
        joined = [cell for cell, found in parts.items() if mark == "|" or all(part in counts for part in found)]
        if joined:
            return (
                f"; cells such as {joined[0]!r} hold several values, and each combination is a class of its own; give "
                "each value a column of 0 and 1 (tags), or merge them by classes="
            )
    return ""


def _ask(name: str, cells: Sequence[str], odd: Sequence[str], where: Sequence[str]) -> None:
    """Refuse a column of numbers in which a few cells are text, and name them."""
    rows = [(place, cell) for place, cell in zip(where, cells, strict=True) if cell in set(odd)]
    shown = ", ".join(f"{cell!r} in row {place.rpartition(' ')[2]}" for place, cell in rows[:3])
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    raise DataError(
        f"{where[0].rpartition(', row ')[0]}: column {name} holds numbers, but {shown}{more}; correct or empty these "
        f"cells, set missing=[{odd[0]!r}], or name the columns to learn, such as targets={{{name}: label}}"
    )


def _range(values: list[float]) -> dict[str, Any]:
    """A scalar from 0 to 1, or over the observed range rounded outward to a tenth of its order of magnitude."""
    least, most = min(values), max(values)
    if least >= 0 and most <= 1:
        return scalar_target()
    if least == most:
        raise DataError(f"targets: a scalar whose values are all {least:g} cannot be learned")
    digits = 1 - math.floor(math.log10(most - least))
    step = 10.0**-digits
    # rounding to digits can take the last bit of a value away, hence min and max
    low = min(least, round(math.floor(least / step) * step, digits))
    high = max(most, round(math.ceil(most / step) * step, digits))
    return scalar_target(low, high, OBSERVED.format(low=low, high=high))
