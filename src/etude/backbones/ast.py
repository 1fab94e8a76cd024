"""Audio Spectrogram Transformer (Gong, Chung & Glass, 2021).

Gong, Chung & Glass, 2021, "AST: Audio Spectrogram Transformer". The transformer is any of timm's; patches, their places
and the mask that hides what is not there are ours, so that a clip may have any length.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.backbones.base import Backbone
from etude.backbones.patches import LearnedPositions, Patches, SinusoidalPositions, State
from etude.backbones.vit_checkpoints import IMAGENET, PICTURE, fit, full_name, kind, misfit, read_weights, transformer
from etude.files.safe_read import read_tensors

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


class AST(Backbone):
    """Transformer over spectrogram patches, read out at its class token.

    Args:
        bins: Feature bins per frame, F.
        model: A vision transformer of timm by its name, or `tiny` (5 M weights), `small` (22 M) or `base` (86 M). One
            with a distillation token is read out at both, and their mean is the embedding.
        weights: What it begins from: `imagenet`, for timm's; a file of timm's names, or of an AST of `transformers`;
            none begins with random weights. Weights of AudioSet hear through `feature=audioset`.
        depth: How many of its blocks, from the first; none for all.
        patch: Side of a patch, in frames and bins, none for the model's; fewer bins than this make lower patches.
        fstride: Bins from one patch to the next.
        tstride: Frames from one patch to the next.
        span: Frames over which the places that come with weights are spread.
        pool: `token`, or `mean` over all patches; none for the model's.
        dropout: Probability of dropping a unit of the attention's output and of the MLP.
        drop_path: Probability of skipping a block, rising linearly to this at the last.
        drop_time: Share of columns of patches dropped in training, in [0, 1) (PaSST, Koutini et al., 2022).
        drop_frequency: Share of rows of patches dropped in training.
        drop_patches: Share of the remaining patches dropped in training.

    Attributes:
        dim: Size of the embedding, D.

    Raises:
        ValueError: A name or a share is not one of those.
    """

    hears = "etude.audio.kaldi.ASTFront"  # for weights that are raw

    def __init__(
        self,
        bins: int,
        model: str = "tiny",
        weights: str | None = None,
        depth: int | None = None,
        patch: int | None = None,
        fstride: int = 10,
        tstride: int = 10,
        span: int = 1024,
        pool: str | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.1,
        drop_time: float = 0.0,
        drop_frequency: float = 0.0,
        drop_patches: float = 0.0,
    ) -> None:
        super().__init__()
        net = transformer(model, depth, proj_drop_rate=dropout, drop_path_rate=drop_path)
        self.model, self.weights, self.depth = model, weights, depth
        self.dim, own = net.embed_dim, net.num_prefix_tokens
        self.mean = (pool or {"avg": "mean"}.get(net.global_pool, "token")) == "mean"
        if pool not in (None, "token", "mean") or not (self.mean or net.has_class_token):
            raise ValueError(f"backbone.pool must be token, where the model has one, or mean, got {pool!r}")
        self.read = 2 if hasattr(net, "dist_token") else 1  # class token, distillation token
        self.placed = 0 if net.no_embed_class else own  # tokens that have a place in timm's table
        patch = patch or net.patch_embed.patch_size[0]
        height = min(patch, bins)
        filters = nn.Conv2d(
            1, self.dim, (patch, height), (tstride, fstride), bias=net.patch_embed.proj.bias is not None
        )
        rows, columns = (bins - height) // fstride + 1, max(0, span - patch) // tstride + 1
        places = SinusoidalPositions(rows, self.dim) if weights is None else LearnedPositions(rows, columns, self.dim)
        self.patches = Patches(filters, places, own, net.norm_pre, (drop_time, drop_frequency, drop_patches))
        self.blocks, self.least = nn.ModuleList(net.blocks), 2 * patch
        self.steps = len(self.blocks)
        self.norm, self.fc_norm = net.norm, net.fc_norm  # one before the tokens are pooled or one after
        self.apply(_init)

    @property
    def raw(self) -> bool:  # type: ignore[override]
        """Whether its weights know the scale of AudioSet's frames, as their keys say. Without the file: no."""
        if self.weights in (None, IMAGENET) or not Path(str(self.weights)).is_file():
            return False
        return kind(read_tensors(Path(str(self.weights)))) != PICTURE

    def begin(self, x: Tensor, lengths: Tensor) -> State:
        """Frames (B, T, F) and valid frames (B,) to what goes into the first block."""
        return self.patches(x, lengths)

    def step(self, place: int, state: tuple[Any, ...]) -> State:
        """Through one block. After the last one only the tokens are there that are read."""
        block, (tokens, counts, mask) = self.blocks[place], state
        if place == len(self.blocks) - 1 and not self.mean:
            return State(last(block, tokens, self.read, mask), counts.clamp(max=self.read), None)
        return State(block(tokens, attn_mask=mask), counts, mask)

    def end(self, state: tuple[Any, ...]) -> Tensor:
        """What comes out of the last block to the embedding (B, D)."""
        tokens, _, mask = state
        tokens = self.norm(tokens)
        if not self.mean:
            z = tokens.mean(1)
        else:
            own = self.patches.tokens.shape[1]
            mask = tokens.new_ones(tokens.shape[:2]) if mask is None else mask[:, 0, 0].to(tokens.dtype)
            z = (tokens * mask[..., None])[:, own:].sum(1) / mask[:, own:].sum(1, keepdim=True)
        return self.fc_norm(z)

    def together(self, values: Sequence[Tensor], lengths: Tensor) -> State:
        """As of every backbone; what a clip does not have is hidden from the others' tokens by a new mask."""
        return State.of(*super().together(values, lengths))

    def token_weights(self, count: int) -> Tensor:
        """Return the weight of each of `count` tokens of a whole clip in the embedding (count,), of sum 1."""
        weights = torch.zeros(count)
        weights[slice(self.patches.tokens.shape[1], None) if self.mean else slice(self.read)] = 1
        return weights / weights.sum()

    def for_export(self) -> Self:
        """Return a copy whose tokens are always masked."""
        copy = super().for_export()
        copy.patches.traceable = True
        return copy

    def layers(self) -> list[nn.Module]:
        """Patches with their places and tokens, blocks, final norm."""
        parts = [self.patches, *self.blocks, self.norm, self.fc_norm]
        return [part for part in parts if next(part.parameters(), None) is not None]

    def initialise(self) -> None:
        """Read the weights that were trained elsewhere.

        Raises:
            UserError: They cannot be had, or are of another network.
        """
        if self.weights is None:
            return
        found = read_weights(self.weights, full_name(self.model))
        own = self.state_dict()
        try:
            fitted = fit(found, own, self.placed, None if self.weights == IMAGENET else Path(self.weights).parent)
            self.load_state_dict({key: value for key, value in fitted.items() if key in own or self.depth is None})
        except (KeyError, RuntimeError) as error:
            raise misfit(self.weights, self.model, error) from error


def _init(module: nn.Module) -> None:
    """Truncated normal weights and zero biases, as in ViT."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
