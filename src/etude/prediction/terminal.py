"""What was said of files, as a small table on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from etude.prediction.columns import Columns
from etude.prediction.engine import Said
from etude.prediction.inputs import text
from etude.prediction.lines import clock
from etude.results.text import number

MOST, LEAST = 20, 12  # rows; letters of a name


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


def words(said: Said, columns: Columns) -> list[str]:
    """The class with its probability, or the value, of each target."""
    row, found = columns.row(said.values), []
    for name, spec in columns.targets.items():
        value = row[f"{name}.pred"]
        found.append(f"{value} {number(row[f'{name}.score.{value}'])}" if spec["kind"] == "label" else number(value))
    return found
