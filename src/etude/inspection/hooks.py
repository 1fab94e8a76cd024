"""Activations and gradients of the layers of a network, by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from etude.backbones.convnet import AdaptiveMaxPool

if TYPE_CHECKING:
    from etude.training.learner import Learner


RECTIFIERS = (nn.ReLU, nn.Hardswish, nn.SiLU)
POOLS = (_MaxPoolNd, _AvgPoolNd, _AdaptiveMaxPoolNd, AdaptiveMaxPool)
PARTS = (_ConvNd, nn.Linear, nn.RNNBase, *RECTIFIERS, *POOLS)


@contextmanager
def watching(modules: Mapping[str, nn.Module], seen: Callable[[str, nn.Module, Any], None]) -> Iterator[None]:
    """Call `seen` with name, module and output whenever one of the modules has run; afterwards nothing is left."""
    hooks = [
        module.register_forward_hook(lambda module, _, out, name=name: seen(name, module, out))  # type: ignore[misc]
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def parts(network: Learner) -> dict[str, nn.Module]:
    """What is shown of a network, by path: its layers, and in them convolutions, LSTMs, rectifiers, pools; heads.

    A transformer block is one part, and what its attention attends to is shown by itself.
    """
    layers = {id(layer) for layer in network.backbone.layers()}
    found: dict[str, nn.Module] = {}

    def walk(path: str, module: nn.Module) -> None:
        whole = is_transformer_block(module)
        if isinstance(module, PARTS) or id(module) in layers or whole:
            found[path] = module
        if not whole:
            for name, child in module.named_children():
                walk(f"{path}.{name}", child)

    walk("backbone", network.backbone)
    walk("heads", network.task.heads)
    return found


def is_transformer_block(module: nn.Module) -> bool:
    """Return whether a module is a transformer block of timm's."""
    return hasattr(getattr(module, "attn", None), "qkv")


def first(out: Any) -> Tensor:
    """The tensor in what a part gave, of which others follow: lengths, states."""
    while not isinstance(out, Tensor):
        out = out[0]
    return out


@dataclass
class Point:
    """A place in a network, and what passed there.

    Args:
        name: Its path, such as `backbone.blocks.0.conv`.
        module: What kind of part it is.
        value: What it gave (1, ...).
        gradient: Of the loss by that (1, ...); none where the loss does not hang on it.
        weight: Its weights, where it has one tensor of them, and `weight_gradient`, of the loss by these.
        weights: How many weights are in it.
        layer: Whether it is one of the backbone's layers.
        recurrent: Whether its values are states over time (1, T, H).
        time: Of pictures (1, C, ., .), which of the two last axes is the clip's time.
    """

    name: str
    module: str
    value: Tensor
    gradient: Tensor | None = None
    weight: Tensor | None = None
    weight_gradient: Tensor | None = None
    weights: int = 0
    layer: bool = False
    recurrent: bool = False
    time: int = 2


@dataclass
class Trace:
    """All that one clip left in a network.

    Args:
        x: Standardised frames (1, T, F).
        out: Outputs (1, K) by target, and `said`: probabilities (1, K) or values (1,).
        loss: The loss (), each target's own, and which targets had no true value and were taken at their word.
        points: Places from input to output.
    """

    x: Tensor
    out: dict[str, Tensor]
    said: dict[str, Tensor]
    loss: float
    each: dict[str, float]
    assumed: list[str]
    points: list[Point] = field(default_factory=list)


def trace(network: Learner, x: Tensor, y: Mapping[str, Tensor]) -> Trace:
    """Run a clip and go back from its loss.

    Args:
        network: In evaluation mode, which it is left in; its weights are not touched.
        x: Frames of the clip as its front end makes them (1, T, F).
        y: True values by target (1,); those that are missing are said by -1 or NaN.

    Returns:
        The trace. Where a label is missing, the loss is that against the class that is predicted; where a scalar is, it
        is the value itself that gradients are of, for its loss against itself is flat.
    """
    lengths = torch.tensor([x.shape[1]])
    frames = network.standardiser(x, lengths).detach().requires_grad_()
    layers = {id(layer) for layer in network.backbone.layers()}
    points = [Point("input", "frames", frames.detach())]
    backward = {id(module) for module in network.backbone.reversed_modules()}

    def seen(name: str, module: nn.Module, out: Any) -> None:
        value = first(out)
        if not value.is_floating_point():
            return
        value = value[None] if isinstance(module, nn.RNNBase) and value.ndim == 2 else value

        def turn(values: Tensor) -> Tensor:
            return values.flip(1) if id(module) in backward else values.clone()

        point = Point(name, type(module).__name__, turn(value.detach()), layer=id(module) in layers)
        point.time = max(2, network.backbone.axis)
        point.recurrent = isinstance(module, nn.RNNBase)
        point.weights = sum(weight.numel() for weight in module.parameters())
        points.append(point)
        if value.requires_grad:  # a hook on the tensor sees the gradient by what it is now, even if it is overwritten
            value.register_hook(lambda gradient: setattr(point, "gradient", turn(gradient.detach())))

    with torch.enable_grad(), watching(parts(network), seen):
        z = network.backbone(frames, lengths)
        out = network.task(z)
        aim, loss, each, assumed = objective(network, out, y)
        weights = dict(network.named_parameters())
        wanted = {name: weight for name, weight in weights.items() if weight.requires_grad}
        gradients = torch.autograd.grad(aim, [frames, z, *wanted.values()], allow_unused=True)
    points[0].gradient = gradients[0]
    by_name = dict(zip(wanted, gradients[2:], strict=True))
    for point in points:
        key = f"{'task.' if point.name.startswith('heads') else ''}{point.name}.weight"
        if key in weights:
            point.weight, point.weight_gradient = weights[key].detach(), by_name.get(key)
    place = next((k for k, point in enumerate(points) if point.name.startswith("heads")), len(points))
    points.insert(place, Point("embedding", "before the heads", z.detach(), gradients[1]))
    said = network.task.predict(out)
    plain = {name: float(value.detach()) for name, value in each.items()}
    points += [Point(f"probabilities.{name}", "softmax", said[name]) for name, target in network.task.targets.items()
               if target.kind == "label"]  # fmt: skip
    outputs = {name: value.detach() for name, value in out.items()}
    return Trace(frames.detach(), outputs, said, float(loss.detach()), plain, assumed, points)


def objective(
    network: Learner, out: dict[str, Tensor], y: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor], list[str]]:
    """What is differentiated, the loss in it, that of each target, and the targets that have no true value."""
    targets, true, extra, assumed = network.task.targets, {}, [], []
    said = network.task.predict(out)
    for name, target in targets.items():
        true[name] = y[name]
        if not bool(target.known(y[name]).all()):
            assumed.append(name)
            if target.kind == "label":
                true[name] = said[name].argmax(1)
            else:
                extra.append(target.score(out[name]).sum())
    loss, each = network.task.loss(out, true)
    return loss + sum(extra), loss, {name: value for name, value in each.items() if name not in assumed}, assumed
