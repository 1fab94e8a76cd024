"""Activations and gradients of the modules of a network, recorded by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from etude.backbones.convnet import AdaptiveMaxPool

if TYPE_CHECKING:
    from etude.training.network import Network


ACTIVATIONS = (nn.ReLU, nn.Hardswish, nn.SiLU)
POOLS = (_MaxPoolNd, _AvgPoolNd, _AdaptiveMaxPoolNd, AdaptiveMaxPool)
INSPECTED_TYPES = (_ConvNd, nn.Linear, nn.RNNBase, *ACTIVATIONS, *POOLS)


@contextmanager
def forward_hooks(modules: Mapping[str, nn.Module], callback: Callable[[str, nn.Module, Any], None]) -> Iterator[None]:
    """Call `callback` with name, module and output of each module that runs, and remove all hooks at the end."""
    hooks = [
        module.register_forward_hook(lambda module, _, out, name=name: callback(name, module, out))  # type: ignore[misc]
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def inspected_modules(network: Network) -> dict[str, nn.Module]:
    """Return the inspected modules of a network by path.

    These are the layers of the backbone, their convolutions, linear layers, LSTMs, activations and pools, and the
    modules of the heads. A transformer block is one module; its attention has a figure in `attribution`.
    """
    layers = {id(layer) for layer in network.backbone.layers()}
    modules: dict[str, nn.Module] = {}

    def visit(path: str, module: nn.Module) -> None:
        is_block = is_transformer_block(module)
        if isinstance(module, INSPECTED_TYPES) or id(module) in layers or is_block:
            modules[path] = module
        if not is_block:
            for name, child in module.named_children():
                visit(f"{path}.{name}", child)

    visit("backbone", network.backbone)
    visit("heads", network.task.heads)
    return modules


def is_transformer_block(module: nn.Module) -> bool:
    """Return whether a module is a transformer block of timm."""
    return hasattr(getattr(module, "attn", None), "qkv")


def first_tensor(out: Any) -> Tensor:
    """Return the first tensor of an output. Lengths or states may follow this tensor."""
    while not isinstance(out, Tensor):
        out = out[0]
    return out


def join_patches(value: Tensor, patch_frames: int | None, n_frames: int) -> Tensor:
    """Join the patches of one clip that a backbone processed as a batch.

    Args:
        value: Feature maps (N, C, T, F) or vectors (N, D) of N patches; or an output of the clip (1, ...).
        patch_frames: Number of frames of a patch; None if the backbone processes complete clips.
        n_frames: Number of frames of the clip.

    Returns:
        Feature maps (1, C, n_frames, F), which are 0 for frames after the last patch, or vectors (1, N, D). Other
        outputs are returned unchanged.
    """
    if value.ndim == 4 and value.shape[2] == patch_frames:
        joined = torch.cat(value.split(1), 2)
        return F.pad(joined, (0, 0, 0, n_frames - joined.shape[2]))
    return value[None] if value.ndim == 2 and len(value) > 1 else value


@dataclass
class ModuleRecord:
    """Output, gradient and weights of a module, or of another step between input and output.

    Args:
        name: Path, such as `backbone.blocks.0.conv`.
        module: Name of the module's class.
        value: Output (1, ...).
        gradient: Gradient of the loss with respect to the output (1, ...). None if the loss does not depend on it.
        weight: Weight tensor of a module that has exactly one.
        weight_gradient: Gradient of the loss with respect to `weight`.
        parameters: Number of parameters.
        layer: Whether the module is one of the backbone's layers.
        recurrent: Whether the output is a sequence of states (1, T, H).
        time_axis: Time axis of feature maps (1, C, ., .), 2 or 3.
    """

    name: str
    module: str
    value: Tensor
    gradient: Tensor | None = None
    weight: Tensor | None = None
    weight_gradient: Tensor | None = None
    parameters: int = 0
    layer: bool = False
    recurrent: bool = False
    time_axis: int = 2


@dataclass
class Trace:
    """Forward and backward pass of one clip.

    Args:
        x: Standardised frames (1, T, F).
        out: Outputs (1, K) by target.
        predictions: Probabilities (1, K) or values (1,) by target.
        loss: Total loss.
        losses: Loss of each target with a true value.
        unlabelled: Targets without a true value.
        records: Records from input to output.
    """

    x: Tensor
    out: dict[str, Tensor]
    predictions: dict[str, Tensor]
    loss: float
    losses: dict[str, float]
    unlabelled: list[str]
    records: list[ModuleRecord] = field(default_factory=list)


def trace(network: Network, x: Tensor, y: Mapping[str, Tensor]) -> Trace:
    """Run a clip forward and backward, and record the inspected modules.

    Args:
        network: Network in evaluation mode. It is not changed.
        x: Frames of the clip from the front end (1, T, F).
        y: True values by target (1,), -1 or NaN if they are missing.

    Returns:
        The trace. Without a true label, the loss is computed against the predicted class. Without a true scalar,
        the gradients are of the predicted value, because the loss between this value and itself has zero gradient.
    """
    lengths = torch.tensor([x.shape[1]])
    frames = network.standardiser(x, lengths).detach().requires_grad_()
    layers = {id(layer) for layer in network.backbone.layers()}
    records = [ModuleRecord("input", "frames", frames.detach())]
    reversed_modules = {id(module) for module in network.backbone.reversed_modules()}

    def record(name: str, module: nn.Module, out: Any) -> None:
        value = first_tensor(out)
        if not value.is_floating_point():
            return
        value = value[None] if isinstance(module, nn.RNNBase) and value.ndim == 2 else value

        def in_time_order(values: Tensor) -> Tensor:
            values = join_patches(values, network.backbone.patch_frames, x.shape[1])
            return values.flip(1) if id(module) in reversed_modules else values.clone()

        entry = ModuleRecord(name, type(module).__name__, in_time_order(value.detach()), layer=id(module) in layers)
        entry.time_axis = max(2, network.backbone.axis)
        entry.recurrent = isinstance(module, nn.RNNBase)
        entry.parameters = sum(weight.numel() for weight in module.parameters())
        records.append(entry)
        if value.requires_grad:  # a tensor hook gets the gradient of the current value, even if it is overwritten later
            value.register_hook(lambda gradient: setattr(entry, "gradient", in_time_order(gradient.detach())))

    with torch.enable_grad(), forward_hooks(inspected_modules(network), record):
        z = network.readout(network.backbone, frames, lengths)
        out = network.task(z)
        objective, loss, losses, unlabelled = compute_objective(network, out, y)
        weights = dict(network.named_parameters())
        trainable = {name: weight for name, weight in weights.items() if weight.requires_grad}
        gradients = torch.autograd.grad(objective, [frames, z, *trainable.values()], allow_unused=True)
    records[0].gradient = gradients[0]
    weight_gradients = dict(zip(trainable, gradients[2:], strict=True))
    for entry in records:
        key = f"{'task.' if entry.name.startswith('heads') else ''}{entry.name}.weight"
        if key in weights:
            entry.weight, entry.weight_gradient = weights[key].detach(), weight_gradients.get(key)
    first_head = next((k for k, entry in enumerate(records) if entry.name.startswith("heads")), len(records))
    records.insert(first_head, ModuleRecord("embedding", "input of the heads", z.detach(), gradients[1]))
    predictions = network.task.predict(out)
    records += [ModuleRecord(f"probabilities.{name}", "softmax", predictions[name])
                for name, target in network.task.targets.items() if target.kind == "label"]  # fmt: skip
    return Trace(
        frames.detach(), {name: value.detach() for name, value in out.items()}, predictions, float(loss.detach()),
        {name: float(value.detach()) for name, value in losses.items()}, unlabelled, records,
    )  # fmt: skip


def compute_objective(
    network: Network, out: dict[str, Tensor], y: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor], list[str]]:
    """Compute the scalar to differentiate, with predictions in place of missing true values.

    Returns:
        The objective, the total loss (a part of the objective), the loss of each target with a true value, and the
        targets without a true value.
    """
    targets, true, scores, unlabelled = network.task.targets, {}, [], []
    predictions = network.task.predict(out)
    for name, target in targets.items():
        true[name] = y[name]
        if not bool(target.has_label(y[name]).all()):
            unlabelled.append(name)
            if target.kind == "label":
                true[name] = predictions[name].argmax(1)
            else:
                scores.append(target.score(out[name]).sum())
    loss, losses = network.task.loss(out, true)
    known = {name: value for name, value in losses.items() if name not in unlabelled}
    return loss + sum(scores), loss, known, unlabelled
