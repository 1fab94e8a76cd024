"""Command `etude dashboard`: panels of a Weights & Biases project."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from etude.cli.runner import run_command
from etude.config import options
from etude.errors import UserError

HELP = """dashboard: a view of a project in Weights & Biases, with a group of runs for each backbone and task.

  python scripts/dashboard.py entity=<who> project=etude             save the view there, and print its address
  python scripts/dashboard.py project=etude show=true                print what would be saved; no key, no network

  entity=<user or team>     needed to save
  project=<name>            etude
  name=<title>              backbones x tasks
  targets=<name,name,...>   all of conf/target
  show=true | --dry         print the layout as JSON and save nothing

Needs etude[dashboard]; to save it needs a key as well: wandb login, or WANDB_API_KEY."""
OPTIONS: options.Options = {
    "entity": ("entity", str),
    "project": ("project", str),
    "name": ("name", str),
    "targets": ("targets", lambda value: tuple(name for name in value.split(",") if name)),
    "show": ("show", options.boolean),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Save the view, or print it.

    Args:
        argv: Options as name=value; None takes the command line.

    Returns:
        0; 1 if Weights & Biases does not take the view; 2 if the command has to be corrected or there is no key.
    """

    def work(words: list[str]) -> list[Path]:
        others, values = options.split_options(["show=true" if word == "--dry" else word for word in words], OPTIONS)
        if others:
            raise UserError(f"{others[0]}: no such setting; there are {', '.join(OPTIONS)}")
        if not values.get("project", "etude"):
            raise UserError("project=: a view belongs to a project; give its name")
        from etude.loggers.dashboard import DashboardOptions, save_or_print  # heavy: numpy

        save_or_print(DashboardOptions(**values))
        return []

    return run_command(argv, HELP, work, level=logging.WARNING)
