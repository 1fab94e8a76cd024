"""Command `etude maps`, which draws maps of the embeddings of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etude.cli.arguments import Folders, Json, Split, completer, one_of_each, out_option
from etude.cli.runner import CommandResult, ParsedCommand, read_values
from etude.files import os_errors

METHODS = ("pca", "tsne", "umap", "spectral", "mds", "isomap")
DIMS = ("2", "3")
EXAMPLES = """
Examples:
  etude maps outputs/<run>                        all six methods in two and three dimensions
  etude maps outputs/<a> outputs/<b>              runs side by side, linked by clip
  etude maps outputs/<sweep>                      all finished runs of a sweep
  etude maps outputs/<run> --methods pca,umap --dims 2
"""


def maps(
    context: typer.Context,
    folders: Folders,
    methods: Annotated[
        list[str],
        typer.Option(
            callback=one_of_each(*METHODS),
            autocompletion=completer(*METHODS),
            metavar="NAME,NAME",
            help=f"Projection methods: {', '.join(METHODS)}.",
            show_default="all",
        ),
    ] = list(METHODS),  # noqa: B006
    dims: Annotated[
        list[str],
        typer.Option(callback=one_of_each(*DIMS), metavar="2,3", help="Dimensions.", show_default="both"),
    ] = list(DIMS),  # noqa: B006
    split: Annotated[Split, typer.Option(help="Split.")] = "test",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, metavar="N", help="Seed.")] = 0,
    out: Annotated[
        Path | None, out_option("the folder of the run or the sweep; with several folders, outputs/maps")
    ] = None,
    json: Json = False,
) -> ParsedCommand:
    """Draw maps of the embeddings, and measure how well the maps preserve neighbourhoods.

    Only the files of the runs are needed. The files are maps.html, maps.csv (coordinates) and maps.json (metrics).
    t-SNE of thousands of clips is faster with pip install 'etude[opentsne]'. UMAP takes some seconds to compile at
    first use.
    """
    command = context.obj["command"]

    def work() -> CommandResult:
        from etude.reports.maps.embeddings import finished_runs  # heavy: numpy
        from etude.reports.maps.page import MapOptions, draw_maps

        folder = out or (folders[0] if len(folders) == 1 else Path("outputs/maps"))
        options = MapOptions(
            finished_runs(folders),
            folder,
            tuple(method for method in METHODS if method in methods),
            tuple(sorted(map(int, dims))),
            split,
            seed,
        )
        page = draw_maps(options, command)
        return CommandResult([page], read_values(page) if json else {})

    return ParsedCommand(work, json, os_errors.FOLDER_REMEDY)
