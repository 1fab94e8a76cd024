"""What a network says of a clip, and the pictures of why: attributions and attention over the frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from etude.inspection import attribution, pictures, rollout
from etude.inspection.scene import Scene
from etude.progress import track

if TYPE_CHECKING:
    from etude.learner import Learner


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
    maps = attribution.last_maps(network, x)
    for place, (name, index, words) in enumerate(track(items, len(items), "Attributions", "outputs")):
        scored = attribution.score(network, name, index)
        found = attribution.integrated_gradients(scored, x)
        grid = found.grid.double().numpy()
        about = f"Integrated gradients for {words}, laid over the frames."
        drawn = pictures.over(f"ig-{place}", about, scene, base, scene.cells(grid))
        parts.figures.append((words, drawn))
        parts.numbers.append({
            "what": words, "output": found.output, "baseline": found.baseline,
            "sum": float(found.grid.double().sum()), "error": found.error,
        })  # fmt: skip
        if maps is not None:
            time = max(2, network.backbone.axis)
            heat = attribution.grad_cam(scored, maps[1], x, time).double().numpy()
            about = f"Grad-CAM at {maps[0]} for {words}, laid over the frames."
            caption = words if heat.max() > 0 else f"{words}; nothing is above 0"
            cam.figures.append((caption, pictures.over(f"cam-{place}", about, scene, base, _spread(heat, scene))))
            cam.numbers.append({"what": words, "layer": maps[0], "grid": list(heat.shape), "max": float(heat.max())})
    return parts, cam


def attention(network: Learner, x: Tensor, base: np.ndarray, scene: Scene) -> Explained:
    """Rollout of a transformer over the frames; nothing for other networks."""
    found = Explained()
    flow = rollout.flow(network.backbone, x, torch.tensor([x.shape[1]]))
    if flow is None:
        return found
    grid = flow.grid.double().numpy()
    laid = scene.spread(grid / grid.mean() - 1, *flow.cells)
    about = "Attention rollout from what is read at the end to the patches, laid over the frames."
    caption = (
        "Rollout: how much more (blue) or less (orange) flows from a patch than on average; at 1 it is twice as much."
    )
    found.figures.append((caption, pictures.over("rollout", about, scene, base, laid)))
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
