"""Benchmark of the AST against the AST of `transformers` with equal weights, and of faster variants."""

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
from etude.backbones.base import layer_indices, parameter_layer_index
from etude.benchmarks.timing import (
    CLASSES,
    Classifier,
    Requirement,
    Section,
    compare_training,
    peak_memory,
    random_batch,
    training_steps,
)
from etude.embeddings.cache import EmbeddingCache
from etude.training.transfer import Transfer

FRAMES, CROPS, DEPTH, TRAINED_BLOCKS, BATCH, ROUNDS = 1293, (512, 256), 12, 2, 2, 3
BINS, TINY = 128, "deit_tiny_distilled_patch16_224"  # with two output tokens, as in the AST
SDPA, EAGER, ETUDE = "transformers, sdpa", "transformers, eager", "etude"
HALF, FROZEN = "etude, half of the columns of patches dropped", "etude, all but the last two blocks frozen"
CACHED = "etude, the same with cached outputs of the frozen blocks"


class HuggingFaceAST(nn.Module):
    """ASTForAudioClassification of `transformers`, size tiny.

    Args:
        attention: Implementation of the attention, `sdpa` or `eager`.
    """

    def __init__(self, attention: str) -> None:
        super().__init__()
        transformers: Any = import_module("transformers")
        self.net = transformers.ASTForAudioClassification(
            transformers.ASTConfig(
                hidden_size=192, num_hidden_layers=DEPTH, num_attention_heads=3, intermediate_size=768,
                num_mel_bins=BINS, max_length=FRAMES, num_labels=CLASSES, attn_implementation=attention,
                layer_norm_eps=1e-6,  # the value in timm, which the published AST uses
            )
        )  # fmt: skip

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return scores (B, K) of frames (B, T, F)."""
        return self.net(x).logits


class CachedClassifier(nn.Module):
    """Classifier whose frozen blocks run only once for each clip of a batch.

    Args:
        net: Classifier in which only the last two blocks and the head are trained.
    """

    def __init__(self, net: Classifier) -> None:
        super().__init__()
        self.net = net
        self.cache = EmbeddingCache(net.backbone, net.backbone.steps - TRAINED_BLOCKS, Path(gettempdir()))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return scores (B, K) of frames (B, T, F) and valid frames (B,)."""
        return self.net.head(self.cache.embed(x, lengths, torch.arange(len(x))))


def time_transformer() -> Section:
    """Measure a training step. Without `transformers`, only Étude's implementation is measured."""
    has_transformers = find_spec("transformers") is not None
    batch = [random_batch([FRAMES] * BATCH, BINS)]
    classifier = Classifier(_ast(DEPTH))
    functions: dict[str, Callable[[], object]] = {}
    if has_transformers:
        functions[SDPA] = training_steps(HuggingFaceAST("sdpa"), batch)
        functions[EAGER] = training_steps(HuggingFaceAST("eager"), batch)
    functions[ETUDE] = training_steps(classifier, batch)
    functions[HALF] = training_steps(Classifier(_ast(DEPTH, drop_time=0.5)), batch)
    for frames in CROPS:
        crops = random_batch([frames] * BATCH, BINS)
        functions[f"etude, crops of {frames} frames"] = training_steps(classifier, [crops])
    functions[FROZEN] = training_steps(_freeze(Classifier(_ast(DEPTH))), batch)
    functions[CACHED] = training_steps(CachedClassifier(_freeze(Classifier(_ast(DEPTH)))), batch)
    title = f"AST tiny, {BINS} x {FRAMES}, {DEPTH} blocks, training step of {BATCH} clips; one thread"
    section, times = compare_training(title, functions, ROUNDS)
    section.requirements = [
        Requirement("speed: half of the columns dropped / all patches", times.ratio(ETUDE, HALF), 2.5),
        Requirement("speed: last two blocks trained / all layers trained", times.ratio(ETUDE, FROZEN), 2.2),
        Requirement("speed: frozen blocks cached / all layers trained", times.ratio(ETUDE, CACHED), 6),
    ]
    if not has_transformers:
        section.notes = ["transformers is not installed and was not timed"]
        return section
    reference_memory, memory = peak_memory(functions[SDPA]), peak_memory(functions[ETUDE])
    section.requirements = [
        Requirement("speed: etude / transformers, sdpa", times.ratio(SDPA, ETUDE), 1.05),
        Requirement("speed: etude / transformers, eager", times.ratio(EAGER, ETUDE), 1.8),
        *section.requirements,
        Requirement("peak memory: etude / transformers, sdpa", memory / reference_memory, 1, at_least=False),
        Requirement("largest difference of an embedding from transformers", _difference(), 1e-5, False, ""),
    ]
    section.notes = [
        "peak memory of a step in torch's allocator, without the weights and the state of AdamW: "
        f"{reference_memory / 1e6:,.0f} MB transformers, sdpa; {memory / 1e6:,.0f} MB etude"
    ]
    return section


def _ast(depth: int, **options: Any) -> AST:
    return AST(BINS, TINY, depth=depth, drop_path=0.0, **options)


def _freeze(net: Classifier) -> Classifier:
    """Freeze all layers except the last two blocks and the head, and return the network."""
    backbone = net.backbone
    frozen = Transfer(train="last_k", last_k=TRAINED_BLOCKS).frozen_layers(layer_indices(backbone)[-1] + 1)
    for name, index in parameter_layer_index(backbone).items():
        if index < frozen:
            backbone.get_parameter(name).requires_grad_(False)
    return net


def _difference() -> float:
    """Return the largest difference of an embedding from `transformers`, whose weights are loaded from a file."""
    import_module("transformers.utils.logging").disable_progress_bar()
    reference = HuggingFaceAST("sdpa").eval().net
    with torch.no_grad(), TemporaryDirectory() as folder:
        for weight in reference.parameters():
            if not weight.any():  # zeros in tokens and positions would hide an error in them
                weight.normal_(std=0.1)
        reference.save_pretrained(folder)
        ast = _ast(DEPTH, weights=str(Path(folder) / "model.safetensors"), span=FRAMES).eval()
        ast.initialise()
        x, lengths, _ = random_batch([FRAMES] * BATCH, BINS)
        return float((ast(x, lengths) - reference.audio_spectrogram_transformer(x).pooler_output).abs().max())
