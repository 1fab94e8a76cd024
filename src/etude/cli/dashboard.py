"""The command that lays out a project of Weights & Biases: backbones beside tasks, in panels that are made by code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from etude.cli.runner import guard_command
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
TITLE = "backbones x tasks"
ASKED = {"entity": "", "project": "etude", "name": TITLE, "targets": "", "show": "false"}


def main(argv: Sequence[str] | None = None) -> int:
    """Save the view, or print it.

    Args:
        argv: Words as `key=value`; none takes the command line's.

    Returns:
        0; 1 when Weights & Biases does not take it; 2 when the command has to be mended or there is no key.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    return guard_command(lambda: _dashboard(words))


def _dashboard(words: list[str]) -> int:
    """Save or print the view that the words of the command describe."""
    if not words or "-h" in words or "--help" in words:
        print(HELP)  # noqa: T201
        return 0
    from etude.loggers.dashboard import leading, workspace
    from etude.loggers.wandb import has_key

    asked = _asked(words)
    show = asked["show"] == "true"
    targets = [name for name in asked["targets"].split(",") if name] or None
    if not show and not asked["entity"]:
        raise UserError("entity=<user or team>: a view is saved under somebody's name; show=true only prints it")
    view = workspace(asked["entity"] or "<entity>", asked["project"], asked["name"], leading(targets))
    if show:
        print(view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True, indent=1))  # noqa: T201
        return 0
    if not has_key():
        raise UserError(
            "there is no key for Weights & Biases here: wandb login, or WANDB_API_KEY; show=true needs none"
        )
    try:
        print(view.save().url)  # type: ignore[no-untyped-call]  # noqa: T201
    except Exception as error:  # the client raises what its transport does
        print(f"Weights & Biases does not take the view: {str(error).splitlines()[0]}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _asked(words: Sequence[str]) -> dict[str, str]:
    """The words of the command."""
    asked = dict(ASKED)
    for word in words:
        key, _, value = ("show", "=", "true") if word == "--dry" else word.partition("=")
        if key not in asked:
            raise UserError(f"{word}: no such setting; there are {', '.join(asked)}")
        asked[key] = value
    if asked["show"] not in ("true", "false"):
        raise UserError(f"show={asked['show']}: must be true or false")
    if not asked["project"]:
        raise UserError("project=: a view belongs to a project; give its name")
    return asked
