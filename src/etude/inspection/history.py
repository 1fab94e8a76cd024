"""One clip through every checkpoint that a run has kept, in the order of their epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from etude import build
from etude.checkpoint import read
from etude.inspection import attribution
from etude.inspection.explain import wanted
from etude.inspection.trace import Trace, trace
from etude.progress import track
from etude.results.text import number

if TYPE_CHECKING:
    from etude.learner import Learner

MOST, STEPS = 8, 16  # checkpoints; points of integrated gradients


@dataclass
class Moment:
    """The clip at one epoch.

    Args:
        epoch: How many epochs the weights have seen.
        names: Checkpoints that hold them.
        network, trace: The network and the clip in it.
        attribution: What an output is made up of (T, F); none without captum.
    """

    epoch: int
    names: list[str]
    network: Learner
    trace: Trace
    attribution: np.ndarray | None = None

    @property
    def label(self) -> str:
        """What stands above its pictures."""
        return f"epoch {self.epoch}"


def checkpoints(folder: Path) -> dict[int, list[Path]]:
    """Checkpoints of a run by the number of epochs that they have seen, in that order.

    Raises:
        UserError: One of them cannot be read.
    """
    found: dict[int, list[Path]] = {}
    for path in sorted((folder / "checkpoints").rglob("*.ckpt")):
        if not path.name.startswith("."):
            found.setdefault(int(read(path).get("epoch", -1)) + 1, []).append(path)
    return dict(sorted(found.items()))


def moments(folder: Path, x: Tensor, y: dict[str, Tensor], explained: tuple[str, int] | None) -> list[Moment]:
    """The clip at every epoch of which there is a checkpoint; of many, some from the first to the last.

    Args:
        folder: Of the run.
        x: Frames as the front end makes them (1, T, F).
        y: True values by target.
        explained: Target and index of the output that is attributed to the clip; none attributes nothing.
    """
    found = list(checkpoints(folder).items())
    picked = sorted({int(k) for k in np.linspace(0, len(found) - 1, min(MOST, len(found))).round()})
    made = []
    for k in track(picked, len(picked), "Checkpoints", "checkpoints"):
        epoch, paths = found[k]
        network = build.load(paths[0])
        seen = trace(network, x, y)
        moment = Moment(epoch, [path.relative_to(folder).as_posix() for path in paths], network, seen)
        if explained is not None:
            scored = attribution.score(network, *explained)
            moment.attribution = attribution.integrated_gradients(scored, seen.x, STEPS).grid.double().numpy()
        made.append(moment)
    return made


def target(network: Learner, said: dict[str, Tensor], y: dict[str, Tensor]) -> tuple[str, int, str]:
    """The output that the strip explains: of the first target, the true class, else the predicted one."""
    name = next(iter(network.task.targets))
    return [item for item in wanted(network, said, y) if item[0] == name][-1]


def numbers(made: Sequence[Moment]) -> list[dict[str, Any]]:
    """Loss and outputs at every epoch."""
    return [
        {
            "epoch": moment.epoch,
            "checkpoints": moment.names,
            "loss": moment.trace.loss,
            "outputs": {name: value.reshape(-1).tolist() for name, value in moment.trace.said.items()},
        }
        for moment in made
    ]


def words(made: Sequence[Moment]) -> str:
    """Which checkpoints these are, in a sentence."""
    known = bool(made[0].trace.each)
    said = (f"epoch {m.epoch}{f' (loss {number(m.trace.loss, 3)})' if known else ''}" for m in made)
    return f"{len(made)} checkpoints: {', '.join(said)}."
