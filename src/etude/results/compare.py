"""Many runs side by side: tables, tests of pairs, files to quote from, and a page. The package `comparison` does it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from etude.door import guard
from etude.errors import UserError
from etude.results.comparison.axes import ABOUT, NAMED, OF_SCORES
from etude.results.comparison.build import Comparison, build
from etude.results.comparison.reading import find
from etude.results.comparison.run import printable
from etude.results.comparison.scores import COLUMNS, collect, gather
from etude.results.comparison.wish import Wish, parse

__all__ = ["COLUMNS", "collect", "compare", "find", "main", "show"]

HELP = """compare: runs side by side. Tables, tests of pairs that were scored on the same clips, and one page.

  python scripts/compare.py outputs/<sweep>                       a row per run, a column per target
  python scripts/compare.py outputs/<a> outputs/<b> to=outputs/ab the same of any runs, kept in a folder
  python scripts/compare.py outputs/<sweep> table=1               per class: precision, recall and F1 by feature
  python scripts/compare.py outputs/<sweep> table=2               every metric, by target and backbone
  python scripts/compare.py outputs/<sweep> table=3               single-task or multitask, random or pretrained
  python scripts/compare.py outputs/<sweep> rows=backbone cols=feature metric=macro_f1
  python scripts/compare.py outputs/<sweep> rows=optim.lr backbone=lstm

  rows=<axis,...> cols=<axis,...>     {axes}, run,
                                      or any key of config.yaml, such as optim.lr
  metric=<name,...>                   macro_f1, accuracy, spearman, mse, ...; the leading one of each target if not said
  part=<test|val>                     test
  table=<runs|classes|metrics|settings>   or 1, 2, 3 for the last three, the tables of the source work
  <axis>=<value,...>                  only these runs: backbone=lstm,cnn target=valence optim.lr=1e-3
  to=<folder>                         where the files go: the folder of a sweep if not said, otherwise none are written
  format=<csv,md,tex,html>            which files; all of them if not said

{about}

What shares a cell is a mean, with ± the standard deviation and how many runs. Folds of one split are pooled by their
predictions, unless fold is an axis."""


def compare(folders: Sequence[str | Path], wish: Wish | None = None, tests: bool = True) -> Comparison:
    """Compare the runs at or below some folders; folds that a folder holds are pooled in it first.

    Args:
        folders: Run folders, or folders that hold some (a sweep).
        wish: What is asked; none: a row per run and a column per target.
        tests: Whether pairs are tested.

    Raises:
        UserError: The wish does not go with these runs.
    """
    remarks = [remark for folder in folders for remark in _pool(Path(folder))]
    made = build(gather([Path(folder) for folder in folders]), wish, tests)
    made.remarks += remarks
    return made


def show(folders: Sequence[str | Path]) -> None:
    """Print a table over runs, a row per run and a column per target; nothing is pooled, tested or written."""
    from etude.results.comparison.terminal import show as print_it

    print_it(build(gather([Path(folder) for folder in folders]), tests=False))


def main(argv: Sequence[str] | None = None) -> int:
    """Compare runs: `compare FOLDER... [name=value...]`.

    Returns:
        0, or 2 when a folder holds no run or a word is not understood.
    """
    return guard(lambda: _main(argv), "name another folder with to=<folder>")


def _main(argv: Sequence[str] | None) -> int:
    from etude.results.comparison.terminal import show as print_it
    from etude.results.comparison.write import write

    words = list(sys.argv[1:] if argv is None else argv)
    if not words or "-h" in words or "--help" in words:
        about = "\n".join(f"  {axis:<12}{what}" for axis, what in ABOUT.items())
        print(HELP.format(axes=", ".join((*NAMED, *OF_SCORES)), about=about))  # noqa: T201
        return 0
    wish, folders = parse(words)
    if not folders:
        raise UserError("no folder is named: compare outputs/<sweep>, or several runs")
    for folder in folders:
        if not find(folder):
            raise UserError(f"{folder} is not a run, and no run is below it.")
    if wish.to is None and len(folders) == 1 and find(folders[0]) != folders:
        wish = replace(wish, to=folders[0])
    made = compare(folders, wish)
    print_it(made)
    for path in write(made):
        print(path)  # noqa: T201
    return 0


def _pool(folder: Path) -> list[str]:
    """Pool the folds in the folder of a sweep; a remark when they are not folds of one split."""
    from etude.results.pool import pool

    runs = find(folder)
    if runs == [folder]:
        return []
    try:
        pool(folder, runs)
    except (ValueError, OSError) as error:
        return [printable(f"{folder}: folds could not be pooled: {error}.")]
    return []
