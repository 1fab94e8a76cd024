"""Real clips that a file is tried on: the run's own where they are at hand, else embedded ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from etude.audio.decode import DecodeError, decode
from etude.data.read import SILENT
from etude.errors import UserError

if TYPE_CHECKING:
    from etude.audio.front import Front
    from etude.prediction.model import Model
    from etude.prediction.windows import Plan

COUNT, SHORTEST = 8, 0.3  # clips, and the share of a window that the shortest of them is


def paths(run: Path | None, named: list[str]) -> tuple[list[Path], str]:
    """Sound files to try it on, and whose they are.

    Args:
        run: The run's folder; none of a checkpoint alone.
        named: Files, folders and lists that were named.

    Raises:
        UserError: There is no such file.
    """
    from etude.data.sources import demo
    from etude.prediction import inputs

    if named:
        return inputs.files(named), "clips that were named"
    if run is not None and (own := _own(run)):
        return own, "clips of the run's data"
    return [Path(path) for path in demo.collection().table["path"]], "clips of the embedded music"


def _own(run: Path) -> list[Path]:
    """The files of the clips that a run predicted, test before validation; none where they are not at hand."""
    import yaml

    from etude import build
    from etude.results import reading
    from etude.results.exploration.views import files

    try:
        table = reading.table(run).sort_values("split", kind="stable")
        source = yaml.safe_load((run / "config.yaml").read_text("utf-8"))["data"]["source"]
        build.vet(source)  # a run folder may come from a stranger
        known = files(build.make(source))
        found = [known[clip].path for clip in table["id"].astype(str) if clip in known and known[clip].is_sound]
    except Exception:  # whatever is missing of a run that came from elsewhere, embedded clips are as good for this
        return []
    return [path for path in found if path.is_file()]


def cut(files: list[Path], front: Front, plan: Plan, least: int) -> list[np.ndarray]:
    """Pieces of sound of different lengths, up to a window.

    Args:
        files: Sound files, taken evenly from the first to the last.
        front: The front end.
        plan: How long a window is.
        least: Samples that a piece must have.

    Returns:
        At least COUNT pieces (N,), float32, at the front end's rate, none of them silent.

    Raises:
        UserError: No file gives any.
    """
    window = max(least, plan.samples if front.sync == "none" else 30 * front.rate)
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, 2 * COUNT).astype(int))]  # some may be broken
    sounds, reason = [], "they are silent, or too short"
    for path in chosen:
        try:
            sound = decode(path, front.rate)[:window]
        except (DecodeError, OSError) as error:
            reason = str(error)
            continue
        if len(sound) >= least and np.abs(sound).max() >= SILENT:
            sounds.append(sound)
        if len(sounds) == COUNT:
            break
    if not sounds:
        raise UserError(f"there is no clip to try the export on ({reason}); name some with check=<files>")
    shares = np.linspace(SHORTEST, 1, COUNT)
    return [
        (sound := sounds[i % len(sounds)])[: max(least, min(len(sound), round(share * len(sound))))]
        for i, share in enumerate(shares)
    ]


def frames(model: Model, sound: np.ndarray) -> np.ndarray:
    """Frames (T, F) float16 of the network's view, as predictions have them; of a network for images, of a picture."""
    from etude.audio.spectral import FrontEnd
    from etude.results.exploration.views import hears

    if not hears(model.front):
        sound = 1 + FrontEnd().frames(sound) / FrontEnd().top_db  # a picture of the sound, in [0, 1]
    return model.front.view(sound, tuple(model.network.recipe["columns"])).astype(np.float16)
