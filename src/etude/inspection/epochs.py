"""Comparison of one clip across the checkpoints of all epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from etude.evaluation.formatting import format_number
from etude.files.safe_read import read_checkpoint
from etude.inspection.attribution import explained_outputs, integrated_gradients, output_function
from etude.inspection.clip_axes import ClipAxes, draw_tiles
from etude.inspection.hooks import ModuleRecord, Trace, trace
from etude.inspection.layers import (
    average_to_size,
    most_variable_units,
    patch_grid,
    patch_norms,
    time_first,
    value_kind,
)
from etude.reports.figures import epoch_plot
from etude.runs.folder import RunFolder
from etude.system.streams import track
from etude.training.network import load_network

if TYPE_CHECKING:
    from etude.training.network import Network


MAX_CHECKPOINTS, STEPS = 8, 16  # STEPS is the number of points of integrated gradients
MAX_FILTERS = 8
MAX_VALUES = 1200  # of a small image
MAX_CLASSES = 8  # in the figure of probabilities


@dataclass
class EpochSnapshot:
    """Results of a clip with the network of one epoch.

    Args:
        epoch: Number of epochs after which the weights were saved.
        checkpoints: Paths of the checkpoints with these weights, relative to the run folder.
        network: The network.
        trace: Forward and backward pass of the clip.
        attribution: Contributions to an output (T, F); None without captum.
    """

    epoch: int
    checkpoints: list[str]
    network: Network
    trace: Trace
    attribution: np.ndarray | None = None

    @property
    def title(self) -> str:
        """Title above its images."""
        return f"epoch {self.epoch}"


def checkpoints_by_epoch(run: RunFolder) -> dict[int, list[Path]]:
    """Return the checkpoints of a run by number of completed epochs, in ascending order.

    Raises:
        UserError: A checkpoint cannot be read.
    """
    checkpoints: dict[int, list[Path]] = {}
    for path in run.all_checkpoints():
        checkpoints.setdefault(int(read_checkpoint(path).get("epoch", -1)) + 1, []).append(path)
    return dict(sorted(checkpoints.items()))


def load_snapshots(
    run: RunFolder, x: Tensor, y: dict[str, Tensor], explained: tuple[str, int] | None
) -> list[EpochSnapshot]:
    """Run the clip through the checkpoint of every epoch.

    If there are more than MAX_CHECKPOINTS epochs, this number of epochs is selected at equal distances.

    Args:
        run: The run folder.
        x: Frames from the front end (1, T, F).
        y: True values by target.
        explained: Target and index of the output to attribute; None for no attribution.
    """
    checkpoints = list(checkpoints_by_epoch(run).items())
    count = min(MAX_CHECKPOINTS, len(checkpoints))
    chosen = sorted({int(k) for k in np.linspace(0, len(checkpoints) - 1, count).round()})
    snapshots = []
    for k in track(chosen, len(chosen), "Checkpoints", "checkpoints"):
        epoch, paths = checkpoints[k]
        network = load_network(paths[0])
        result = trace(network, x, y)
        snapshot = EpochSnapshot(epoch, [path.relative_to(run.path).as_posix() for path in paths], network, result)
        if explained is not None:
            attribution = integrated_gradients(output_function(network, *explained), result.x, STEPS)
            snapshot.attribution = attribution.contributions.double().numpy()
        snapshots.append(snapshot)
    return snapshots


def output_to_explain(network: Network, predictions: dict[str, Tensor], y: dict[str, Tensor]) -> tuple[str, int, str]:
    """Return the output of the first target that is explained in the figures, as target name, index and title.

    For a label, it is the output of the true class, or of the predicted class if the true class is missing.
    """
    first = next(iter(network.task.targets))
    return [output for output in explained_outputs(network, predictions, y) if output[0] == first][-1]


def numbers_by_epoch(snapshots: Sequence[EpochSnapshot]) -> list[dict[str, Any]]:
    """Return epoch, checkpoints, loss and outputs of each snapshot."""
    return [
        {
            "epoch": snapshot.epoch,
            "checkpoints": snapshot.checkpoints,
            "loss": snapshot.trace.loss,
            "outputs": {name: value.reshape(-1).tolist() for name, value in snapshot.trace.predictions.items()},
        }
        for snapshot in snapshots
    ]


def describe_checkpoints(snapshots: Sequence[EpochSnapshot]) -> str:
    """List the epochs in a sentence, with the loss of a clip that has a true value."""
    labelled = bool(snapshots[0].trace.losses)
    epochs = (f"{s.title}{f' (loss {format_number(s.trace.loss, 3)})' if labelled else ''}" for s in snapshots)
    return f"{len(snapshots)} checkpoints: {', '.join(epochs)}."


def draw_epochs(snapshots: Sequence[EpochSnapshot], clip_axes: ClipAxes, explained: str) -> list[tuple[str, str]]:
    """Draw outputs, filters, activations and attributions by epoch.

    Args:
        snapshots: At least two snapshots.
        clip_axes: Axes of the frames.
        explained: Title of the attributed output.

    Returns:
        Captions and figures.
    """
    figures = draw_outputs(snapshots)
    records = [{record.name: record for record in snapshot.trace.records} for snapshot in snapshots]
    titles, columns = [snapshot.title for snapshot in snapshots], min(4, len(snapshots))
    last = snapshots[-1].trace.records
    grid = patch_grid(last)
    convolution = next((record for record in last if record.weight is not None and _has_filters(record.weight)), None)
    if convolution is not None:
        units = most_variable_units(convolution, MAX_FILTERS)
        images = [_filter_sheet(by_name[convolution.name], units, clip_axes) for by_name in records]
        aspect, no_labels = images[0].shape[0] / images[0].shape[1], ("", "", "")
        description = f"Filters of {convolution.name} by epoch."
        drawn = draw_tiles("epochs-filters", description, images, columns, no_labels, no_labels, titles, aspect)
        unit = "units" if len(units) > 1 else "unit"
        figures.append((f"Filters of {convolution.name}, {unit} {', '.join(map(str, units))}.", drawn))
    candidates = [record for record in last if value_kind(record, grid) != "vector"]
    if candidates:
        deepest = candidates[-1]
        if value_kind(deepest, grid) == "maps":
            deepest = _deepest_large_maps(candidates)
        images, caption = _activation_images(deepest, [by_name[deepest.name] for by_name in records], grid, clip_axes)
        x, y = clip_axes.axis_labels()
        if value_kind(deepest, grid) == "states":
            y = ("unit", "0", str(deepest.value.shape[2] - 1))
        aspect = _aspect(images[0], clip_axes)
        drawn = draw_tiles("epochs-activations", f"{caption} by epoch.", images, columns, x, y, titles, aspect)
        figures.append((f"{caption}.", drawn))
    attributions = [snapshot.attribution for snapshot in snapshots if snapshot.attribution is not None]
    if len(attributions) == len(snapshots):
        images = [clip_axes.to_image(average_to_size(values, 4 * MAX_VALUES)) for values in attributions]
        description = f"Integrated gradients for {explained} by epoch."
        x, y = clip_axes.axis_labels()
        drawn = draw_tiles("epochs-ig", description, images, columns, x, y, titles, _aspect(images[0], clip_axes))
        figures.append((f"Integrated gradients for {explained}.", drawn))
    return figures


def draw_outputs(snapshots: Sequence[EpochSnapshot]) -> list[tuple[str, str]]:
    """Draw the probabilities of the classes, or the value, of each target by epoch."""
    figures, epochs = [], [snapshot.epoch for snapshot in snapshots]
    for name, target in snapshots[-1].network.task.targets.items():
        values = np.array([s.trace.predictions[name].reshape(-1).double().numpy() for s in snapshots])
        if target.kind == "label":
            classes = target.classes
            chosen = np.argsort(-values.max(0), kind="stable")[:MAX_CLASSES]
            series = {str(classes[k]): values[:, k] for k in sorted(chosen)}
            caption, axis = f"Probability of each {name} by epoch.", "probability"
            if len(chosen) < len(classes):
                caption = f"Probability of {name} by epoch, for the {len(chosen)} classes with the highest maximum."
        else:
            series, caption, axis = {name: values[:, 0]}, f"Predicted {name} by epoch.", name
        figures.append((caption, epoch_plot(f"epochs-{name}", epochs, series, axis, caption)))
    return figures


def _has_filters(weight: Tensor) -> bool:
    return weight.ndim == 4 and weight[0, 0].numel() > 1


def _aspect(image: np.ndarray, clip_axes: ClipAxes) -> float:
    return 0.72 if clip_axes.is_audio else image.shape[0] / image.shape[1]


def _filter_sheet(record: ModuleRecord, units: Sequence[int], clip_axes: ClipAxes) -> np.ndarray:
    """Return some filters for the channel with the largest weights, in rows of four with gaps of NaN."""
    assert record.weight is not None
    channel = int(record.weight.abs().sum((0, 2, 3)).argmax())
    filters = [clip_axes.to_image(time_first(record.weight[unit, channel], record.time_axis)) for unit in units]
    height, width = filters[0].shape
    sheet = np.full((-(-len(filters) // 4) * (height + 1) - 1, min(4, len(filters)) * (width + 1) - 1), np.nan)
    for k, image in enumerate(filters):
        top, left = k // 4 * (height + 1), k % 4 * (width + 1)
        sheet[top : top + height, left : left + width] = image
    return sheet


def _deepest_large_maps(records: Sequence[ModuleRecord]) -> ModuleRecord:
    """Return the deepest feature maps of at least 6 x 6 values, or the first record."""
    large = [record for record in records if record.value.ndim == 4 and min(record.value.shape[2:]) >= 6]
    return large[-1] if large else records[0]


def _activation_images(
    deepest: ModuleRecord, records: Sequence[ModuleRecord], grid: tuple[int, int] | None, clip_axes: ClipAxes
) -> tuple[list[np.ndarray], str]:
    """Return an image of a module's output at each epoch, and a caption.

    The image shows all states, the norms of tokens, or the feature map of the unit that varies most in the last epoch.
    """
    kind = value_kind(deepest, grid)
    if kind == "states":
        states = [average_to_size(record.value[0].double().numpy(), 4 * MAX_VALUES) for record in records]
        return [values.T[::-1] for values in states], f"States of {deepest.name}"
    if kind == "tokens":
        assert grid is not None
        images = [clip_axes.to_image(patch_norms(record.value, grid)) for record in records]
        return images, f"Norm of tokens after {deepest.name}"
    unit = most_variable_units(deepest, 1)[0]
    maps = [average_to_size(time_first(record.value[0, unit], record.time_axis), MAX_VALUES) for record in records]
    return [clip_axes.to_image(values) for values in maps], f"Activations of {deepest.name}, unit {unit}"
