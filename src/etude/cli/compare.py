"""Command `etude compare`, which compares runs in tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from etude.cli.arguments import (
    Folders,
    Json,
    Split,
    format_option,
    out_option,
    split_list,
)
from etude.cli.runner import CommandResult, ParsedCommand
from etude.files import os_errors

FORMATS = ("csv", "md", "tex", "html")
EXAMPLES = """
Examples:
  etude compare outputs/<sweep>                            a row per run, a column per target
  etude compare outputs/<a> outputs/<b> --out outputs/ab   the same for any runs, with an output folder
  etude compare outputs/<sweep> --layout classes           precision, recall and F1 of each class by feature
  etude compare outputs/<sweep> --layout metrics           all metrics by target and backbone
  etude compare outputs/<sweep> --layout settings          single-task and multitask, random and pretrained
  etude compare outputs/<sweep> --rows backbone --cols feature --metric macro_f1
  etude compare outputs/<sweep> --rows optim.lr --where backbone=lstm,cnn
  etude compare outputs/<sweep> --rows setting --where target=mean       means over several scalars

\b
Axes:
  backbone feature head task transfer data   choices of the config groups
  readout                                    layers and statistics of the embedding, such as all_mean_std
  method setting pretrained                  recipe or ensemble; single-task or multitask; source of the weights
  optim penalty                              optimiser or linear_probe; penalty that a linear probe chose
  fold seed evaluation                       repetitions; pooled folds, one fold or one split
  run target metric class                    what is scored
  optim.lr ...                               any key of config.yaml
"""


def parse_filters(values: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the values by axis of filters in the form `axis=value,value`; raise BadParameter if one is invalid."""
    filters: dict[str, tuple[str, ...]] = {}
    for text in values:
        axis, _, labels = text.partition("=")
        selected = [label for label in labels.split(",") if label]
        filters[axis] = tuple(dict.fromkeys([*filters.get(axis, ()), *selected]))
        if not axis or not selected:
            raise typer.BadParameter(f"{text!r} is not of the form AXIS=VALUE,VALUE", param_hint="'--where'")
    return filters


def compare(
    folders: Folders,
    rows: Annotated[
        list[str],
        typer.Option(callback=split_list, metavar="AXIS,AXIS", help="Axes in rows.", show_default="of the layout"),
    ] = [],  # noqa: B006
    cols: Annotated[
        list[str],
        typer.Option(callback=split_list, metavar="AXIS,AXIS", help="Axes in columns.", show_default="of the layout"),
    ] = [],  # noqa: B006
    metrics: Annotated[
        list[str],
        typer.Option(
            "--metric",
            callback=split_list,
            metavar="NAME,NAME",
            help="Metrics, such as macro_f1, accuracy, spearman, mse.",
            show_default="the primary metric of each target",
        ),
    ] = [],  # noqa: B006
    split: Annotated[Split, typer.Option(help="Split.")] = "test",
    layout: Annotated[
        Literal["runs", "classes", "metrics", "settings"],
        typer.Option(help="Predefined axes. The last three are the tables of the student report."),
    ] = "runs",
    where: Annotated[
        list[str],
        typer.Option(metavar="AXIS=VALUE,VALUE", help="Only runs with one of these values; can be repeated."),
    ] = [],  # noqa: B006
    trials: Annotated[bool, typer.Option("--trials", help="Show trial runs (debug=...) beside other runs.")] = False,
    out: Annotated[Path | None, out_option("the folder of a sweep; otherwise no files are written")] = None,
    formats: Annotated[list[str], format_option("Formats of the files.", *FORMATS)] = list(FORMATS),  # noqa: B006
    json: Json = False,
) -> ParsedCommand:
    """Compare runs in tables, with paired tests of runs that were scored on the same clips, and write pages.

    compare.html contains the tables, and curves.html the learning curves of all runs that are trained in
    epochs.

    A cell with several runs contains the mean ± standard deviation and the number of runs. Predictions of the folds of
    one split are pooled, unless fold is an axis.
    """
    filters = parse_filters(where)

    def work() -> CommandResult:
        from etude.reports.comparison.axes import CompareOptions  # heavy: numpy
        from etude.reports.comparison.compare import compare_folders, comparison_values

        labels = (tuple(rows), tuple(cols), tuple(metrics))
        options = CompareOptions(*labels, split, layout, filters, out, tuple(formats), trials=trials)
        comparison, paths = compare_folders(folders, options)
        return CommandResult(paths, comparison_values(comparison) if json else {})

    return ParsedCommand(work, json, os_errors.FOLDER_REMEDY)
