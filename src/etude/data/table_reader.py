"""Readers of tables as text cells, and inference of targets from columns of text."""

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

from etude.data.collection import label_target, scalar_target
from etude.errors import DataError, missing_path, one_line_message
from etude.files.safe_read import to_nfc

log = logging.getLogger(__name__)
WIDE = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SAVE = "save it as 'CSV UTF-8' with commas between cells, or as .xlsx"


def read_table(file: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Read a .csv, .tsv, .xlsx or .parquet file without empty rows and unnamed columns.

    Args:
        file: A file with any other suffix is read as .csv, in UTF-8 with commas between cells. Of a workbook the first
            sheet is read.

    Returns:
        Cells by column name, without surrounding white space; and the file and row number of each row for messages. The
        header is row 1, as in a spreadsheet.

    Raises:
        DataError: The file cannot be read, a column name is not unique, a quote is not closed in its cell, or a row and
            the header have different lengths.
    """
    if not file.exists():
        raise DataError(missing_path(file, "table"))
    reader = {".parquet": _read_parquet, ".xlsx": _read_excel}.get(file.suffix.lower(), _read_text)
    try:
        header, *lines = reader(file)
    except DataError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # pyarrow raises one of the first two
        raise DataError(f"{file}: cannot be read as a table ({error})") from error
    header = [to_nfc(name.strip()) for name in header]
    if duplicates := [name for index, name in enumerate(header) if name and name in header[:index]]:
        raise DataError(f"{file}: has two columns {duplicates[0]!r}")
    rows, locations = [], []
    for number, line in enumerate(lines, 2):
        cells = [cell.strip() for cell in line]
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise DataError(f"{file}, row {number}: has {len(cells)} cells, the header has {len(header)}")
        rows.append(cells)
        locations.append(f"{file}, row {number}")
    if unnamed := [index for index, name in enumerate(header) if not name and any(row[index] for row in rows)]:
        log.info("%s: column %d has no name and is skipped", file, unnamed[0] + 1)
    return {name: [row[index] for row in rows] for index, name in enumerate(header) if name}, locations


def _read_text(file: Path) -> list[list[str]]:
    """Read the rows of a text file."""
    data = file.read_bytes()
    if data.startswith(WIDE) or b"\0" in data or data.startswith(b"PK\x03\x04"):
        kind = "UTF-16" if data.startswith(WIDE) else "an Excel workbook" if data[:2] == b"PK" else "a binary file"
        raise DataError(f"{file}: cannot be read as a table, because it is {kind}; {SAVE} with the right suffix")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}: cannot be read as a table, because line {row} is not UTF-8 (byte 0x{data[error.start]:02x}, "
            f"perhaps Windows-1252); {SAVE}"
        ) from error
    delimiter, others = ("\t", ",;") if file.suffix.lower() == ".tsv" else (",", ";\t|")
    first = text.partition("\n")[0].strip()
    if first.lower().startswith("sep="):
        raise DataError(f"{file}, row 1: {first!r} is an instruction for Excel; delete this line, or {SAVE}")
    if delimiter not in first and (other := [char for char in others if char in first]):
        raise DataError(f"{file}: its cells are separated by {other[0]!r}, expected {delimiter!r}; {SAVE}")
    return _split_records(file, text, delimiter)


def _split_records(file: Path, text: str, delimiter: str) -> list[list[str]]:
    """Split text into rows of cells.

    A quoted cell may contain line breaks. A cell may also begin with a literal quote, such as `"Heroes`. `csv`, pandas
    and Excel accept such a cell without an error, and it then includes all rows up to the next quote.

    Raises:
        DataError: A quote is not closed, or is closed in another cell.
    """
    lines = io.StringIO(text, newline="").readlines()
    reader = csv.reader(lines, delimiter=delimiter)
    records: list[list[str]] = []
    start = 0
    for record in reader:
        source = lines[start : reader.line_num]
        if (len(source) > 1 or reader.line_num == len(lines)) and _is_unbalanced(source, delimiter, records[:1]):
            _refuse_quote(file, len(records) + 1, start + 1, "".join(source))
        start = reader.line_num
        records.append(record)
    return records or [[]]


def _is_unbalanced(lines: list[str], delimiter: str, header: list[list[str]]) -> bool:
    """Return whether the lines of a row contain a literal quote that `csv` parsed as the start of a quoted cell.

    Args:
        lines: The lines that `csv` parsed as one row.
        delimiter: Delimiter of cells.
        header: List of the first row, or an empty list if the lines are the first row.
    """
    if len(list(csv.reader([*lines, "next"], delimiter=delimiter))) == 1:
        return True  # the quote is still open
    if len(lines) == 1:
        return False
    try:
        list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error:
        return True  # text follows the closing quote
    if not header or len(header[0]) < 2:
        return False
    names = [name.strip() for name in header[0]]
    rows = [line.strip().split(delimiter) for line in lines]
    # each line is a complete row with a file name in the column of paths
    index = names.index("path") if "path" in names else None
    return all(
        len(cells) == len(names) and (index is None or Path(cells[index].strip(' "')).suffix != "") for cells in rows
    )


def _refuse_quote(file: Path, row: int, line: int, text: str) -> NoReturn:
    """Raise DataError for a row in which a cell begins with a literal quote."""
    start = text[text.index('"') :][:20].splitlines()[0]
    raise DataError(
        f"{file}, row {row} (line {line}): the quote at {start!r} is not closed in its cell, so that rows would "
        'be lost; escape it as two quotes in a quoted cell ("""Heroes"), or remove it'
    )


def _read_excel(file: Path) -> list[list[str]]:
    """Read the rows of a workbook's first sheet.

    Raises:
        DataError: openpyxl is not installed, or the file is not a workbook.
    """
    import pandas as pd

    if find_spec("openpyxl") is None:
        raise DataError(f"{file}: .xlsx needs openpyxl: pip install 'etude[xlsx]', or {SAVE[: SAVE.index(',')]}")
    try:
        with pd.ExcelFile(file, engine="openpyxl") as book:
            sheets = [str(name) for name in book.sheet_names]
            frame = book.parse(0, header=None, dtype=object, keep_default_na=False, na_values=[""])
    except Exception as error:  # openpyxl raises KeyError, BadZipFile, ParseError and others for a damaged workbook
        raise DataError(f"{file}: cannot be read as a workbook ({one_line_message(error)})") from error
    if len(sheets) > 1:
        log.warning(
            "%s: the first sheet, %s, is read; other sheets are skipped: %s", file, sheets[0], ", ".join(sheets[1:])
        )
    return [[_to_text(value) for value in row] for row in frame.itertuples(index=False, name=None)] or [[]]


def _read_parquet(file: Path) -> list[list[str]]:
    from pyarrow import parquet

    columns = parquet.read_table(file).to_pydict()
    names = [name for name in columns if not name.startswith("__index_level_")]  # index columns of pandas
    return [names, *map(list, zip(*([_to_text(cell) for cell in columns[name]] for name in names), strict=True))]


def _to_text(value: object) -> str:
    """Return a value as text, with None and NaN as an empty cell."""
    return "" if value is None or value != value else str(value)


FEW = 20  # integers with more distinct values are a scalar, with fewer they are classes
MOSTLY = 0.9  # with a larger share of numbers a column is numeric, and other cells are mistakes
OBSERVED = "{low:g} to {high:g} is the range of the values in the table; their scale may be larger"
FOLDS = {"fold", "folds", "cv_fold", "kfold"}
BOOLEAN = ({"true", "false"}, {"yes", "no"}, {"t", "f"}, {"y", "n"})
ABSENT = {"na", "n/a", "n.a.", "#n/a", "nan", "none", "null", "nil", "-", "--", "?"}  # common texts of missing values
SEPARATORS = ("|", ";", ",", "/")  # between several values of one cell


def parse_number(cell: str) -> float | None:
    """Return a cell as a finite number, or None for other text such as `1_000` and `nan`."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def normalize_class_names(cells: Sequence[str]) -> list[str]:
    """Return the cells of a label as class names, in which an integer such as 1.0 becomes 1.

    pandas stores integers as floats in a column with a missing value.
    """
    numbers = [cell for cell in set(cells) if parse_number(cell) is not None]
    if not numbers or not all(re.fullmatch(r"[+-]?\d+(\.0+)?", cell) for cell in numbers):
        return list(cells)
    return [re.sub(r"\.0+$", "", cell) if parse_number(cell) is not None else cell for cell in cells]


def parse_declared_target(name: str, cells: Sequence[str], kind: Any, locations: Sequence[str]) -> dict[str, Any]:
    """Return the specification of a target that the user has declared.

    Args:
        name: Name of the column.
        cells: Cells of the column. An empty cell is a missing label.
        kind: `label`, `scalar` (with the observed range) or a range such as [40, 220].
        locations: The file and row of each cell, for messages.

    Raises:
        DataError: The kind is invalid, a scalar has a cell that is not a number, or the column has fewer than two
            values.
    """
    bounds = (
        [parse_number(str(bound)) for bound in kind] if isinstance(kind, Sequence) and not isinstance(kind, str) else []
    )
    if kind not in ("label", "scalar") and (len(bounds) != 2 or None in bounds or not bounds[0] < bounds[1]):  # type: ignore[operator]
        raise DataError(f"targets: {name} must be label, scalar or a range such as [0, 1], got {kind!r}")
    if len(distinct := sorted(set(filter(None, cells)))) < 2:
        raise DataError(
            f"targets: column {name} {f'has the single value {distinct[0]!r}' if distinct else 'is empty'}; "
            "a target needs at least two values"
        )
    if kind == "label":
        return label_target(normalize_class_names(distinct))
    for cell, location in zip(cells, locations, strict=True):
        if cell and parse_number(cell) is None:
            hint = "; use a decimal point, such as 0.5" if _has_decimal_comma(cell) else ""
            raise DataError(f"{location}: {name} = {cell!r} is not a number{hint}")
    return scalar_target(*bounds) if bounds else _observed_scalar([float(cell) for cell in distinct])  # type: ignore[arg-type]


def infer_target(name: str, cells: Sequence[str], locations: Sequence[str]) -> tuple[dict[str, Any] | str, list[str]]:
    """Infer a target's specification from a column, or return the reason why the column is not a target.

    A column of numbers is a scalar. Its range is [0, 1] if all values are inside, else the observed range. A column of
    text is a label if its values occur at least twice on average and none occurs only once. Under the same conditions,
    a column of integers with few distinct values is also a label. Folds of a cross-validation and columns of true and
    false must be declared.

    Args:
        name: Name of the column.
        cells: Cells of the column. An empty cell is a missing label.
        locations: The file and row of each cell, for messages.

    Returns:
        The specification or the reason, and remarks on ambiguous values.

    Raises:
        DataError: Nearly all cells are numbers, but some are not.
    """
    cells = normalize_class_names(cells)
    counts = Counter(filter(None, cells))
    if len(counts) < 2:
        return "all cells have the same value" if counts else "it is empty", []
    if name.lower() in FOLDS:
        reason = "it contains folds of a cross-validation"
        splits = f"to split by it, set data.split.column={name}"
        return f"{reason}; {splits}, and to use it as a target, set data.targets={{{name}: label}}", []
    if any({cell.lower() for cell in counts} == values for values in BOOLEAN):
        values = " and ".join(sorted(counts))
        return f"it contains only {values}; to use it as a target, set data.targets={{{name}: label}}", []
    text = [cell for cell in counts if parse_number(cell) is None]
    if text and all(_has_decimal_comma(cell) for cell in text):
        return f"its numbers have commas, such as {text[0]!r}; use a decimal point, such as 0.5", []
    if text and sum(counts[cell] for cell in text) <= (1 - MOSTLY) * counts.total():
        _refuse_text(name, cells, text, locations)
    single = [cell for cell in sorted(counts) if counts[cell] == 1]
    repeats = 2 * len(counts) <= counts.total()
    if not text:
        if len({float(cell) for cell in counts}) < 2:
            return "all cells have the same value", []
        integers = len(counts) <= FEW and all(re.fullmatch(r"[+-]?\d+", cell) for cell in counts)
        if not (integers and repeats and not single):
            return _observed_scalar([float(cell) for cell in counts]), []
        low, high = (f"{end([float(cell) for cell in counts]):g}" for end in (min, max))
        hint = f"if they are a scale, set data.targets={{{name}: [{low}, {high}]}}"
        return label_target(counts), [f"integers from {low} to {high} are used as {len(counts)} classes; {hint}"]
    several = _several_values_hint(counts)
    if not repeats:
        hint = f", and {text[0]!r} is not a number" if 2 * len(text) < len(counts) else ""
        return f"it has {len(counts)} values in {counts.total()} clips, too many for classes{hint}{several}", []
    if single:
        return f"{single[0]!r} has a single clip, which cannot be in both training and test{several}", []
    remarks = [f"{counts[cell]} cells are {cell!r}, which is used as a class; if it means a missing value, set "
               f"data.source.missing=[{cell!r}]" for cell in counts if cell.lower() in ABSENT]  # fmt: skip
    return label_target(counts), remarks + ([several.removeprefix("; ")] if several else [])


def _has_decimal_comma(cell: str) -> bool:
    """Return whether a cell is a number with a decimal comma."""
    return re.fullmatch(r"[+-]?\d*,\d+", cell) is not None


def _several_values_hint(counts: Counter[str]) -> str:
    """Return a hint if cells contain several values, such as `rock|pop`, else ""."""
    for mark in SEPARATORS:
        values = {cell: [value.strip() for value in cell.split(mark)] for cell in counts if mark in cell.strip(mark)}
        # a separator may belong to a name, as in R&B/Soul or "Earth, Wind & Fire", unless the values also occur alone
        joined = [cell for cell, items in values.items() if mark == "|" or all(item in counts for item in items)]
        if joined:
            return (
                f"; cells such as {joined[0]!r} contain several values, and each combination is a separate class; use "
                "a column of 0 and 1 for each value (tags), or merge classes with classes="
            )
    return ""


def _refuse_text(name: str, cells: Sequence[str], text: Sequence[str], locations: Sequence[str]) -> NoReturn:
    """Raise DataError for a column of numbers in which a few cells are text."""
    rows = [(location, cell) for location, cell in zip(locations, cells, strict=True) if cell in set(text)]
    shown = ", ".join(f"{cell!r} in row {location.rpartition(' ')[2]}" for location, cell in rows[:3])
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    raise DataError(
        f"{locations[0].rpartition(', row ')[0]}: column {name} contains numbers, but {shown}{more}; correct or empty "
        f"these cells, set data.source.missing=[{text[0]!r}], or declare the targets, such as "
        f"data.targets={{{name}: label}}"
    )


def _observed_scalar(values: list[float]) -> dict[str, Any]:
    """Return the specification of a scalar target.

    The range is [0, 1] if it contains all values, else the observed range. The observed range is rounded outward to a
    tenth of the largest power of ten that does not exceed its width.
    """
    smallest, largest = min(values), max(values)
    if smallest >= 0 and largest <= 1:
        return scalar_target()
    if smallest == largest:
        raise DataError(f"targets: a scalar cannot be predicted if all values are {smallest:g}")
    digits = 1 - math.floor(math.log10(largest - smallest))
    step = 10.0**-digits
    # min and max, because rounding to digits can change the last bit of a value
    low = min(smallest, round(math.floor(smallest / step) * step, digits))
    high = max(largest, round(math.ceil(largest / step) * step, digits))
    return scalar_target(low, high, OBSERVED.format(low=low, high=high))
