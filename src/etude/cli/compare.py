"""Command `etude compare`: tables over many runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from etude.cli import options
from etude.cli.runner import guard_command
from etude.config.overrides import split_pair
from etude.errors import UserError
from etude.evaluation.formatting import NAMES
from etude.reports.comparison.axes import ABOUT, FORMATS, NAMED, OF_SCORES, PARTS, VIEWS, CompareOptions
from etude.reports.comparison.compare import compare
from etude.runs.folder import find_runs

NUMBERS = dict(zip("123", ("classes", "metrics", "settings"), strict=True))
"""The tables of the source work."""


def parse(words: Sequence[str]) -> tuple[CompareOptions, list[Path]]:
    """The words of the command line.

    Args:
        words: Folders, and settings as name=value; a word that names an existing path is a folder.

    Raises:
        UserError: A word is neither, or a value is not among those there are.
    """
    wish, folders, only = CompareOptions(), [], {}
    for word in words:
        if "=" not in word or options.exists(word):
            folders.append(options.path(word))
            continue
        key, text = split_pair(word)
        values = tuple(part for part in text.split(",") if part)
        if not values:
            raise UserError(f"{word}: needs a value")
        if key == "rows":
            wish = replace(wish, rows=values)
        elif key == "cols":
            wish = replace(wish, cols=values)
        elif key == "metric":
            _among(word, values, {*NAMES})
            wish = replace(wish, metrics=values)
        elif key == "part":
            _among(word, (text,), set(PARTS))
            wish = replace(wish, part=text)
        elif key == "table":
            _among(word, (text,), {*VIEWS, *NUMBERS})
            wish = replace(wish, view=NUMBERS.get(text, text))
        elif key == "format":
            _among(word, values, set(FORMATS))
            wish = replace(wish, formats=values)
        elif key == "to":
            wish = replace(wish, to=options.path(text))
        else:
            only[key] = values  # an axis; whether there is such a one is known when the runs are read
    both = set(wish.rows) & set(wish.cols)
    if both:
        raise UserError(f"{', '.join(sorted(both))}: stands in rows and in cols; leave it out of one")
    return replace(wish, only=only), folders


def _among(word: str, values: Sequence[str], known: set[str]) -> None:
    for value in values:
        if value not in known:
            raise UserError(f"{word}: there is no {value}; there are {', '.join(sorted(known))}")


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


def main(argv: Sequence[str] | None = None) -> int:
    """Compare runs: `compare FOLDER... [name=value...]`.

    Returns:
        0, or 2 when a folder holds no run or a word is not understood.
    """
    return guard_command(lambda: _main(argv), "name another folder with to=<folder>")


def _main(argv: Sequence[str] | None) -> int:
    from etude.reports.comparison.text import print_comparison as print_it
    from etude.reports.comparison.text import write

    words = list(sys.argv[1:] if argv is None else argv)
    if not words or "-h" in words or "--help" in words:
        about = "\n".join(f"  {axis:<12}{what}" for axis, what in ABOUT.items())
        print(HELP.format(axes=", ".join((*NAMED, *OF_SCORES)), about=about))  # noqa: T201
        return 0
    wish, folders = parse(words)
    if not folders:
        raise UserError("no folder is named: compare outputs/<sweep>, or several runs")
    for folder in folders:
        if not find_runs(folder):
            raise UserError(f"{folder} is not a run, and no run is below it.")
    if wish.to is None and len(folders) == 1 and find_runs(folders[0]) != folders:
        wish = replace(wish, to=folders[0])
    made = compare(folders, wish)
    print_it(made)
    for path in write(made):
        print(path)  # noqa: T201
    return 0
