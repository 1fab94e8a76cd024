"""Command `etude latent`, which draws maps of the embeddings of runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from etude.cli.runner import run_command
from etude.config import options
from etude.errors import UserError
from etude.files import os_errors
from etude.reports.maps.embeddings import finished_runs
from etude.reports.maps.page import MapOptions, draw_maps
from etude.reports.maps.projection import METHODS

HELP = """Usage: python scripts/latent.py FOLDER [FOLDER ...] [OPTION=VALUE ...]

Draw maps of the embeddings, and measure how well the maps preserve neighbourhoods. Only the files of the runs are
needed. FOLDER is a run folder or the folder of a sweep.

Examples:
  python scripts/latent.py outputs/<run>                        all six methods in two and three dimensions
  python scripts/latent.py outputs/<a> outputs/<b>              runs side by side, linked by clip
  python scripts/latent.py outputs/<sweep>                      all finished runs of a sweep
  python scripts/latent.py outputs/<run> methods=pca,umap dims=2

Options:
  methods=pca,tsne,umap,spectral,mds,isomap   projection methods (default: all)
  dims=2,3                                    dimensions (default: both)
  part=test|val                               split (default: test)
  seed=<number>                               seed (default: 0)
  to=<folder>                                 output folder (default: the folder of the run or the sweep; with several
                                              folders, outputs/latent)

The files are latent.html, latent.csv (coordinates) and latent.json (metrics). t-SNE of thousands of clips is faster
with pip install 'etude[opentsne]'. UMAP takes some seconds to compile at first use."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of runs.

    Args:
        argv: Run folders, and methods, dims, part, seed, to.

    Returns:
        0; 2 if the command or the runs must be corrected; 130 if interrupted.
    """

    def write_page(arguments: list[str]) -> list[Path]:
        return [draw_maps(parse_map_options(arguments), shlex.join(["python", "scripts/latent.py", *arguments]))]

    return run_command(argv, HELP, write_page, os_errors.FOLDER_REMEDY)


def parse_map_options(arguments: Sequence[str]) -> MapOptions:
    """Return the options of the command.

    Raises:
        UserError: A folder contains no run, there are too many runs, or an argument is invalid.
    """
    names, values = options.split_options(arguments, OPTIONS)
    if unknown := [name.partition("=")[0] for name in names if not options.is_name(name)]:
        near = get_close_matches(unknown[0], OPTIONS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"available: {', '.join(OPTIONS)}"
        raise UserError(f"{unknown[0]}: there is no such option; {hint}")
    folders = [options.path(name) for name in names]
    runs = finished_runs(folders)
    return MapOptions(runs, **{"output_folder": folders[0] if len(folders) == 1 else Path("outputs/latent")} | values)


def _subset(*choices: str) -> Callable[[str], tuple[str, ...]]:
    """Return a reader that returns comma-separated values in the order of `choices`."""

    def reader(value: str) -> tuple[str, ...]:
        selected = [item.strip() for item in value.strip("[]").split(",")]
        if unknown := [item for item in selected if item not in choices]:
            raise ValueError(f"{unknown[0] or 'an empty value'} is not among {', '.join(choices)}")
        return tuple(item for item in choices if item in selected)

    return reader


def _read_dims(value: str) -> tuple[int, ...]:
    return tuple(map(int, _subset("2", "3")(value)))


def _read_split(value: str) -> str:
    if value not in ("test", "val"):
        raise ValueError("must be part=test or part=val")
    return value


def _read_seed(value: str) -> int:
    if not (value.isascii() and value.isdigit()) or int(value) >= 2**32:
        raise ValueError("must be a whole number of at least 0 and below 2**32")
    return int(value)


OPTIONS: options.Options = {
    "methods": ("methods", _subset(*METHODS)),
    "dims": ("dims", _read_dims),
    "part": ("split", _read_split),
    "seed": ("seed", _read_seed),
    "to": ("output_folder", options.path),
}
