"""One clip through the checkpoints of all epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from etude.evaluation.formatting import format_number
from etude.files.progress import track
from etude.files.safe_read import read_checkpoint
from etude.inspection import attribution, clip_axes, layers
from etude.inspection.attribution import explained_outputs
from etude.inspection.clip_axes import Scene
from etude.inspection.hooks import Point, Trace, trace
from etude.reports.figures import epoch_plot
from etude.runs.folder import RunFolder
from etude.training.build import load_learner

if TYPE_CHECKING:
    from etude.training.learner import Learner


MOST, STEPS = 8, 16  # checkpoints; points of integrated gradients
UNITS, LEAVES = 4, 1200  # half of the filters that are shown; values of a small picture


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


def checkpoints(run: RunFolder) -> dict[int, list[Path]]:
    """Checkpoints of a run by the number of epochs that they have seen, in that order.

    Raises:
        UserError: One of them cannot be read.
    """
    found: dict[int, list[Path]] = {}
    for path in run.all_checkpoints():
        found.setdefault(int(read_checkpoint(path).get("epoch", -1)) + 1, []).append(path)
    return dict(sorted(found.items()))


def moments(run: RunFolder, x: Tensor, y: dict[str, Tensor], explained: tuple[str, int] | None) -> list[Moment]:
    """The clip at every epoch of which there is a checkpoint; of many, some from the first to the last.

    Args:
        run: The run's folder.
        x: Frames as the front end makes them (1, T, F).
        y: True values by target.
        explained: Target and index of the output that is attributed to the clip; none attributes nothing.
    """
    found = list(checkpoints(run).items())
    picked = sorted({int(k) for k in np.linspace(0, len(found) - 1, min(MOST, len(found))).round()})
    made = []
    for k in track(picked, len(picked), "Checkpoints", "checkpoints"):
        epoch, paths = found[k]
        network = load_learner(paths[0])
        seen = trace(network, x, y)
        moment = Moment(epoch, [path.relative_to(run.path).as_posix() for path in paths], network, seen)
        if explained is not None:
            scored = attribution.score(network, *explained)
            moment.attribution = attribution.integrated_gradients(scored, seen.x, STEPS).grid.double().numpy()
        made.append(moment)
    return made


def target(network: Learner, said: dict[str, Tensor], y: dict[str, Tensor]) -> tuple[str, int, str]:
    """The output that the strip explains: of the first target, the true class, else the predicted one."""
    name = next(iter(network.task.targets))
    return [item for item in explained_outputs(network, said, y) if item[0] == name][-1]


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
    said = (f"epoch {m.epoch}{f' (loss {format_number(m.trace.loss, 3)})' if known else ''}" for m in made)
    return f"{len(made)} checkpoints: {', '.join(said)}."


def draw(made: Sequence[Moment], scene: Scene, words: str) -> list[tuple[str, str]]:
    """Captions and drawings: outputs by epoch, filters, activations, attribution.

    Args:
        made: At least two moments.
        scene: Where the frames lie.
        words: What is attributed.
    """
    found = outputs(made)
    points = [{point.name: point for point in moment.trace.points} for moment in made]
    labels, across = [moment.label for moment in made], min(4, len(made))
    last = made[-1].trace.points
    grid = layers.patches(last)
    filtering = next((point for point in last if point.weight is not None and _has_filters(point.weight)), None)
    if filtering is not None:
        which = layers.varied(filtering, 2 * UNITS)
        rows = [_filters(at[filtering.name], which, scene) for at in points]
        drawn = clip_axes.tiles("strip-filters", f"Filters of {filtering.name} by epoch.", rows, across, ("", "", ""),
                               ("", "", ""), labels, rows[0].shape[0] / rows[0].shape[1])  # fmt: skip
        found.append((f"Filters of {filtering.name}, unit{'s' if len(which) > 1 else ''} "
                      f"{', '.join(map(str, which))}.", drawn))  # fmt: skip
    shown = [point for point in last if layers.kind(point, grid) != "vector"]
    if shown:
        deep = shown[-1] if layers.kind(shown[-1], grid) != "maps" else _deep(shown)
        images, what = _activations(deep, [at[deep.name] for at in points], grid, scene)
        ratio = 0.72 if scene.sound else images[0].shape[0] / images[0].shape[1]
        x, y = scene.ends()
        y = ("unit", "0", str(deep.value.shape[2] - 1)) if layers.kind(deep, grid) == "states" else y
        drawn = clip_axes.tiles("strip-maps", f"{what} by epoch.", images, across, x, y, labels, ratio)
        found.append((f"{what}.", drawn))
    parts = [moment.attribution for moment in made if moment.attribution is not None]
    if len(parts) == len(made):
        images = [scene.upright(layers.fit(part, 4 * LEAVES)) for part in parts]
        ratio = 0.72 if scene.sound else images[0].shape[0] / images[0].shape[1]
        about = f"Integrated gradients for {words} by epoch."
        drawn = clip_axes.tiles("strip-ig", about, images, across, *scene.ends(), labels, ratio)
        found.append((f"Integrated gradients for {words}.", drawn))
    return found


def outputs(made: Sequence[Moment]) -> list[tuple[str, str]]:
    """Probabilities of the classes, or the value, of each target by epoch."""
    found, network = [], made[-1].network
    epochs = [moment.epoch for moment in made]
    for name, one in network.task.targets.items():
        said = np.array([moment.trace.said[name].reshape(-1).double().numpy() for moment in made])
        if one.kind == "label":
            classes = one.classes
            first = np.argsort(-said.max(0), kind="stable")[:8]
            series = {str(classes[k]): said[:, k] for k in sorted(first)}
            caption, axis = f"Probability of each {name} by epoch", "probability"
            caption += "." if len(first) == len(classes) else f", of the {len(first)} that were ever most probable."
        else:
            series, caption, axis = {name: said[:, 0]}, f"Predicted {name} by epoch.", name
        found.append((caption, epoch_plot(f"strip-{name}", epochs, series, axis, caption)))
    return found


def _has_filters(weight: Tensor) -> bool:
    return weight.ndim == 4 and weight[0, 0].numel() > 1


def _filters(point: Point, which: Sequence[int], scene: Scene) -> np.ndarray:
    """Some filters of a convolution in rows of four, for its loudest channel; what lies between is not a number."""
    assert point.weight is not None
    channel = int(point.weight.abs().sum((0, 2, 3)).argmax())
    small = [scene.upright(layers.time_first(point.weight[unit, channel], point.time)) for unit in which]
    height, width = small[0].shape
    sheet = np.full((-(-len(small) // 4) * (height + 1) - 1, min(4, len(small)) * (width + 1) - 1), np.nan)
    for k, picture in enumerate(small):
        top, left = k // 4 * (height + 1), k % 4 * (width + 1)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def _deep(shown: Sequence[Point]) -> Point:
    """The deepest pictures that are large enough to be seen as such."""
    large = [point for point in shown if point.value.ndim == 4 and min(point.value.shape[2:]) >= 6]
    return large[-1] if large else shown[0]


def _activations(
    deep: Point, at: Sequence[Point], grid: tuple[int, int] | None, scene: Scene
) -> tuple[list[np.ndarray], str]:
    """What a part gave at every epoch: all its states, the length of its tokens, or the unit that varies most."""
    what = layers.kind(deep, grid)
    if what == "states":
        images = [layers.fit(point.value[0].double().numpy(), 4 * LEAVES).T[::-1] for point in at]
        return images, f"States of {deep.name}"
    if what == "tokens":
        assert grid is not None
        return [scene.upright(layers.lengths(point.value, grid)) for point in at], f"Length of tokens after {deep.name}"
    unit = layers.varied(deep, 1)[0]
    images = [scene.upright(layers.fit(layers.time_first(point.value[0, unit], point.time), LEAVES)) for point in at]
    return images, f"Activations of {deep.name}, unit {unit}"
