"""Command `etude` with its subcommands, such as `etude train backbone=ast` and `etude report outputs/<run>`."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from etude import __version__
from etude.cli.runner import guard_command
from etude.config.options import asks_for_help
from etude.system.machine import use_utf8

COMMANDS = {
    "train": ("etude.cli.train", "train one experiment, or a sweep with -m"),
    "prepare": ("etude.cli.prepare", "create the pack of a collection without training"),
    "explore": ("etude.cli.explore", "write a page about a collection"),
    "predict": ("etude.cli.predict", "predict audio files with a trained network"),
    "export": ("etude.cli.export", "export a trained network for other programs, with a model card"),
    "demo": ("etude.cli.demo", "serve a web page to try a trained network"),
    "inspect": ("etude.cli.inspect", "show activations, gradients and attributions of clips"),
    "report": ("etude.cli.report", "rebuild metrics.json and report.html of run folders"),
    "compare": ("etude.cli.compare", "compare runs in tables"),
    "latent": ("etude.cli.maps", "draw maps of the embeddings of runs"),
    "dashboard": ("etude.cli.dashboard", "lay out the panels of a Weights & Biases project"),
    "bench": ("etude.cli.bench", "compare the speed with other libraries"),
}


def command(name: str) -> int:
    """Run a command with the arguments of this process, like the script of the same name.

    Args:
        name: A key of COMMANDS.

    Returns:
        The exit status.
    """
    use_utf8()
    return int(import_module(COMMANDS[name][0]).main(sys.argv[1:]) or 0)


def main() -> int:
    """Run the command whose name is the first argument.

    Returns:
        The exit status; 2 if there is no such command.
    """
    return guard_command(_dispatch)  # handles signals during the imports, which take seconds


def _dispatch() -> int:
    """Run a command, or print the version or the list of commands."""
    use_utf8()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-V", "--version"):
        print(f"etude {__version__}")  # noqa: T201
        return 0
    if name not in COMMANDS and "LOCAL_RANK" in os.environ:  # Lightning starts further processes with overrides only
        return int(import_module(COMMANDS["train"][0]).main(sys.argv[1:]) or 0)
    if name in COMMANDS:
        return int(import_module(COMMANDS[name][0]).main(sys.argv[2:]) or 0)
    listing = "\n".join(f"  etude {command:<9} {description}" for command, (_, description) in COMMANDS.items())
    help = asks_for_help([name])
    error = "" if help else f"etude: there is no command {name}\n"
    print(
        f"{error}Étude {__version__}: experiments in music understanding\n\n{listing}\n\n"
        "Run `etude <command> --help` for the options of a command.",
        file=sys.stdout if help else sys.stderr,
    )
    return 0 if help else 2


if __name__ == "__main__":
    sys.exit(main())
