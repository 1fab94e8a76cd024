"""Attributions of an output to a clip: integrated gradients and Grad-CAM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.files.progress import track
from etude.inspection import attention_rollout, clip_axes
from etude.inspection.clip_axes import Scene
from etude.inspection.hooks import POOLS, attends, watching

if TYPE_CHECKING:
    from etude.training.learner import Learner


STEPS, AT_ONCE = 48, 8
LACKING = "Attributions need captum, which is not installed: pip install 'etude[inspect]'"
Score = Callable[[Tensor], Tensor]


@dataclass
class Attribution:
    """How an output is made up of the values of a clip.

    Args:
        grid: What each value adds (T, F), in units of the output.
        output: The output for the clip, and `baseline`, for standardised frames that are all 0.
    """

    grid: Tensor
    output: float
    baseline: float

    @property
    def error(self) -> float:
        """By how much the parts do not add up to the difference of the outputs: completeness says 0."""
        return float(self.grid.double().sum()) - (self.output - self.baseline)


def installed() -> bool:
    """Whether captum is there."""
    try:
        return find_spec("captum") is not None
    except ValueError:  # an empty module in its place
        return False


def score(network: Learner, name: str, index: int) -> Score:
    """From standardised frames (B, T, F), all of them valid, to one output of a target (B,).

    Args:
        network: In evaluation mode.
        name: The target.
        index: The class of a label, before the softmax; 0 for a scalar, whose value it is.
    """

    def scored(x: Tensor) -> Tensor:
        lengths = torch.full((len(x),), x.shape[1])
        return network.task.targets[name].score(network.task(network.backbone(x, lengths))[name])[:, index]

    return scored


def integrated_gradients(scored: Score, x: Tensor, steps: int = STEPS) -> Attribution:
    """Sundararajan, Taly & Yan, 2017, "Axiomatic attribution for deep networks", from the mean frame of training.

    Args:
        scored: Frames (B, T, F) to outputs (B,).
        x: Standardised frames (1, T, F); 0 is the mean of each bin over the training part.
        steps: Points on the way, at those of Gauss and Legendre.
    """
    from captum.attr import IntegratedGradients

    baseline = torch.zeros_like(x)
    grid = IntegratedGradients(scored).attribute(x, baseline, n_steps=steps, internal_batch_size=AT_ONCE)
    with torch.no_grad():
        ends = scored(torch.cat([x, baseline]))
    return Attribution(grid[0].detach(), float(ends[0]), float(ends[1]))


def grad_cam(scored: Score, layer: nn.Module, x: Tensor, time: int) -> Tensor:
    """Selvaraju et al., 2017, "Grad-CAM": feature maps weighted by their mean gradients, what is above 0 of their sum.

    Args:
        scored: Frames (B, T, F) to outputs (B,).
        layer: Gives the feature maps (B, C, ., .).
        x: Standardised frames (1, T, F).
        time: Which axis of the maps is the clip's time, 2 or 3.

    Returns:
        Grid (T', F').
    """
    from captum.attr import LayerGradCam

    grid: Tensor = LayerGradCam(scored, layer).attribute(x, relu_attributions=True)
    return grid[0, 0].detach() if time == 2 else grid[0, 0].detach().T


def last_maps(network: Learner, x: Tensor) -> tuple[str, nn.Module] | None:
    """The deepest part of a convolutional network that gives pictures and does not pool them; none for others."""
    modules = {name: module for name, module in network.backbone.named_modules() if name}
    if any(map(attends, modules.values())):
        return None
    found: list[tuple[str, nn.Module]] = []

    def seen(name: str, module: nn.Module, out: object) -> None:
        pictures = isinstance(out, Tensor) and out.ndim == 4 and out.shape[2] * out.shape[3] > 1
        if pictures and not isinstance(module, (*POOLS, nn.Identity)):
            found.append((f"backbone.{name}", module))

    with torch.no_grad(), watching(modules, seen):
        network.backbone(x, torch.tensor([x.shape[1]]))
    return found[-1] if found else None


@dataclass
class Explained:
    """Pictures with captions, and their numbers."""

    figures: list[tuple[str, str]] = field(default_factory=list)
    numbers: list[dict[str, Any]] = field(default_factory=list)


def wanted(network: Learner, said: dict[str, Tensor], y: dict[str, Tensor]) -> list[tuple[str, int, str]]:
    """What is explained: target, index and words; of a label the predicted class and the true one, if another."""
    found = []
    for name, target in network.task.targets.items():
        if target.kind == "scalar":
            found.append((name, 0, name))
            continue
        classes, predicted = getattr(target, "classes", []), int(said[name].argmax())
        found.append((name, predicted, f"{name} = {classes[predicted]}, predicted"))
        true = int(y[name][0])
        if true == predicted:
            found[-1] = (name, predicted, f"{name} = {classes[predicted]}, predicted and true")
        elif true >= 0:
            found.append((name, true, f"{name} = {classes[true]}, true"))
    return found


def outputs(
    network: Learner, words: dict[str, Tensor], losses: dict[str, float], true: dict[str, Any]
) -> list[dict[str, Any]]:
    """What is said of each target, and what is true: three classes with their probabilities, or a value."""
    found = []
    for name, target in network.task.targets.items():
        said = words[name].reshape(-1).tolist()
        one: dict[str, Any] = {"name": name, "kind": target.kind, "true": true[name], "loss": losses.get(name)}
        if target.kind == "label":
            every = dict(zip(map(str, getattr(target, "classes", [])), said, strict=True))
            top = sorted(every.items(), key=lambda pair: -pair[1])[:3]
            one |= {"probabilities": every, "top": [{"class": key, "probability": value} for key, value in top]}
        else:
            one |= {"value": said[0], "low": getattr(target, "low", 0.0), "high": getattr(target, "high", 1.0)}
        found.append(one)
    return found


def attributions(
    network: Learner, x: Tensor, base: np.ndarray, said: dict[str, Tensor], y: dict[str, Tensor], scene: Scene,
    only: str | None = None,
) -> tuple[Explained, Explained]:  # fmt: skip
    """Integrated gradients and Grad-CAM of everything that is explained.

    Args:
        network: In evaluation mode.
        x: Standardised frames (1, T, F).
        base: Frames (T, F) under the pictures.
        said: What it says, by target.
        y: What is true, by target.
        scene: Where the frames lie.
        only: The one target that is explained; none: all of them.
    """
    items = [item for item in wanted(network, said, y) if only in (None, item[0])]
    parts, cam = Explained(), Explained()
    maps = last_maps(network, x)
    for place, (name, index, words) in enumerate(track(items, len(items), "Attributions", "outputs")):
        scored = score(network, name, index)
        found = integrated_gradients(scored, x)
        grid = found.grid.double().numpy()
        about = f"Integrated gradients for {words}, laid over the frames."
        drawn = clip_axes.over(f"ig-{place}", about, scene, base, scene.cells(grid))
        parts.figures.append((words, drawn))
        parts.numbers.append({
            "what": words, "output": found.output, "baseline": found.baseline,
            "sum": float(found.grid.double().sum()), "error": found.error,
        })  # fmt: skip
        if maps is not None:
            time = max(2, network.backbone.axis)
            heat = grad_cam(scored, maps[1], x, time).double().numpy()
            about = f"Grad-CAM at {maps[0]} for {words}, laid over the frames."
            caption = words if heat.max() > 0 else f"{words}; nothing is above 0"
            cam.figures.append((caption, clip_axes.over(f"cam-{place}", about, scene, base, _spread(heat, scene))))
            cam.numbers.append({"what": words, "layer": maps[0], "grid": list(heat.shape), "max": float(heat.max())})
    return parts, cam


def attention(network: Learner, x: Tensor, base: np.ndarray, scene: Scene) -> Explained:
    """Rollout of a transformer over the frames; nothing for other networks."""
    found = Explained()
    flow = attention_rollout.flow(network.backbone, x, torch.tensor([x.shape[1]]))
    if flow is None:
        return found
    grid = flow.grid.double().numpy()
    laid = scene.spread(grid / grid.mean() - 1, *flow.cells)
    about = "Attention rollout from what is read at the end to the patches, laid over the frames."
    caption = (
        "Rollout: how much more (blue) or less (orange) flows from a patch than on average; at 1 it is twice as much."
    )
    found.figures.append((caption, clip_axes.over("rollout", about, scene, base, laid)))
    found.numbers.append({
        "patches": list(grid.shape), "sum": float(grid.sum()), "own": flow.own,
        "largest": float(grid.max() / grid.mean()), "rollout": np.round(grid, 6).tolist(),
    })  # fmt: skip
    return found


def _spread(grid: np.ndarray, scene: Scene) -> np.ndarray:
    """Feature maps (T', F') over the frames (T, F), each cell over the frames that it was pooled from."""
    time, bins = (_stride(count, cells) for count, cells in zip((scene.frames, scene.bins), grid.shape, strict=True))
    return scene.spread(grid, (0.0, time), (0.0, bins))


def _stride(count: int, cells: int) -> float:
    """Length of a cell: a whole number where one leaves as many cells, rounded up or down; else an even share."""
    for power in range(9):
        if cells in (count // 2**power, -(-count // 2**power)):
            return float(2**power)
    return count / cells
