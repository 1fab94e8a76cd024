"""What was said of files, as a small table on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from etude.prediction.columns import Columns
from etude.prediction.engine import Said
from etude.prediction.inputs import text
from etude.prediction.lines import clock
from etude.results.text import number

MOST, WIDE = 20, 28  # rows; letters of a name


def show(results: Iterable[Said], count: int, columns: Columns, failed: int) -> None:
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

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", no_wrap=True)
    table.add_column("length", justify="right", no_wrap=True)
    table.add_column("windows", justify="right", no_wrap=True)
    for name, spec in columns.targets.items():
        table.add_column(Text(name), justify="left" if spec["kind"] == "label" else "right", no_wrap=True)
    for said in islice(results, MOST):
        length = "" if said.reason else clock(said.seconds)
        cells = ["–"] * len(columns.targets) if said.reason else words(said, columns)
        short = shortened(text(said.path.name))
        table.add_row(*(Text(cell) for cell in (short, length, str(len(said.windows) or ""), *cells)))
    console = Console(highlight=False)
    console.print(table)
    if count > MOST:
        console.print(f"{count - MOST:,} more are in the tables.")
    if failed:
        console.print(f"{failed:,} of {count:,} files could not be heard; the column error says why.")


def shortened(name: str) -> str:
    """A name of a file with its beginning and its end."""
    return name if len(name) <= WIDE else f"{name[: WIDE - 11]}…{name[-10:]}"


def words(said: Said, columns: Columns) -> list[str]:
    """The class with its probability, or the value, of each target."""
    row, found = columns.row(said.values), []
    for name, spec in columns.targets.items():
        value = row[f"{name}.pred"]
        found.append(f"{value} {number(row[f'{name}.score.{value}'])}" if spec["kind"] == "label" else number(value))
    return found
