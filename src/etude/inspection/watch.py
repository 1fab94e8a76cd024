"""Which parts of a network are looked at, and hooks that leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from etude.backbones.convnet import AdaptiveMaxPool

if TYPE_CHECKING:
    from etude.learner import Learner

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
        whole = attends(module)
        if isinstance(module, PARTS) or id(module) in layers or whole:
            found[path] = module
        if not whole:
            for name, child in module.named_children():
                walk(f"{path}.{name}", child)

    walk("backbone", network.backbone)
    walk("heads", network.task.heads)
    return found


def attends(module: nn.Module) -> bool:
    """Whether a module is a transformer block of timm's."""
    return hasattr(getattr(module, "attn", None), "qkv")


def first(out: Any) -> Tensor:
    """The tensor in what a part gave, of which others follow: lengths, states."""
    while not isinstance(out, Tensor):
        out = out[0]
    return out
