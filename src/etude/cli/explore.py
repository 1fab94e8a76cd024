"""Command `etude explore`, which writes a page about a collection."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude.cli.arguments import Json, Workers, expand_path
from etude.cli.prepare import ADVICE, ConfigDir, Overrides, Ray, Retry
from etude.cli.runner import CommandResult, ParsedCommand, read_values

EXAMPLES = """
Examples:
  etude explore data=demo                           four random clips of different classes
  etude explore data=folder data.source.path=music --count 8 --seed 1
  etude explore data=demo --clips <id>,<id>         these clips
"""


def explore(
    context: typer.Context,
    overrides: Overrides,
    clips: Annotated[
        list[str],
        typer.Option(metavar="ID,ID", help="Clips on the page.", show_default="random clips"),
    ] = [],  # noqa: B006
    count: Annotated[int, typer.Option(min=1, max=24, metavar="N", help="Number of random clips.")] = 4,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the random clips.")] = 0,
    out: Annotated[
        Path,
        typer.Option(parser=expand_path, metavar="FOLDER", help="Output folder, with a subfolder for each collection."),
    ] = Path("outputs/explore"),
    workers: Workers = None,
    retry: Retry = False,
    ray: Ray = None,
    config_dir: ConfigDir = None,
    json: Json = False,
) -> ParsedCommand:
    """Write a page about a collection before training.

    The page shows two clips of two classes as numbered figures, more clips as images, statistics of the targets,
    duplicates, and leakage between splits. The pack of the collection is created if it does not exist. The overrides
    are the overrides of train for data and feature, see etude prepare --help.
    """
    command = context.obj["command"]

    def work() -> CommandResult:
        from etude.data.from_overrides import PrepareOptions, datamodule_from_overrides  # heavy: hydra
        from etude.reports.dataset import page  # heavy: numpy

        module = datamodule_from_overrides(PrepareOptions(overrides, workers, retry, ray, config_dir=config_dir))
        path = page.explore(module, page.ExploreOptions(clips, count, seed, out), command)
        return CommandResult([path], read_values(path) if json else {})

    return ParsedCommand(work, json, "name another folder with --out <folder> or data.packs=<folder>", ADVICE)
