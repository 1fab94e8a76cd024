"""Command `etude dashboard`, which lays out the panels of a Weights & Biases project."""

from __future__ import annotations

import logging
from json import dumps
from typing import Annotated

import typer

from etude.cli.arguments import Json, split_list
from etude.cli.runner import CommandResult, ParsedCommand

EXAMPLES = """
Examples:
  etude dashboard --entity <user> --project etude   save the view and print its address
  etude dashboard --project etude --dry-run         print the view; needs neither a key nor a network
"""


def dashboard(
    entity: Annotated[
        str, typer.Option(metavar="USER|TEAM", help="Owner of the project; required to save the view.")
    ] = "",
    project: Annotated[str, typer.Option(metavar="NAME", help="Project.")] = "etude",
    name: Annotated[str, typer.Option(metavar="TITLE", help="Title of the view.")] = "backbones x tasks",
    targets: Annotated[
        list[str],
        typer.Option(
            callback=split_list,
            metavar="NAME,NAME",
            help="Targets with panels; NAME:label or NAME:scalar for a column of your data.",
            show_default="all of conf/target",
        ),
    ] = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the view as JSON and save nothing.")] = False,
    json: Json = False,
) -> ParsedCommand:
    """Save a view of a Weights & Biases project, and print its address. The view groups runs by backbone and task.

    Requires pip install 'etude[dashboard]'. Saving requires an API key: wandb login, or WANDB_API_KEY.
    """

    def work() -> CommandResult:
        from etude.loggers.dashboard import DashboardOptions, save_or_preview  # heavy: numpy

        values = save_or_preview(DashboardOptions(entity, project, name, tuple(targets), dry_run))
        if not json:
            print(dumps(values["view"], indent=1, ensure_ascii=False) if dry_run else values["url"])  # noqa: T201
        return CommandResult(values=values)

    return ParsedCommand(work, json, level=logging.WARNING)
