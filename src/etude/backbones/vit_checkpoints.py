"""Names of pretrained vision transformers, and the conversion of their image weights for spectrograms.

Three kinds of weights are distinguished by their keys and shapes: image networks in the format of timm, AST in the
format of `transformers`, and AudioMAE in the format of timm. In image networks and AST, rows are frequency and columns
are time. In AudioMAE, rows are time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from etude.errors import UserError, one_line_message
from etude.files.published import PublishedWeights, find_published, weights_folder
from etude.files.safe_read import read_tensors

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


IMAGENET = "imagenet"
UNTRAINED = "untrained"  # random weights in the network of pretrained ones
AUDIOSET_ROWS = 12  # of patches of 128 bins, 16 high and 10 apart


def read_weights(
    weights: str, model: str, published: Mapping[str, PublishedWeights] = MappingProxyType({})
) -> dict[str, Tensor]:
    """Return the pretrained tensors by name.

    Args:
        weights: A file, the name of published weights, or `imagenet`. The latter reads `<model>.safetensors` in the
            folder of the environment variable `ETUDE_WEIGHTS`. If this file does not exist, timm downloads the weights
            from the Hugging Face hub.
        model: Name of the network in timm, with or without the tag of its weights.
        published: Published weights, by name.

    Raises:
        UserError: There are no such weights, they cannot be downloaded, or the file contains no weights.
    """
    if weights != IMAGENET:
        return read_tensors(find_file(weights, published))
    file = local_weights_file(model)
    return read_tensors(file) if file else fetch_weights(model)


def check_weights_file(weights: str | None, published: Mapping[str, PublishedWeights] = MappingProxyType({})) -> None:
    """Check that the value of `backbone.weights` is a name or an existing file. Published weights are downloaded.

    Raises:
        UserError: There is no such file, or it cannot be downloaded.
    """
    if weights is not None and weights != IMAGENET:
        find_file(weights, published)


def find_file(weights: str, published: Mapping[str, PublishedWeights]) -> Path:
    """Return the weights file of a path or of the name of published weights, which are downloaded if necessary.

    Raises:
        UserError: There is no such file, or it cannot be downloaded.
    """
    if Path(weights).is_file():
        return Path(weights)
    if weights in published:
        return find_published(published[weights])
    choices = ", ".join([IMAGENET, *published, UNTRAINED])
    raise UserError(f"backbone.weights must be {choices} or the path of a file, got {weights!r}; there is no such file")


def local_weights_file(model: str) -> Path | None:
    """Return the weights file of a network in the folder `ETUDE_WEIGHTS`, for machines without internet access."""
    folder = weights_folder()
    file = folder / f"{model}.safetensors" if folder else None
    return file if file and file.is_file() else None


def fetch_weights(model: str) -> dict[str, Tensor]:
    """Return timm's pretrained weights of a network with three input channels.

    Raises:
        UserError: timm has no such weights, or the hub cannot be reached; the message then names the required file.
    """
    import timm

    try:
        source = timm.models.get_pretrained_cfg(model)
    except RuntimeError:  # no such tag
        source = None
    if source is None or not source.has_weights:
        raise UserError(f"backbone.weights=imagenet: timm has no weights of {model}")
    try:
        return timm.create_model(model, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # any failure of the hub, the connection or the disk
        file = f"model.safetensors of huggingface.co/{source.hf_hub_id}" if source.hf_hub_id else source.url
        reason = type(error).__name__
        raise UserError(
            f"backbone.weights=imagenet: {model} cannot be downloaded ({reason}); download {file} on a machine with "
            f"internet access and store it as {model}.safetensors in the folder of the environment variable "
            "ETUDE_WEIGHTS, or set backbone.weights=/path/to/file"
        ) from error


def mismatch_error(weights: str, model: str, error: Exception) -> UserError:
    """Return the error for weights that do not belong to a network."""
    reason = one_line_message(error, 300)
    return UserError(f"backbone.weights={weights}: the weights do not fit backbone.model={model} ({reason})")


def one_channel(filters: Tensor) -> Tensor:
    """Convert RGB filters (D, 3, H, W) to filters of one channel (D, 1, H, W) by their sum over channels.

    Source: Gong, Chung & Glass, 2021, "AST: Audio Spectrogram Transformer".
    """
    return filters.sum(1, keepdim=True)


SHORT = {  # other names of timm's networks
    "tiny": "vit_tiny_patch16_224",
    "small": "vit_small_patch16_224",
    "base": "vit_base_patch16_224",
    "vit_base_patch16_1024_128": "vit_base_patch16_224",  # name under which AudioMAE's weights are published
}


def full_name(model: str) -> str:
    """Return the full name of a network in timm, with the tag of its weights if one is given."""
    name, dot, tag = model.partition(".")
    return SHORT.get(name, name) + dot + tag


def create_transformer(model: str, depth: int | None = None, **options: Any) -> VisionTransformer:
    """Create a vision transformer with random weights, one input channel and no head.

    Args:
        model: Name of the network, with or without the tag of its weights.
        depth: Number of blocks; None for the model's own number.
        options: Further arguments of `timm.create_model`.

    Raises:
        ValueError: There is no such network, or it cannot process clips of any length.
    """
    import timm
    from timm.layers.patch_embed import PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    name, _, tag = full_name(model).partition(".")
    # only a name and no hub address, so that an untrusted checkpoint cannot start a download
    if not timm.is_model(name):
        raise ValueError(f"backbone.model must be tiny, small, base or a vision transformer of timm, got {model!r}")
    if depth is not None:
        options["depth"] = depth
    if tag.startswith("audiomae") and "_ft_" in tag:
        options["global_pool"] = "avg"  # fine-tuned with mean pooling and a norm; pretrained with the class token
    net = timm.create_model(name, in_chans=1, num_classes=0, **options) if _is_vit(name) else None
    if (
        not isinstance(net, VisionTransformer)
        or type(net.patch_embed) is not PatchEmbed
        or net.global_pool not in ("token", "avg")
        or getattr(net, "pool_include_prefix", False)
    ):
        raise ValueError(
            f"backbone.model={model} is not a vision transformer with a class token or mean pooling; "
            "use backbone=timm for image networks"
        )
    return net


def _is_vit(name: str) -> bool:
    """Return whether timm lists a network as a vision transformer, to avoid creating networks of another kind."""
    from timm.models import list_models

    return any(name in list_models(module=module) for module in ("vision_transformer", "deit"))


IMAGE, AST, AUDIOMAE = "image", "ast", "audiomae"
NAMES = (  # patterns of names in ASTModel and ASTForAudioClassification, and the replacement in timm's names
    (r"^audio_spectrogram_transformer\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.", ""),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
)


def weights_kind(tensors: dict[str, Tensor]) -> str:
    """Return the kind of weights, `image`, or `ast` or `audiomae` for weights trained on AudioSet."""
    if any(key.endswith("embeddings.position_embeddings") for key in tensors):
        return AST
    filters, positions = tensors.get("patch_embed.proj.weight"), tensors.get("pos_embed")
    if filters is None or positions is None or filters.shape[1] > 1:
        return IMAGE
    square = any(isqrt(count) ** 2 == count for count in (positions.shape[1], positions.shape[1] - 1))
    return IMAGE if square else AUDIOMAE


def convert_weights(
    tensors: dict[str, Tensor], own: dict[str, Tensor], prefix: int, ast_rows: int
) -> dict[str, Tensor]:
    """Convert pretrained weights to the names and shapes of the network.

    Args:
        tensors: Pretrained tensors by name, of any of the three kinds.
        own: State dict of the network, which determines the shapes.
        prefix: Number of entries of the positional embeddings that belong to prefix tokens.
        ast_rows: Number of patch rows of an AST.

    Returns:
        Tensors by the network's own names.

    Raises:
        KeyError: A tensor is missing.
        RuntimeError: Shapes do not agree.
    """
    kind, (columns, rows) = weights_kind(tensors), own["patches.positions.table"].shape[1:3]
    tensors = _timm_names(tensors) if kind == AST else tensors
    filters, positions = one_channel(tensors["patch_embed.proj.weight"]), tensors["pos_embed"]
    tokens = torch.cat([tensors[key] for key in ("cls_token", "dist_token", "reg_token") if key in tensors], dim=1)
    tokens = tokens + positions[:, :prefix] if prefix else tokens
    positions = positions[:, prefix:]
    if kind == AUDIOMAE:  # time by frequency, with 128 bins
        positions = positions.unflatten(1, (-1, 128 // filters.shape[3]))
    else:
        side = isqrt(positions.shape[1])
        grid = (side, side) if kind == IMAGE else (ast_rows, -1)
        filters, positions = filters.transpose(2, 3), positions.unflatten(1, grid).transpose(1, 2)
    converted = {
        "patches.filters.weight": _resize_filters(filters, own["patches.filters.weight"].shape[2:]),
        "patches.positions.table": _resize_positions(positions, columns, rows),
        "patches.tokens": tokens,
    }
    if "patch_embed.proj.bias" in tensors:
        converted["patches.filters.bias"] = tensors["patch_embed.proj.bias"]
    for key, value in tensors.items():
        name = re.sub(r"^norm_pre\.", "patches.norm.", key)
        if name.startswith(("blocks.", "norm.", "fc_norm.", "patches.norm.")):
            converted[name] = value
    return converted


def _timm_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of an AST as in timm, with queries, keys and values of a block concatenated."""
    renamed = {}
    for key, value in tensors.items():
        for pattern, name in NAMES:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    for key in [key for key in renamed if ".attn.query." in key]:
        qkv = [renamed.pop(key.replace(".query.", f".{name}.")) for name in ("query", "key", "value")]
        renamed[key.replace(".query.", ".qkv.")] = torch.cat(qkv)
    return renamed


def rows_of_ast(folder: Path, default: int) -> int:
    """Return the number of patch rows in the config of an AST in a folder, or `default` without a config."""
    path = folder / "config.json"
    if not path.is_file():
        return default
    config = json.loads(path.read_text(encoding="utf-8"))
    bins, patch, stride = (config.get(key, standard) for key, standard in
                           (("num_mel_bins", 128), ("patch_size", 16), ("frequency_stride", 10)))  # fmt: skip
    return (bins - patch) // stride + 1


def _resize_filters(filters: Tensor, size: torch.Size) -> Tensor:
    """Resize filters (D, 1, T, F). Their output for a patch is the original filters' output for the resized patch."""
    for axis, target in zip((2, 3), size, strict=True):
        if (length := filters.shape[axis]) != target:
            stretch = F.interpolate(torch.eye(target)[None], length, mode="linear", align_corners=False)[0]
            filters = torch.tensordot(filters, stretch.to(filters), dims=([axis], [1])).movedim(-1, axis)
    return filters


def _resize_positions(positions: Tensor, columns: int, rows: int) -> Tensor:
    """Interpolate positional embeddings (1, columns', rows', D) to (1, columns, rows, D)."""
    if positions.shape[1:3] == (columns, rows):
        return positions
    grid = F.interpolate(positions.permute(0, 3, 1, 2), (columns, rows), mode="bilinear", align_corners=False)
    return grid.permute(0, 2, 3, 1)
