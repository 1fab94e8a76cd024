"""Attributions of an output to a clip: integrated gradients, Grad-CAM and attention rollout.

Rollout follows Abnar & Zuidema, 2020, "Quantifying attention flow in transformers": the mean over heads, half of it and
half of each token itself for the residual path, multiplied through the blocks. Only one row of that product is read at
the end, so one row is carried through the blocks, from the last to the first, and no product of matrices is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from etude.backbones.ast import AST
from etude.backbones.base import Backbone
from etude.files.progress import track
from etude.inspection import clip_axes
from etude.inspection.clip_axes import Scene
from etude.inspection.hooks import POOLS, is_transformer_block, watching
from etude.training.learner import Learner

STEPS, AT_ONCE = 48, 8
ROWS = 512  # of the attention weights of a block at a time
LACKING = "Attributions need captum, which is not installed: pip install 'etude[inspect]'"
Score = Callable[[Tensor], Tensor]
Cells = tuple[tuple[float, float], tuple[float, float]]


@dataclass
class Attribution:
    """Attribution of an output to the values of a clip.

    Args:
        grid: Contribution of each value (T, F), in units of the output.
        output: The output for the clip, and `baseline`, for standardised frames that are all 0.
    """

    grid: Tensor
    output: float
    baseline: float

    @property
    def error(self) -> float:
        """Sum of the contributions minus the difference of the outputs, which completeness requires to be 0."""
        return float(self.grid.double().sum()) - (self.output - self.baseline)


@dataclass
class Rollout:
    """Attention rollout over a clip.

    Args:
        grid: Share of each patch (columns, rows).
        own: Share of the tokens that are no patches.
        cells: First edge and size of a patch, in frames and in bins; each stands for the stride about its centre.
    """

    grid: Tensor
    own: float
    cells: Cells


@dataclass
class AttributionFigures:
    """Drawings with captions, and their numbers."""

    figures: list[tuple[str, str]] = field(default_factory=list)
    numbers: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class AttentionCall:
    """Call of an attention module: the module, its input (1, N, D), its mask and its output (1, N, D)."""

    module: Any
    x: Tensor
    mask: Tensor | None
    out: Tensor


def installed() -> bool:
    """Return whether captum is installed."""
    try:
        return find_spec("captum") is not None
    except ValueError:  # an empty module in its place
        return False


def score(network: Learner, name: str, index: int) -> Score:
    """Return a function from standardised frames (B, T, F), all valid, to one output of a target (B,).

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
    """Compute integrated gradients from the mean frame of training.

    Sundararajan, Taly & Yan, 2017, "Axiomatic attribution for deep networks".

    Args:
        scored: Frames (B, T, F) to outputs (B,).
        x: Standardised frames (1, T, F); 0 is the mean of each bin over the training part.
        steps: Points of Gauss-Legendre quadrature.
    """
    from captum.attr import IntegratedGradients

    baseline = torch.zeros_like(x)
    grid = IntegratedGradients(scored).attribute(x, baseline, n_steps=steps, internal_batch_size=AT_ONCE)
    with torch.no_grad():
        ends = scored(torch.cat([x, baseline]))
    return Attribution(grid[0].detach(), float(ends[0]), float(ends[1]))


def grad_cam(scored: Score, layer: nn.Module, x: Tensor, time: int) -> Tensor:
    """Compute Grad-CAM: the positive part of the sum of feature maps, weighted by their mean gradients.

    Selvaraju et al., 2017, "Grad-CAM".

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
    """Return the deepest module of a convolutional network that gives feature maps without pooling; None for others."""
    modules = {name: module for name, module in network.backbone.named_modules() if name}
    if any(map(is_transformer_block, modules.values())):
        return None
    found: list[tuple[str, nn.Module]] = []

    def seen(name: str, module: nn.Module, out: object) -> None:
        pictures = isinstance(out, Tensor) and out.ndim == 4 and out.shape[2] * out.shape[3] > 1
        if pictures and not isinstance(module, (*POOLS, nn.Identity)):
            found.append((f"backbone.{name}", module))

    with torch.no_grad(), watching(modules, seen):
        network.backbone(x, torch.tensor([x.shape[1]]))
    return found[-1] if found else None


def attention_rollout(backbone: Backbone, x: Tensor, lengths: Tensor) -> Rollout | None:
    """Return the rollout of one clip through a transformer over patches; None for any other network.

    Args:
        backbone: In evaluation mode, in which no patch is dropped.
        x: Standardised frames (1, T, F).
        lengths: Their number (1,).
    """
    if not isinstance(backbone, AST):
        return None
    patches = backbone.patches
    shapes: list[torch.Size] = []
    hook = patches.filters.register_forward_hook(lambda *passed: shapes.append(passed[-1].shape))
    try:
        with torch.no_grad(), recorded_attention(backbone) as blocks:
            backbone(x, lengths)
    finally:
        hook.remove()
    if not blocks:  # timm has transformers whose attention is of another kind
        return None
    columns, rows = shapes[0][2:]
    own, count = patches.tokens.shape[1], blocks[0].x.shape[1]
    with torch.no_grad():
        shares = rollout(blocks, backbone.token_weights(count))
    size, stride = patches.filters.kernel_size, patches.filters.stride
    first, second = (((size[k] - stride[k]) / 2, float(stride[k])) for k in (0, 1))
    return Rollout(shares[own:].unflatten(0, (columns, rows)), float(shares[:own].sum()), (first, second))


def rollout(blocks: list[AttentionCall], reads: Tensor) -> Tensor:
    """Return the share of each token in what is read at the end (N,), of sum 1.

    Args:
        blocks: Attention of every block, first to last.
        reads: Weight of each token in what is read (N,), of sum 1.
    """
    row = reads
    for block in reversed(blocks):
        flow = torch.zeros_like(row)
        for start in range(0, len(row), ROWS):
            part = slice(start, start + ROWS)
            if row[part].any():
                flow += row[part] @ attention_weights(block, part).mean(1)[0]
        row = (row + flow) / 2
    return row


@contextmanager
def recorded_attention(backbone: nn.Module) -> Iterator[list[AttentionCall]]:
    """Collect the calls of each attention module, in the order in which they run."""
    found: list[AttentionCall] = []

    def seen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        mask = kwargs.get("attn_mask", args[1] if len(args) > 1 else None)
        found.append(AttentionCall(module, args[0].detach(), mask, out.detach()))

    modules: list[Any] = [part.attn for part in backbone.modules() if is_transformer_block(part)]
    hooks = [module.register_forward_hook(seen, with_kwargs=True) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def attention_weights(call: AttentionCall, rows: slice = slice(None)) -> Tensor:
    """Return weights of some tokens' attention to all (1, heads, rows, N), which timm's fused attention does not."""
    module, x = call.module, call.x
    q, k, _ = module.qkv(x).unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = module.q_norm(q)[:, :, rows], module.k_norm(k)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if call.mask is not None:
        scores = scores.masked_fill(~call.mask, -torch.inf)
    return scores.softmax(-1)


def explained_outputs(
    network: Learner, predictions: dict[str, Tensor], y: dict[str, Tensor]
) -> list[tuple[str, int, str]]:
    """Return target, index and label of the outputs to explain: of a label the predicted class, and the true one."""
    found = []
    for name, target in network.task.targets.items():
        if target.kind == "scalar":
            found.append((name, 0, name))
            continue
        classes, predicted = target.classes, int(predictions[name].argmax())
        found.append((name, predicted, f"{name} = {classes[predicted]}, predicted"))
        true = int(y[name][0])
        if true == predicted:
            found[-1] = (name, predicted, f"{name} = {classes[predicted]}, predicted and true")
        elif true >= 0:
            found.append((name, true, f"{name} = {classes[true]}, true"))
    return found


def attributions(
    network: Learner, x: Tensor, base: np.ndarray, predictions: dict[str, Tensor], y: dict[str, Tensor], scene: Scene,
    only: str | None = None,
) -> tuple[AttributionFigures, AttributionFigures]:  # fmt: skip
    """Draw integrated gradients and Grad-CAM of the outputs to explain.

    Args:
        network: In evaluation mode.
        x: Standardised frames (1, T, F).
        base: Frames (T, F) under the pictures.
        predictions: Probabilities or values by target.
        y: True values by target.
        scene: Axes of the frames.
        only: The one target to explain; None: all of them.
    """
    items = [item for item in explained_outputs(network, predictions, y) if only in (None, item[0])]
    parts, cam = AttributionFigures(), AttributionFigures()
    maps = last_maps(network, x)
    for number, (name, index, words) in enumerate(track(items, len(items), "Attributions", "outputs")):
        scored = score(network, name, index)
        found = integrated_gradients(scored, x)
        grid = found.grid.double().numpy()
        about = f"Integrated gradients for {words}, laid over the frames."
        drawn = clip_axes.over(f"ig-{number}", about, scene, base, scene.cells(grid))
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
            cam.figures.append((caption, clip_axes.over(f"cam-{number}", about, scene, base, _spread(heat, scene))))
            cam.numbers.append({"what": words, "layer": maps[0], "grid": list(heat.shape), "max": float(heat.max())})
    return parts, cam


def attention(network: Learner, x: Tensor, base: np.ndarray, scene: Scene) -> AttributionFigures:
    """Draw the attention rollout of a transformer over the frames; nothing for other networks."""
    found = AttributionFigures()
    flow = attention_rollout(network.backbone, x, torch.tensor([x.shape[1]]))
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
    """Return feature maps (T', F') at the resolution of the frames (T, F) that they were pooled from."""
    time, bins = (_stride(count, cells) for count, cells in zip((scene.frames, scene.bins), grid.shape, strict=True))
    return scene.spread(grid, (0.0, time), (0.0, bins))


def _stride(count: int, cells: int) -> float:
    """Return the length of a cell: a power of two where one leaves as many cells, rounded up or down; else a share."""
    for power in range(9):
        if cells in (count // 2**power, -(-count // 2**power)):
            return float(2**power)
    return count / cells
