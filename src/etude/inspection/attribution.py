"""Attributions of an output to a clip by integrated gradients, Grad-CAM and attention rollout.

Rollout follows Abnar & Zuidema, 2020, "Quantifying attention flow in transformers". In each block, the attention is
averaged over attention heads and with the identity matrix (residual connection). The matrices of all blocks are
multiplied, but only for the row that is used, from the last block to the first.
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
from etude.embeddings.readouts import Readout
from etude.inspection.clip_axes import ClipAxes, draw_overlay, upsample_maps
from etude.inspection.hooks import POOLS, forward_hooks, is_transformer_block, join_patches
from etude.system.streams import track
from etude.training.network import Network

STEPS, BATCH_SIZE, ATTENTION_ROWS = 48, 8, 512  # the last two limit memory
CAPTUM_MISSING = "Attributions require captum, which is not installed: pip install 'etude[inspect]'"
OutputFunction = Callable[[Tensor], Tensor]
Cells = tuple[tuple[float, float], tuple[float, float]]


@dataclass
class Attribution:
    """Attribution of an output to the values of a clip.

    Args:
        contributions: Contribution of each value (T, F), in units of the output.
        output: Output for the clip.
        baseline: Output for the reference input, whose standardised frames are all 0, the mean training frame.
    """

    contributions: Tensor
    output: float
    baseline: float

    @property
    def error(self) -> float:
        """Sum of the contributions minus the difference of the outputs. Completeness requires 0."""
        return float(self.contributions.double().sum()) - (self.output - self.baseline)


@dataclass
class Rollout:
    """Attention rollout over a clip.

    Args:
        weights: Weight of each patch (columns, rows).
        token_weight: Total weight of the tokens that are not patches, such as the class token.
        cells: Start of the first cell and length of a cell, along the frames and along the bins. A cell is the centre
            of a patch, with the length of the stride.
    """

    weights: Tensor
    token_weight: float
    cells: Cells


@dataclass
class AttributionFigures:
    """Figures with captions, and the numbers of each figure."""

    figures: list[tuple[str, str]] = field(default_factory=list)
    numbers: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class AttentionCall:
    """Call of an attention module, with its input (1, N, D), mask and output (1, N, D)."""

    module: Any
    x: Tensor
    mask: Tensor | None
    out: Tensor


def is_captum_installed() -> bool:
    """Return whether captum is installed."""
    try:
        return find_spec("captum") is not None
    except ValueError:  # sys.modules has an entry without a specification
        return False


def output_function(network: Network, name: str, index: int) -> OutputFunction:
    """Return a function that maps standardised, unpadded frames (B, T, F) to one output of a target (B,).

    Args:
        network: Network in evaluation mode.
        name: Name of the target.
        index: Index of a class, or 0 for a scalar. The output of a class is its value before the softmax.
    """

    def compute_output(x: Tensor) -> Tensor:
        lengths = torch.full((len(x),), x.shape[1])
        out = network.task(network.readout(network.backbone, x, lengths))[name]
        return network.task.targets[name].score(out)[:, index]

    return compute_output


def integrated_gradients(output: OutputFunction, x: Tensor, steps: int = STEPS) -> Attribution:
    """Compute integrated gradients with the mean training frame as reference.

    Sundararajan, Taly & Yan, 2017, "Axiomatic attribution for deep networks".

    Args:
        output: Function from frames (B, T, F) to outputs (B,).
        x: Standardised frames (1, T, F), in which 0 is the mean of each bin over the training split.
        steps: Number of points of the Gauss-Legendre quadrature.
    """
    from captum.attr import IntegratedGradients

    baseline = torch.zeros_like(x)
    contributions = IntegratedGradients(output).attribute(x, baseline, n_steps=steps, internal_batch_size=BATCH_SIZE)
    with torch.no_grad():
        outputs = output(torch.cat([x, baseline]))
    return Attribution(contributions[0].detach(), float(outputs[0]), float(outputs[1]))


def grad_cam(output: OutputFunction, layer: nn.Module, x: Tensor, time_axis: int, patch: int | None = None) -> Tensor:
    """Compute Grad-CAM, the positive part of the sum of feature maps weighted by their mean gradients.

    Selvaraju et al., 2017, "Grad-CAM".

    Args:
        output: Function from frames (B, T, F) to outputs (B,).
        layer: Module that returns the feature maps (B, C, ., .).
        x: Standardised frames (1, T, F).
        time_axis: Axis of the feature maps that is time, 2 or 3.
        patch: Same as `patch_frames` of `Backbone`.

    Returns:
        Values (T', F').
    """
    from captum.attr import LayerGradCam

    values = join_patches(LayerGradCam(output, layer).attribute(x, relu_attributions=True), patch, x.shape[1])
    return values[0, 0].detach() if time_axis == 2 else values[0, 0].detach().T


def last_feature_maps(network: Network, x: Tensor) -> tuple[str, nn.Module] | None:
    """Return name and module of the last feature maps before pooling that influence the embedding, if there are any."""
    modules = {name: module for name, module in network.backbone.named_modules() if name}
    if any(map(is_transformer_block, modules.values())):
        return None
    candidates: list[tuple[str, nn.Module, Tensor]] = []

    def record(name: str, module: nn.Module, out: object) -> None:
        if not isinstance(out, Tensor) or out.ndim != 4 or isinstance(module, (*POOLS, nn.Identity)):
            return
        if out.shape[2] * out.shape[3] > 1:
            candidates.append((f"backbone.{name}", module, out))

    x = x.detach().requires_grad_()
    with torch.enable_grad(), forward_hooks(modules, record):
        z = network.readout(network.backbone, x, torch.tensor([x.shape[1]]))
    # a read-out of an early layer does not depend on the feature maps after it
    gradients = torch.autograd.grad(z.sum(), [x, *(out for *_, out in candidates)], allow_unused=True)[1:]
    used = [entry[:2] for entry, gradient in zip(candidates, gradients, strict=True) if gradient is not None]
    return used[-1] if used else None


def attention_rollout(backbone: Backbone, x: Tensor, lengths: Tensor, readout: Readout | None = None) -> Rollout | None:
    """Compute the attention rollout of one clip, or return None if the backbone is not a transformer over patches.

    Args:
        backbone: Backbone in evaluation mode, in which no patch is dropped.
        x: Standardised frames (1, T, F).
        lengths: Number of frames (1,).
        readout: Read-out of the patches of some layers. The rollouts of its layers are averaged with its weights.
    """
    if not isinstance(backbone, AST):
        return None
    patches = backbone.patches
    shapes: list[torch.Size] = []
    hook = patches.filters.register_forward_hook(lambda *passed: shapes.append(passed[-1].shape))
    try:
        with torch.no_grad(), record_attention(backbone) as blocks:
            backbone(x, lengths) if readout is None else readout(backbone, x, lengths)
    finally:
        hook.remove()
    if not blocks:  # some transformers of timm have another kind of attention
        return None
    columns, rows = shapes[0][2:]
    n_tokens, count = patches.tokens.shape[1], blocks[0].x.shape[1]
    with torch.no_grad():
        if readout is None or readout.layers is None:
            weights = rollout(blocks, backbone.token_weights(count))
        else:
            row = (torch.arange(count) >= n_tokens) / (count - n_tokens)
            rollouts = torch.stack([rollout(blocks[:layer], row) for layer in readout.layers])
            weights = (readout.layer_weights()[:, None] * rollouts).sum(0)
    size, stride = patches.filters.kernel_size, patches.filters.stride
    time, bins = (((size[k] - stride[k]) / 2, float(stride[k])) for k in (0, 1))
    return Rollout(weights[n_tokens:].unflatten(0, (columns, rows)), float(weights[:n_tokens].sum()), (time, bins))


def rollout(blocks: list[AttentionCall], readout: Tensor) -> Tensor:
    """Return the contribution of each input token to the read-out (N,), with sum 1.

    Args:
        blocks: Attention of all blocks, first to last.
        readout: Weight of each token in the read-out (N,), with sum 1.
    """
    row = readout
    for block in reversed(blocks):
        flow = torch.zeros_like(row)
        for start in range(0, len(row), ATTENTION_ROWS):
            rows = slice(start, start + ATTENTION_ROWS)
            if row[rows].any():
                flow += row[rows] @ attention_weights(block, rows).mean(1)[0]
        row = (row + flow) / 2
    return row


@contextmanager
def record_attention(backbone: nn.Module) -> Iterator[list[AttentionCall]]:
    """Record the calls of all attention modules, in the order in which they run."""
    calls: list[AttentionCall] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        mask = kwargs.get("attn_mask", args[1] if len(args) > 1 else None)
        calls.append(AttentionCall(module, args[0].detach(), mask, out.detach()))

    modules: list[Any] = [module.attn for module in backbone.modules() if is_transformer_block(module)]
    hooks = [module.register_forward_hook(record, with_kwargs=True) for module in modules]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def attention_weights(call: AttentionCall, rows: slice = slice(None)) -> Tensor:
    """Compute the attention weights (1, heads, rows, N) of tokens, which fused attention does not return."""
    module, x = call.module, call.x
    q, k, _ = module.qkv(x).unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = module.q_norm(q)[:, :, rows], module.k_norm(k)
    logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if call.mask is not None:
        logits = logits.masked_fill(~call.mask, -torch.inf)
    return logits.softmax(-1)


def explained_outputs(
    network: Network, predictions: dict[str, Tensor], y: dict[str, Tensor]
) -> list[tuple[str, int, str]]:
    """Return target, index and title of the outputs to explain. A label has its predicted and its true class."""
    outputs = []
    for name, target in network.task.targets.items():
        if target.kind == "scalar":
            outputs.append((name, 0, name))
            continue
        classes, predicted = target.classes, int(predictions[name].argmax())
        outputs.append((name, predicted, f"{name} = {classes[predicted]}, predicted"))
        true = int(y[name][0])
        if true == predicted:
            outputs[-1] = (name, predicted, f"{name} = {classes[predicted]}, predicted and true")
        elif true >= 0:
            outputs.append((name, true, f"{name} = {classes[true]}, true"))
    return outputs


def draw_attributions(
    network: Network, x: Tensor, frames: np.ndarray, predictions: dict[str, Tensor], y: dict[str, Tensor],
    clip_axes: ClipAxes, only: str | None = None,
) -> tuple[AttributionFigures, AttributionFigures]:  # fmt: skip
    """Draw integrated gradients and Grad-CAM of the outputs to explain.

    Args:
        network: Network in evaluation mode.
        x: Standardised frames (1, T, F).
        frames: Frames (T, F) in the background of the figures.
        predictions: Probabilities or values by target.
        y: True values by target.
        clip_axes: Axes of the frames.
        only: Name of the only target to explain; None for all targets.

    Returns:
        Figures of integrated gradients and of Grad-CAM. A network without feature maps has no Grad-CAM.
    """
    outputs = [output for output in explained_outputs(network, predictions, y) if only in (None, output[0])]
    gradients, cam = AttributionFigures(), AttributionFigures()
    maps, net = last_feature_maps(network, x), network.backbone
    count = len(outputs) * (-(-STEPS // BATCH_SIZE) + 1)  # batches of points, and the outputs at both ends
    progress = track(range(count), count, "Attributions", "batches")
    for number, (name, index, title) in enumerate(outputs):
        output = output_function(network, name, index)

        def counted(points: Tensor, output: Callable[[Tensor], Tensor] = output) -> Tensor:
            next(progress, None)
            return output(points)

        attribution = integrated_gradients(counted, x)
        cells = clip_axes.sum_over_cells(attribution.contributions.double().numpy())
        description = f"Integrated gradients for {title}, over the frames."
        gradients.figures.append((title, draw_overlay(f"ig-{number}", description, clip_axes, frames, cells)))
        gradients.numbers.append({
            "title": title, "output": attribution.output, "baseline": attribution.baseline,
            "sum": float(attribution.contributions.double().sum()), "error": attribution.error,
        })  # fmt: skip
        if maps is not None:
            layer, module = maps
            heat = grad_cam(output, module, x, max(2, net.axis), net.patch_frames).double().numpy()
            description = f"Grad-CAM at {layer} for {title}, over the frames."
            caption = title if heat.max() > 0 else f"{title} (no positive values)"
            upsampled = upsample_maps(heat, clip_axes)
            cam.figures.append((caption, draw_overlay(f"cam-{number}", description, clip_axes, frames, upsampled)))
            cam.numbers.append({"title": title, "layer": layer, "shape": list(heat.shape), "max": float(heat.max())})
    next(progress, None)  # ends the progress
    return gradients, cam


def draw_attention_rollout(network: Network, x: Tensor, frames: np.ndarray, clip_axes: ClipAxes) -> AttributionFigures:
    """Draw the attention rollout of a transformer over the frames. Other networks have no figure."""
    drawn = AttributionFigures()
    result = attention_rollout(network.backbone, x, torch.tensor([x.shape[1]]), network.readout)
    if result is None:
        return drawn
    weights = result.weights.double().numpy()
    relative = clip_axes.upsample(weights / weights.mean() - 1, *result.cells)
    description = "Attention rollout from the read-out to the patches, over the frames."
    caption = (
        "Attention rollout: weight of each patch divided by the mean, minus 1. Blue: above the mean. Orange: below."
    )
    drawn.figures.append((caption, draw_overlay("rollout", description, clip_axes, frames, relative)))
    drawn.numbers.append({
        "patches": list(weights.shape), "sum": float(weights.sum()), "token_weight": result.token_weight,
        "largest": float(weights.max() / weights.mean()), "rollout": np.round(weights, 6).tolist(),
    })  # fmt: skip
    return drawn
