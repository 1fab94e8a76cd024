"""Command `etude latent`: maps of the embeddings of runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from etude.cli import options
from etude.cli.runner import run_command
from etude.errors import UserError
from etude.files import os_errors
from etude.reports.comparison.pooling import POOLED_FOLDER
from etude.reports.maps.page import MOST_RUNS, MapOptions, draw_maps
from etude.reports.maps.projection import METHODS
from etude.runs.folder import RunFolder, find_runs


def parse(words: list[str]) -> MapOptions:
    """Read the words: folders, and name=value.

    Raises:
        UserError: A folder that holds no run, too many runs, or a word that is not known.
    """
    given: dict[str, Any] = {}
    places: list[Path] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or options.exists(word):  # the folder of a sweep's job may have = in its name
            places.append(options.path(word))
        elif key in ("methods", "dims"):
            given[key] = _several(key, value)
        elif key == "part":
            if value not in ("test", "val"):
                raise UserError(f"{word}: must be part=test or part=val")
            given[key] = value
        elif key == "seed":
            if not (value.isascii() and value.isdigit()) or int(value) >= 2**32:
                raise UserError(f"{word}: must be a whole number of at least 0 and below 2**32")
            given[key] = int(value)
        elif key == "to":
            given[key] = options.path(value)
        else:
            known = ["methods", "dims", "part", "seed", "to"]
            near = get_close_matches(key, known, n=1) or [", ".join(known)]
            raise UserError(f"{key}: no such word; there is {near[0]}")
    folders = _runs(places)
    one: Any = places[0] if len(places) == 1 else Path("outputs/latent")
    return MapOptions(folders, **{"to": one} | given)


def _several(key: str, value: str) -> tuple[Any, ...]:
    """The values of methods=a,b or dims=2,3 in their usual order."""
    known = {"methods": tuple(METHODS), "dims": ("2", "3")}[key]
    asked = [item.strip() for item in value.strip("[]").split(",")]
    if unknown := [item for item in asked if item not in known]:
        raise UserError(f"{key}={value}: {unknown[0] or 'nothing'} is not among {', '.join(known)}")
    return tuple(item if key == "methods" else int(item) for item in known if item in asked)


def _runs(places: list[Path]) -> list[Path]:
    """The run folders that are meant: those named, and the finished ones of a sweep."""
    if not places:
        raise UserError("name at least one run folder, such as outputs/<run>; --help shows some")
    folders: dict[Path, Path] = {}
    for place in places:
        found = find_runs(place)
        if found != [place]:
            # what was pooled from several networks has no space of its own
            whole = [run for run in found if RunFolder(run).predictions_path.is_file()]
            found = [run for run in whole if run.parent.name != POOLED_FOLDER]
        if not found:
            raise UserError(f"{place} is not a run, and no finished run is below it.")
        folders |= {run.resolve(): run for run in found}
    if len(folders) > MOST_RUNS:
        raise UserError(f"{len(folders)} runs are too many for one page; name at most {MOST_RUNS} of them.")
    return list(folders.values())


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
        0; 2 when the command or the runs have to be mended; 130 when interrupted.
    """
    return run_command(
        argv,
        HELP,
        lambda words: [draw_maps(parse(words), shlex.join(["python", "scripts/latent.py", *words]))],
        os_errors.OTHER_FOLDER,
    )
