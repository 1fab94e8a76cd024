"""Attention weights of a transformer and their rollout.

Abnar & Zuidema, 2020, "Quantifying attention flow in transformers": the mean over heads, half of it and half of each
token itself for the residual path, multiplied through the blocks. What is read at the end is one row of that product,
so that one row is carried through the blocks, from the last to the first, and no product of matrices is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from etude.backbones.patches import Patches
from etude.inspection.hooks import attends

if TYPE_CHECKING:
    from etude.backbones.base import Backbone


Cells = tuple[tuple[float, float], tuple[float, float]]
ROWS = 512  # of a block's weights at a time


@dataclass
class Attended:
    """Attention that ran: the module, its input (1, N, D), its mask and its output (1, N, D)."""

    module: Any
    x: Tensor
    mask: Tensor | None
    out: Tensor


@contextmanager
def attending(backbone: nn.Module) -> Iterator[list[Attended]]:
    """Collect what goes into each attention and comes out, in the order in which they run."""
    found: list[Attended] = []

    def seen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        mask = kwargs.get("attn_mask", args[1] if len(args) > 1 else None)
        found.append(Attended(module, args[0].detach(), mask, out.detach()))

    modules: list[Any] = [part.attn for part in backbone.modules() if attends(part)]
    hooks = [module.register_forward_hook(seen, with_kwargs=True) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def weights(attended: Attended, rows: slice = slice(None)) -> Tensor:
    """Weights of some tokens' attention to all (1, heads, rows, N), which timm's fused attention does not give out."""
    module, x = attended.module, attended.x
    q, k, _ = module.qkv(x).unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = module.q_norm(q)[:, :, rows], module.k_norm(k)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if attended.mask is not None:
        scores = scores.masked_fill(~attended.mask, -torch.inf)
    return scores.softmax(-1)


def rollout(blocks: list[Attended], reads: Tensor) -> Tensor:
    """How much of what is read at the end flows from each token (N,), of sum 1.

    Args:
        blocks: Attention of every block, first to last.
        reads: How much each token counts for what is read (N,), of sum 1.
    """
    row = reads
    for block in reversed(blocks):
        flow = torch.zeros_like(row)
        for start in range(0, len(row), ROWS):
            part = slice(start, start + ROWS)
            if row[part].any():
                flow += row[part] @ weights(block, part).mean(1)[0]
        row = (row + flow) / 2
    return row


@dataclass
class Flow:
    """Rollout over a clip.

    Args:
        grid: Share of each patch (columns, rows).
        own: Share of the tokens that are no patches.
        cells: Where patches lie, each for the stride about its centre: first edge and size of one, in frames; in bins.
    """

    grid: Tensor
    own: float
    cells: Cells


def flow(backbone: Backbone, x: Tensor, lengths: Tensor) -> Flow | None:
    """Rollout of one clip through a transformer over patches; none for any other network.

    Args:
        backbone: In evaluation mode, in which no patch is dropped.
        x: Standardised frames (1, T, F).
        lengths: Their number (1,).
    """
    patches = next((part for part in backbone.modules() if isinstance(part, Patches)), None)
    if patches is None:
        return None
    shapes: list[torch.Size] = []
    hook = patches.filters.register_forward_hook(lambda *passed: shapes.append(passed[-1].shape))
    try:
        with torch.no_grad(), attending(backbone) as blocks:
            backbone(x, lengths)
    finally:
        hook.remove()
    if not blocks:
        return None
    columns, rows = shapes[0][2:]
    own, count = patches.tokens.shape[1], blocks[0].x.shape[1]
    reads = torch.zeros(count)
    reads[slice(own, None) if getattr(backbone, "mean", False) else slice(getattr(backbone, "read", 1))] = 1
    with torch.no_grad():
        shares = rollout(blocks, reads / reads.sum())
    size, stride = patches.filters.kernel_size, patches.filters.stride
    first, second = (((size[k] - stride[k]) / 2, float(stride[k])) for k in (0, 1))
    return Flow(shares[own:].unflatten(0, (columns, rows)), float(shares[:own].sum()), (first, second))
