"""Audio Spectrogram Transformer (Gong, Chung & Glass, 2021).

Source: Gong, Chung & Glass, 2021, "AST: Audio Spectrogram Transformer". The transformer blocks are timm's. Patch
extraction, positional embeddings and the padding mask are implemented here, so that a clip may have any length.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.backbones.base import Backbone
from etude.backbones.patches import Drop, LearnedPositions, Patches, SinusoidalPositions, TokenState
from etude.backbones.vit_checkpoints import (
    AUDIOSET_ROWS,
    IMAGE,
    IMAGENET,
    UNTRAINED,
    check_weights_file,
    convert_weights,
    create_transformer,
    full_name,
    mismatch_error,
    read_weights,
    rows_of_ast,
    weights_kind,
)
from etude.errors import UserError
from etude.files.published import AST as PUBLISHED
from etude.files.published import PublishedWeights
from etude.files.safe_read import read_tensors

if TYPE_CHECKING:
    from timm.models.vision_transformer import Attention  # type: ignore[attr-defined]

log = logging.getLogger(__name__)

LEARNED, SINUSOIDAL = "learned", "sinusoidal"  # positional embeddings


def first_tokens(block: nn.Module, tokens: Tensor, count: int, mask: Tensor | None = None) -> Tensor:
    """Compute only the first output tokens of a block.

    Keys and values are computed for all tokens, but queries, projection and MLP only for the requested ones. The result
    is exact, also in training. A block with hooks is run completely, so that the hooks receive its full output. A block
    of an unknown class is also run completely.

    Args:
        block: timm's block.
        tokens: All tokens (B, N, D).
        count: Number of tokens to return.
        mask: Mask of valid tokens, (B, 1, 1, N) bool; None when all are valid.

    Returns:
        Tokens (B, count, D).
    """
    from timm.models.vision_transformer import Attention, Block  # type: ignore[attr-defined]

    has_hooks = any(module._forward_hooks or module._forward_pre_hooks for module in block.modules())
    if (
        has_hooks
        or type(block) is not Block
        or type(block.attn) is not Attention
        or getattr(block.attn, "gate", None) is not None
    ):
        return block(tokens, attn_mask=mask)[:, :count]
    first = tokens[:, :count]
    first = first + block.drop_path1(block.ls1(_attend(block.attn, block.norm1(tokens), count, mask)))
    return first + block.drop_path2(block.ls2(block.mlp(block.norm2(first))))


def _attend(attention: Attention, x: Tensor, count: int, mask: Tensor | None) -> Tensor:
    """Compute the attention of the first tokens to all tokens, from (B, N, D) to (B, count, D)."""
    weight, bias = attention.qkv.weight, attention.qkv.bias
    width = len(weight) // 3
    query = F.linear(x[:, :count], weight[:width], None if bias is None else bias[:width])
    key, value = F.linear(x, weight[width:], None if bias is None else bias[width:]).chunk(2, dim=-1)
    q, k, v = (values.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for values in (query, key, value))
    q, k = attention.q_norm(q), attention.k_norm(k)
    dropped = attention.attn_drop.p if attention.training else 0.0
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropped)
    x = getattr(attention, "norm", nn.Identity())(x.transpose(1, 2).flatten(2))
    return attention.proj_drop(attention.proj(x))


class AST(Backbone):
    """Transformer over spectrogram patches, with the class token as embedding.

    Args:
        bins: Feature bins per frame, F.
        model: Name of a vision transformer of timm, or `tiny` (5 M weights), `small` (22 M) or `base` (86 M). With a
            distillation token, the embedding is the mean of the class token and the distillation token.
        weights: Initial weights: `imagenet` for the ImageNet weights of timm, `audioset` for the AST of its authors,
            which is downloaded, or a file with the parameter names of timm or of an AST of `transformers`; None for
            random weights. Weights trained on AudioSet require `feature=audioset`. `untrained` builds the network of
            pretrained weights with random weights, for short tests of a run without the weights.
        depth: Number of blocks, counted from the first; None for all.
        patch: Side of a patch, in frames and bins; None for the model's own value. If frames have fewer bins, the
            height of a patch is the number of bins.
        fstride: Bins from one patch to the next.
        tstride: Frames from one patch to the next.
        span: Number of frames that learned positional embeddings cover.
        positions: Positional embeddings: `learned`, a table over time and frequency, or `sinusoidal` in time and
            learned in frequency. Pretrained weights require `learned`. None for `learned` with pretrained weights, else
            `sinusoidal`.
        pool: `token`, or `mean` over all patches; None for the model's own method.
        dropout: Probability of dropping a unit of the attention's output and of the MLP.
        drop_path: Probability of skipping the last block. The probability increases linearly from the first block to
            the last.
        drop_time: Share of columns of patches dropped in training, in [0, 1) (PaSST, Koutini et al., 2022).
        drop_frequency: Share of rows of patches dropped in training.
        drop_patches: Share of the remaining patches dropped in training.

    Attributes:
        dim: Size of the embedding, D.

    Raises:
        ValueError: A name is unknown, a share is outside its range, or pretrained weights have no such positions.
        UserError: The named weights are those of another model.
    """

    published_weights: Mapping[str, PublishedWeights] = MappingProxyType(PUBLISHED)
    required_front_end = "etude.audio.kaldi.ASTFront"  # of weights for which standardisation is skipped

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
        positions: str | None = None,
        pool: str | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.1,
        drop_time: float = 0.0,
        drop_frequency: float = 0.0,
        drop_patches: float = 0.0,
    ) -> None:
        super().__init__()
        shares = {"drop_time": drop_time, "drop_frequency": drop_frequency, "drop_patches": drop_patches}
        if wrong := [name for name, share in shares.items() if not 0 <= share < 1]:
            raise ValueError(f"backbone.{wrong[0]} must be in [0, 1), got {shares[wrong[0]]}")
        if weights in PUBLISHED and model != (own_model := PUBLISHED[weights].options["model"]):
            raise UserError(
                f"backbone.model={model}: backbone.weights={weights} are the weights of another model; set "
                f"backbone.model={own_model}"
            )
        net = create_transformer(model, depth, proj_drop_rate=dropout, drop_path_rate=drop_path)
        self.model, self.weights, self.depth = model, weights, depth
        self.dim, n_prefix = net.embed_dim, net.num_prefix_tokens
        self.mean = (pool or {"avg": "mean"}.get(net.global_pool, "token")) == "mean"
        if pool not in (None, "token", "mean") or not (self.mean or net.has_class_token):
            raise ValueError(f"backbone.pool must be mean, or token if the model has a class token, got {pool!r}")
        self.n_read = 2 if hasattr(net, "dist_token") else 1  # class token, distillation token
        # prefix tokens with a positional embedding in timm's table
        self.n_placed_prefix = 0 if net.no_embed_class else n_prefix
        patch = patch or net.patch_embed.patch_size[0]
        height = min(patch, bins)
        filters = nn.Conv2d(
            1, self.dim, (patch, height), (tstride, fstride), bias=net.patch_embed.proj.bias is not None
        )
        rows, columns = (bins - height) // fstride + 1, max(0, span - patch) // tstride + 1
        positions = positions or (SINUSOIDAL if weights is None else LEARNED)
        if positions not in (LEARNED, SINUSOIDAL) or (positions == SINUSOIDAL and weights is not None):
            allowed = f"{LEARNED} or {SINUSOIDAL}" if weights is None else f"{LEARNED} with backbone.weights={weights}"
            raise ValueError(f"backbone.positions must be {allowed}, got {positions!r}")
        table = (
            LearnedPositions(rows, columns, self.dim) if positions == LEARNED else SinusoidalPositions(rows, self.dim)
        )
        self.rows = rows
        self.patches = Patches(filters, table, n_prefix, net.norm_pre, (drop_time, drop_frequency, drop_patches))
        self.blocks, self.min_frames = nn.ModuleList(net.blocks), 2 * patch
        self.steps = len(self.blocks)
        self.norm, self.fc_norm = net.norm, net.fc_norm  # timm's norm before pooling, or the one after it
        self.apply(_init_weights)

    @property
    def skips_standardisation(self) -> bool:  # type: ignore[override]
        """Return whether the weights expect the scale of AudioSet's frames.

        This is determined from the names of the tensors. The result is False if the file is missing.
        """
        if self.weights in PUBLISHED:
            return True
        if self.weights in (None, IMAGENET) or not Path(str(self.weights)).is_file():
            return False
        return weights_kind(read_tensors(Path(str(self.weights)))) != IMAGE

    def begin(self, x: Tensor, lengths: Tensor) -> TokenState:
        """Compute the input tokens of the first block from frames (B, T, F) and lengths (B,)."""
        return self.patches(x, lengths)

    def step(self, index: int, state: tuple[Any, ...]) -> TokenState:
        """Run one block. The last block returns only the tokens of the read-out."""
        block, (tokens, counts, mask) = self.blocks[index], state
        if index == len(self.blocks) - 1 and not self.mean:
            return TokenState(first_tokens(block, tokens, self.n_read, mask), counts.clamp(max=self.n_read), None)
        return TokenState(block(tokens, attn_mask=mask), counts, mask)

    def end(self, state: tuple[Any, ...]) -> Tensor:
        """Compute the embedding (B, D) from the output of the last block."""
        tokens, _, mask = state
        tokens = self.norm(tokens)
        if not self.mean:
            z = tokens.mean(1)
        else:
            n_prefix = self.patches.tokens.shape[1]
            mask = tokens.new_ones(tokens.shape[:2]) if mask is None else mask[:, 0, 0].to(tokens.dtype)
            z = (tokens * mask[..., None])[:, n_prefix:].sum(1) / mask[:, n_prefix:].sum(1, keepdim=True)
        return self.fc_norm(z)

    def hidden_states(self, x: Tensor, lengths: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Compute the states of all layers as in the base class.

        Patches of one column are averaged, so a state is a column of patches. State 0 is the embedding of the patches
        with their positions. The last state is the output of the last block after timm's norm before pooling.

        Raises:
            UserError: Single patches are dropped in training, so that columns are incomplete.
        """
        return self._run_with_states(x, lengths)[0]

    def forward_with_states(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Compute the outputs of `forward` and of `hidden_states`. Only the last block is run twice.

        For the embedding, it returns fewer tokens.
        """
        states, before_last = self._run_with_states(x, lengths)
        return self.forward_from(len(self.blocks) - 1, before_last), states

    def _run_with_states(self, x: Tensor, lengths: Tensor) -> tuple[list[tuple[Tensor, Tensor]], TokenState]:
        """Return the output of `hidden_states`, and the input of the last block."""
        _, in_frequency, anywhere = (cast(Drop, drop) for drop in self.patches.drop)
        if self.training and anywhere.p:
            raise UserError(
                f"backbone.drop_patches={anywhere.p:g}: a read-out of hidden states requires complete columns of "
                "patches; set backbone.drop_patches=0, and use drop_time or drop_frequency"
            )
        dropped = self.training and in_frequency.p
        rows = int(in_frequency.count_kept(torch.tensor(self.rows))) if dropped else self.rows
        tokens, counts, mask = self.patches(x, lengths)
        outputs = [tokens]
        for block in self.blocks:
            outputs.append(block(outputs[-1], attn_mask=mask))
        outputs[-1] = self.norm(outputs[-1])
        n_prefix = self.patches.tokens.shape[1]
        columns = (counts - n_prefix) // rows
        states = [(tokens[:, n_prefix:].unflatten(1, (-1, rows)).mean(2), columns) for tokens in outputs]
        return states, TokenState(outputs[-2], counts, mask)

    def collate(self, values: Sequence[Tensor], lengths: Tensor) -> TokenState:
        """Collate states as in the base class, with a new mask of valid tokens."""
        return TokenState.from_counts(*super().collate(values, lengths))

    def token_weights(self, count: int) -> Tensor:
        """Return the weights (count,) of the tokens of an unpadded clip in the embedding. They add up to 1."""
        weights = torch.zeros(count)
        weights[slice(self.patches.tokens.shape[1], None) if self.mean else slice(self.n_read)] = 1
        return weights / weights.sum()

    def for_export(self) -> Self:
        """Return a copy that always computes a token mask."""
        copy = super().for_export()
        copy.patches.traceable = True
        return copy

    def layers(self) -> list[nn.Module]:
        """Return the patch embedding with positions and tokens, the blocks, and the final norm."""
        modules = [self.patches, *self.blocks, self.norm, self.fc_norm]
        return [module for module in modules if next(module.parameters(), None) is not None]

    @classmethod
    def check_weights(cls, config: Mapping[str, Any]) -> None:
        """Check that the file of the weights exists, or download it. ImageNet weights are downloaded later."""
        if config.get("weights") != UNTRAINED:
            check_weights_file(config.get("weights"), PUBLISHED)

    def initialise(self) -> None:
        """Load the pretrained weights.

        Raises:
            UserError: The weights are not available, or belong to another network.
        """
        if self.weights is None:
            return
        if self.weights == UNTRAINED:
            log.warning("backbone.weights=%s: the weights are random, so the scores are meaningless", UNTRAINED)
            return
        tensors = read_weights(self.weights, full_name(self.model), PUBLISHED)
        own = self.state_dict()
        is_named = self.weights == IMAGENET or self.weights in PUBLISHED
        rows = AUDIOSET_ROWS if is_named else rows_of_ast(Path(self.weights).parent, self.rows)
        try:
            converted = convert_weights(tensors, own, self.n_placed_prefix, rows)
            self.load_state_dict({key: value for key, value in converted.items() if key in own or self.depth is None})
        except (KeyError, RuntimeError) as error:
            raise mismatch_error(self.weights, self.model, error) from error


def _init_weights(module: nn.Module) -> None:
    """Initialise weights from a truncated normal distribution and biases with zero, as in ViT."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
