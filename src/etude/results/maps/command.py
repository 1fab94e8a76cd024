"""The command that draws what a network has learned to tell apart: `etude latent outputs/<run>`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from etude import disk
from etude.door import door
from etude.errors import UserError
from etude.results.maps.words import Wish, wish

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
    return door(
        argv,
        HELP,
        lambda words: [latent(wish(words), shlex.join(["python", "scripts/latent.py", *words]))],
        disk.OTHER_FOLDER,
    )


def latent(asked: Wish, command: str = "") -> Path:
    """Map runs and write latent.html, latent.csv and latent.json.

    Args:
        asked: Which runs, how, and where to.
        command: What the page says it was made by.

    Returns:
        Path of the page.

    Raises:
        UserError: A folder is no run, no map can be made of any, or the folder cannot be written.
    """
    from etude.files import ownership
    from etude.files.atomic import write_text
    from etude.progress import track
    from etude.results.maps import files, page, read
    from etude.results.maps.chart import Cache, chart

    ownership.check_names(asked.to, ("latent.html", "latent.csv", "latent.json"))
    called = read.names(asked.folders)
    runs = [read.read(folder, name, asked.part) for folder, name in zip(asked.folders, called, strict=True)]
    read.agree(runs)
    wanted = [(run, method, dims) for run in runs for method in asked.methods for dims in asked.dims]
    cache: Cache = {}
    made = (chart(run, method, dims, asked.seed, cache) for run, method, dims in wanted)
    charts = list(track(made, len(wanted), "latent", "maps"))
    if all(one.map is None for one in charts):
        reasons = dict.fromkeys(f"{one.run}: {one.why}" for one in charts)
        raise UserError("there is nothing to map\n" + "\n".join(reasons))
    html = page.render(runs, charts, asked, command)
    with disk.explained(asked.to, disk.OTHER_FOLDER, f"to={asked.to}"):
        ownership.open_folder(asked.to)
        write_text(asked.to / "latent.csv", files.coordinates(runs, charts).to_csv(index=False))
        write_text(asked.to / "latent.json", files.numbers(runs, charts, asked.part, asked.seed))
        return write_text(asked.to / "latent.html", html)
