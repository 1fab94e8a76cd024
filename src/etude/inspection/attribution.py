"""Which part of a clip an output hangs on: integrated gradients, and Grad-CAM where there are convolutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from etude.inspection.watch import POOLS, attends, watching

if TYPE_CHECKING:
    from etude.learner import Learner

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
