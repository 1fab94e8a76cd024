"""The command `etude`: `etude train backbone=ast task=multitask`, `etude report outputs/<run>`, ..."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from etude import __version__
from etude.cli.runner import guard_command
from etude.config.options import asks_for_help
from etude.system.machine import use_utf8

COMMANDS = {
    "train": ("etude.cli.train", "train one experiment, or a sweep of them with -m"),
    "prepare": ("etude.cli.prepare", "make the pack of a collection without training on it"),
    "explore": ("etude.cli.explore", "look at a collection before training on it"),
    "predict": ("etude.cli.predict", "say what a trained network hears in sounds it has not seen"),
    "export": ("etude.cli.export", "make files of a trained network that others run, with a card"),
    "demo": ("etude.cli.demo", "open a page to try a trained network in the browser"),
    "inspect": ("etude.cli.inspect", "look inside a trained network, with one clip"),
    "report": ("etude.cli.report", "make metrics.json and report.html of a run folder anew"),
    "compare": ("etude.cli.compare", "put runs side by side in one table"),
    "latent": ("etude.cli.maps", "draw the embeddings of runs, and say what the maps preserve"),
    "dashboard": ("etude.cli.dashboard", "lay out a project of Weights & Biases: backbones beside tasks"),
    "bench": ("etude.cli.bench", "time what is here against its peers"),
}


def command(name: str) -> int:
    """Run one command with the arguments of this process, as the script of its name does.

    Args:
        name: A key of COMMANDS.

    Returns:
        Its exit status.
    """
    use_utf8()
    return int(import_module(COMMANDS[name][0]).main(sys.argv[1:]) or 0)


def main() -> int:
    """Hand the command line to one of the commands.

    Returns:
        Its exit status; 2 when there is no such command.
    """
    return guard_command(_run)  # before the imports of a command, which take seconds: signals need their handlers


def _run() -> int:
    """Run the command that the command line names."""
    use_utf8()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-V", "--version"):
        print(f"etude {__version__}")  # noqa: T201
        return 0
    if name not in COMMANDS and "LOCAL_RANK" in os.environ:  # Lightning starts further devices with the overrides alone
        return int(import_module(COMMANDS["train"][0]).main(sys.argv[1:]) or 0)
    if name in COMMANDS:
        return int(import_module(COMMANDS[name][0]).main(sys.argv[2:]) or 0)
    listing = "\n".join(f"  etude {command:<9} {what}" for command, (_, what) in COMMANDS.items())
    help = asks_for_help([name])
    print(
        f"{'' if help else f'etude: there is no command {name}{chr(10)}'}"
        f"Étude {__version__}: experiments in music understanding\n\n{listing}\n\n`etude <command> --help` says more.",
        file=sys.stdout if help else sys.stderr,
    )
    return 0 if help else 2


if __name__ == "__main__":
    sys.exit(main())
