"""A comparison to files that can be quoted: compare.csv, compare.md, compare.tex and compare.html."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from etude.files import ownership
from etude.files.atomic import write_text
from etude.results.comparison import latex, markdown
from etude.results.comparison.build import Comparison


def write(comparison: Comparison) -> list[Path]:
    """Write the formats that are wished for into the folder that is wished for; nothing without a folder.

    Returns:
        The paths that were written.
    """
    folder = comparison.wish.to
    if folder is None:
        return []
    ownership.open_folder(folder)
    ownership.check_names(folder, [f"{comparison.wish.stem}.{kind}" for kind in comparison.wish.formats])
    return [
        write_text(folder / f"{comparison.wish.stem}.{kind}", WRITERS[kind](comparison))
        for kind in comparison.wish.formats
    ]


def _csv(comparison: Comparison) -> str:
    """A row per score, not a table: what a table or a figure of one's own can be made from."""
    return comparison.frame.to_csv(index=False)


def _page(comparison: Comparison) -> str:
    from etude.results.comparison.page import page

    return page(comparison)


WRITERS: dict[str, Callable[[Comparison], str]] = {
    "csv": _csv,
    "md": markdown.text,
    "tex": latex.text,
    "html": _page,
}
