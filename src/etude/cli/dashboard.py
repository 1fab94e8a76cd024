"""Command `etude dashboard`, which lays out the panels of a Weights & Biases project."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from etude.cli.runner import run_command
from etude.config import options
from etude.errors import UserError

HELP = """Usage: python scripts/dashboard.py [OPTION=VALUE ...]

Save a view of a Weights & Biases project, and print its address. The view groups runs by backbone and task.

Examples:
  python scripts/dashboard.py entity=<user> project=etude   save the view and print its address
  python scripts/dashboard.py project=etude show=true       print the view; needs neither a key nor a network

Options:
  entity=<user or team>     owner of the project; required to save the view
  project=<name>            project (default: etude)
  name=<title>              title of the view (default: backbones x tasks)
  targets=<name,name,...>   targets with panels (default: all of conf/target)
  show=true | --dry         print the view as JSON and save nothing

Requires the extra etude[dashboard]. Saving requires an API key: wandb login, or WANDB_API_KEY."""
OPTIONS: options.Options = {
    "entity": ("entity", str),
    "project": ("project", str),
    "name": ("name", str),
    "targets": ("targets", lambda value: tuple(name for name in value.split(",") if name)),
    "show": ("show", options.boolean),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Save or print the view.

    Args:
        argv: Options as name=value. None uses the command line.

    Returns:
        0; 1 if Weights & Biases rejects the view; 2 if the command must be corrected or there is no key.
    """

    def build_dashboard(arguments: list[str]) -> list[Path]:
        arguments = ["show=true" if argument == "--dry" else argument for argument in arguments]
        others, values = options.split_options(arguments, OPTIONS)
        if others:
            raise UserError(f"{others[0]}: there is no such option; available: {', '.join(OPTIONS)}")
        if not values.get("project", "etude"):
            raise UserError("project=: needs the name of a project")
        from etude.loggers.dashboard import DashboardOptions, save_or_print  # heavy: numpy

        save_or_print(DashboardOptions(**values))
        return []

    return run_command(argv, HELP, build_dashboard, level=logging.WARNING)
