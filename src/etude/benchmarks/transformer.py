"""The AST against that of `transformers`, the same function of the same weights, and against itself with less to do."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import torch
from torch import Tensor, nn

from etude.backbones.ast import AST
from etude.benchmarks.timing import Bar, Section, peak
from etude.benchmarks.training import CLASSES, Classifier, clips, compare, steps
from etude.embeddings.cache import EmbeddingCache
from etude.training.transfer import Transfer, layer_indices, parameter_layer_index

FRAMES, CROPS, DEPTH, LEARNING, BATCH, ROUNDS = 1293, (512, 256), 12, 2, 2, 3
BINS, TINY = 128, "deit_tiny_distilled_patch16_224"  # with two tokens that are read, as the AST has
SDPA, EAGER, OURS = "transformers, sdpa", "transformers, eager", "ours"
HALF, FROZEN = "ours, half of the columns of patches dropped", "ours, frozen but the last two blocks"
KEPT = "ours, the same, what leaves the frozen blocks kept"


class Peer(nn.Module):
    """ASTForAudioClassification, tiny.

    Args:
        attention: How `transformers` computes it: `sdpa` or `eager`.
    """

    def __init__(self, attention: str) -> None:
        super().__init__()
        transformers: Any = import_module("transformers")
        self.net = transformers.ASTForAudioClassification(
            transformers.ASTConfig(
                hidden_size=192, num_hidden_layers=DEPTH, num_attention_heads=3, intermediate_size=768,
                num_mel_bins=BINS, max_length=FRAMES, num_labels=CLASSES, attn_implementation=attention,
                layer_norm_eps=1e-6,  # timm's, and so that of the AST as it was published
            )
        )  # fmt: skip

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Frames (B, T, F) to scores (B, K)."""
        return self.net(x).logits


class Kept(nn.Module):
    """A network whose frozen blocks run once for each clip of a batch.

    Args:
        net: Of which the last two blocks and the head learn.
    """

    def __init__(self, net: Classifier) -> None:
        super().__init__()
        self.net = net
        self.cache = EmbeddingCache(net.backbone, net.backbone.steps - LEARNING, Path(gettempdir()))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Frames (B, T, F) and valid frames (B,) to scores (B, K)."""
        return self.net.head(self.cache.embed(x, lengths, torch.arange(len(x))))


def section() -> Section:
    """Time a training step; without `transformers`, ours alone."""
    peers = find_spec("transformers") is not None
    batch = [clips([FRAMES] * BATCH, BINS)]
    ours = Classifier(_ast(DEPTH))
    contenders: dict[str, Callable[[], object]] = {}
    if peers:
        contenders[SDPA] = steps(Peer("sdpa"), batch)
        contenders[EAGER] = steps(Peer("eager"), batch)
    contenders[OURS] = steps(ours, batch)
    contenders[HALF] = steps(Classifier(_ast(DEPTH, drop_time=0.5)), batch)
    for frames in CROPS:
        contenders[f"ours, crops of {frames} frames"] = steps(ours, [clips([frames] * BATCH, BINS)])
    contenders[FROZEN] = steps(_frozen(Classifier(_ast(DEPTH))), batch)
    contenders[KEPT] = steps(Kept(_frozen(Classifier(_ast(DEPTH)))), batch)
    title = f"AST tiny, {BINS} x {FRAMES}, {DEPTH} blocks, a training step of {BATCH} clips; one thread"
    made, times = compare(title, contenders, ROUNDS)
    made.bars = [
        Bar("all patches against half of the columns dropped", times.ratio(OURS, HALF), 2.5),
        Bar("everything learning against the last two blocks", times.ratio(OURS, FROZEN), 2.2),
        Bar("everything learning against what leaves the frozen blocks kept", times.ratio(OURS, KEPT), 6),
    ]
    if not peers:
        made.notes = ["transformers is not installed and was not timed"]
        return made
    theirs, mine = peak(contenders[SDPA]), peak(contenders[OURS])
    made.bars = [
        Bar("transformers, sdpa, against ours", times.ratio(SDPA, OURS), 1.05),
        Bar("transformers, eager, against ours", times.ratio(EAGER, OURS), 1.8),
        *made.bars,
        Bar("peak memory of ours against transformers, sdpa", mine / theirs, 1, at_least=False),
        Bar("largest difference of an embedding from transformers", _difference(), 1e-5, False, ""),
    ]
    made.notes = [
        f"peak of what a step takes from torch's allocator, beside weights and AdamW's state: {theirs / 1e6:,.0f} MB "
        f"transformers, sdpa; {mine / 1e6:,.0f} MB ours"
    ]
    return made


def _ast(depth: int, **settings: Any) -> AST:
    return AST(BINS, TINY, depth=depth, drop_path=0.0, **settings)


def _frozen(net: Classifier) -> Classifier:
    """The same network of which the last two blocks and the head learn."""
    backbone = net.backbone
    frozen = Transfer(train="last_k", last_k=LEARNING).frozen_layers(layer_indices(backbone)[-1] + 1)
    for name, depth in parameter_layer_index(backbone).items():
        if depth < frozen:
            backbone.get_parameter(name).requires_grad_(False)
    return net


def _difference() -> float:
    """Largest difference of an embedding when ours has read the weights of theirs, as from any file of an AST."""
    import_module("transformers.utils.logging").disable_progress_bar()
    theirs = Peer("sdpa").eval().net
    with torch.no_grad(), TemporaryDirectory() as folder:
        for weight in theirs.parameters():
            if not weight.any():  # tokens and places begin at zero, where a mistake in them would not be seen
                weight.normal_(std=0.1)
        theirs.save_pretrained(folder)
        ours = _ast(DEPTH, weights=str(Path(folder) / "model.safetensors"), span=FRAMES).eval()
        ours.initialise()
        x, lengths, _ = clips([FRAMES] * BATCH, BINS)
        return float((ours(x, lengths) - theirs.audio_spectrogram_transformer(x).pooler_output).abs().max())
