"""The last block of a transformer, for the few tokens that are read after it: the same numbers for less work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from timm.models.vision_transformer import Attention  # type: ignore[attr-defined]


def last(block: nn.Module, tokens: Tensor, count: int, mask: Tensor | None = None) -> Tensor:
    """The first tokens after a block.

    All tokens have keys and values, but only those that are read need queries, a projection and the MLP. That is exact,
    in training too. A block that is watched by hooks is run whole, so that these see what they are there for; so is one
    of a kind that is not known.

    Args:
        block: timm's block.
        tokens: All tokens (B, N, D).
        count: How many are read.
        mask: Which tokens are there, (B, 1, 1, N) bool; none when all are.

    Returns:
        Tokens (B, count, D).
    """
    from timm.models.vision_transformer import Attention, Block  # type: ignore[attr-defined]

    watched = any(part._forward_hooks or part._forward_pre_hooks for part in block.modules())
    if (
        watched
        or type(block) is not Block
        or type(block.attn) is not Attention
        or getattr(block.attn, "gate", None) is not None
    ):
        return block(tokens, attn_mask=mask)[:, :count]
    read = tokens[:, :count]
    read = read + block.drop_path1(block.ls1(_attend(block.attn, block.norm1(tokens), count, mask)))
    return read + block.drop_path2(block.ls2(block.mlp(block.norm2(read))))


def _attend(attention: Attention, x: Tensor, count: int, mask: Tensor | None) -> Tensor:
    """Attention of the first tokens to all: (B, N, D) to (B, count, D)."""
    weight, bias = attention.qkv.weight, attention.qkv.bias
    width = len(weight) // 3
    query = F.linear(x[:, :count], weight[:width], None if bias is None else bias[:width])
    key, value = F.linear(x, weight[width:], None if bias is None else bias[width:]).chunk(2, dim=-1)
    q, k, v = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
    q, k = attention.q_norm(q), attention.k_norm(k)
    dropped = attention.attn_drop.p if attention.training else 0.0
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropped)
    x = getattr(attention, "norm", nn.Identity())(x.transpose(1, 2).flatten(2))
    return attention.proj_drop(attention.proj(x))
