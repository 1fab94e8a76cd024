"""Command `etude latent`: maps of the embeddings of runs."""

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

HELP = """latent: maps of the embeddings before the heads, and what they preserve. One page, from run folders alone.

  python scripts/latent.py outputs/<run>                      all six methods, in the plane and in space
  python scripts/latent.py outputs/<a> outputs/<b>            runs side by side, linked by clip
  python scripts/latent.py outputs/<sweep>                    all finished runs of a sweep
  python scripts/latent.py outputs/<run> methods=pca,umap dims=2

  methods=pca,tsne,umap,spectral,mds,isomap                   any of them
  dims=2,3                                                    the plane, space, or both
  part=test | val                                             whose clips
  seed=<whole number>                                         of everything random; 0
  to=<folder>                                                 the folder of the run or sweep; of several, outputs/latent

Leaves latent.html, latent.csv (coordinates) and latent.json (numbers). t-SNE of thousands of clips is faster with
pip install 'etude[opentsne]'; UMAP takes some seconds to compile the first time."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page of some runs.

    Args:
        argv: Run folders, and methods, dims, part, seed, to.

    Returns:
        0; 2 if the command or the runs have to be corrected; 130 if interrupted.
    """
    return run_command(
        argv,
        HELP,
        lambda words: [draw_maps(parse(words), shlex.join(["python", "scripts/latent.py", *words]))],
        os_errors.OTHER_FOLDER,
    )


def parse(words: Sequence[str]) -> MapOptions:
    """Return the options that the words of the command give.

    Raises:
        UserError: A folder holds no run, there are too many runs, or a word is unknown.
    """
    names, values = options.split_options(words, OPTIONS)
    if unknown := [word.partition("=")[0] for word in names if not options.is_name(word)]:
        near = get_close_matches(unknown[0], OPTIONS, n=1) or [", ".join(OPTIONS)]
        raise UserError(f"{unknown[0]}: no such word; there is {near[0]}")
    folders = [options.path(name) for name in names]
    runs = finished_runs(folders)
    return MapOptions(runs, **{"output_folder": folders[0] if len(folders) == 1 else Path("outputs/latent")} | values)


def _several(*choices: str) -> Callable[[str], tuple[str, ...]]:
    """Return a reader of words between commas, which are put into the order of the choices."""

    def reader(value: str) -> tuple[str, ...]:
        chosen = [item.strip() for item in value.strip("[]").split(",")]
        if unknown := [item for item in chosen if item not in choices]:
            raise ValueError(f"{unknown[0] or 'nothing'} is not among {', '.join(choices)}")
        return tuple(item for item in choices if item in chosen)

    return reader


def _dims(value: str) -> tuple[int, ...]:
    return tuple(map(int, _several("2", "3")(value)))


def _split(value: str) -> str:
    if value not in ("test", "val"):
        raise ValueError("must be part=test or part=val")
    return value


def _seed(value: str) -> int:
    if not (value.isascii() and value.isdigit()) or int(value) >= 2**32:
        raise ValueError("must be a whole number of at least 0 and below 2**32")
    return int(value)


OPTIONS: options.Options = {
    "methods": ("methods", _several(*METHODS)),
    "dims": ("dims", _dims),
    "part": ("split", _split),
    "seed": ("seed", _seed),
    "to": ("output_folder", options.path),
}
