"""Pretrained vision transformers: names, weights, and their conversion to spectrograms.

Three kinds are told apart by their keys and shapes: timm's of pictures, AST's as `transformers` keeps them, and
AudioMAE's as timm does. A picture's rows are frequencies and its columns are time, as in AST; AudioMAE's rows are time.
"""

from __future__ import annotations

import json
import os
import re
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from etude.errors import UserError
from etude.files.safe_read import read_tensors

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


IMAGENET = "imagenet"


def read_weights(weights: str, model: str) -> dict[str, Tensor]:
    """Tensors by name.

    Args:
        weights: `imagenet`, for `<model>.safetensors` in the folder that the environment variable `ETUDE_WEIGHTS`
            names, or where there is none for those that timm fetches from the Hugging Face hub; or a file.
        model: timm's name of the network, with or without the tag of its weights.

    Raises:
        UserError: There are none of this name, they cannot be fetched, or the file is not one of weights.
    """
    if weights != IMAGENET:
        return read_tensors(Path(weights))
    kept = at_hand(model)
    return read_tensors(kept) if kept else fetch_weights(model)


def at_hand(model: str) -> Path | None:
    """The file of a network's weights in the folder that `ETUDE_WEIGHTS` names, for machines without a network."""
    folder = os.environ.get("ETUDE_WEIGHTS")
    file = Path(folder).expanduser() / f"{model}.safetensors" if folder else None
    return file if file and file.is_file() else None


def fetch_weights(model: str) -> dict[str, Tensor]:
    """The weights that timm has of one of its networks, of three input channels.

    Raises:
        UserError: It has none, or there is no way to the hub; the sentence then says which file is needed.
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
    except Exception as error:  # whatever the hub, the network or the disk may have against it
        file = f"model.safetensors of huggingface.co/{source.hf_hub_id}" if source.hf_hub_id else source.url
        reason = type(error).__name__
        raise UserError(
            f"backbone.weights=imagenet: {model} cannot be fetched ({reason}); get {file}, where there is a network, "
            f"and keep it as {model}.safetensors in the folder that the environment variable ETUDE_WEIGHTS names, or "
            "pass backbone.weights=/path/of/it"
        ) from error


def misfit(weights: str, model: str, error: Exception) -> UserError:
    """What to raise when tensors are not those of a network."""
    reason = " ".join(str(error).split())[:300]
    return UserError(f"backbone.weights={weights}: are not those of backbone.model={model} ({reason})")


def one_channel(filters: Tensor) -> Tensor:
    """Filters (D, 3, H, W) of colours to those of a picture in grey, (D, 1, H, W): what all three see is the sum.

    Source: Gong, Chung & Glass, 2021, "AST: Audio Spectrogram Transformer".
    """
    return filters.sum(1, keepdim=True)


SHORT = {  # other names of timm's networks
    "tiny": "vit_tiny_patch16_224",
    "small": "vit_small_patch16_224",
    "base": "vit_base_patch16_224",
    "vit_base_patch16_1024_128": "vit_base_patch16_224",  # AudioMAE's, under which its weights are published
}


def full_name(model: str) -> str:
    """The own name in timm of a network, with the tag of its weights where one is given."""
    name, dot, tag = model.partition(".")
    return SHORT.get(name, name) + dot + tag


def transformer(model: str, depth: int | None = None, **settings: Any) -> VisionTransformer:
    """A vision transformer with random weights, of one channel and without a head.

    Args:
        model: Its name, with or without the tag of its weights.
        depth: How many blocks; none for its own.
        settings: Further settings of timm.

    Raises:
        ValueError: There is none of this name, or it is of a kind that a clip of any length does not fit.
    """
    import timm
    from timm.layers.patch_embed import PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    name, _, tag = full_name(model).partition(".")
    if not timm.is_model(name):  # a name, and no place on the hub: a checkpoint from a stranger fetches nothing
        raise ValueError(f"backbone.model must be tiny, small, base or a vision transformer of timm, got {model!r}")
    if depth is not None:
        settings["depth"] = depth
    if tag.startswith("audiomae") and "_ft_" in tag:
        settings["global_pool"] = "avg"  # fine-tuned as a mean with a norm behind it; before that at the class token
    net = timm.create_model(name, in_chans=1, num_classes=0, **settings) if _is_vit(name) else None
    if (
        not isinstance(net, VisionTransformer)
        or type(net.patch_embed) is not PatchEmbed
        or net.global_pool not in ("token", "avg")
        or getattr(net, "pool_include_prefix", False)
    ):
        raise ValueError(
            f"backbone.model={model} is no vision transformer read out at a token or at the mean of its patches; "
            "backbone=timm takes networks for pictures of any size"
        )
    return net


def _is_vit(name: str) -> bool:
    """Whether a network stands among vision transformers, so that one of another kind is not built in vain."""
    from timm.models import list_models

    return any(name in list_models(module=module) for module in ("vision_transformer", "deit"))


PICTURE, AST, AUDIOMAE = "picture", "ast", "audiomae"
NAMES = (  # of ASTModel and ASTForAudioClassification, and timm's
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


def kind(found: dict[str, Tensor]) -> str:
    """What weights these are: `picture`, or `ast` or `audiomae`, which have heard AudioSet."""
    if any(key.endswith("embeddings.position_embeddings") for key in found):
        return AST
    filters, places = found.get("patch_embed.proj.weight"), found.get("pos_embed")
    if filters is None or places is None or filters.shape[1] > 1:
        return PICTURE
    square = any(isqrt(count) ** 2 == count for count in (places.shape[1], places.shape[1] - 1))
    return PICTURE if square else AUDIOMAE


def fit(found: dict[str, Tensor], ours: dict[str, Tensor], first: int, folder: Path | None) -> dict[str, Tensor]:
    """What the network loads.

    Args:
        found: Tensors by name, of any of the three kinds.
        ours: Those of the network, whose shapes decide.
        first: How many entries of the table of places belong to tokens that are no patches.
        folder: Where the file lies; an AST's config is beside it.

    Returns:
        Tensors by the network's own names.

    Raises:
        KeyError: One is missing.
        RuntimeError: Shapes do not agree.
    """
    which, (columns, rows) = kind(found), ours["patches.places.table"].shape[1:3]
    found = _timm_names(found) if which == AST else found
    filters, places = one_channel(found["patch_embed.proj.weight"]), found["pos_embed"]
    own = torch.cat([found[key] for key in ("cls_token", "dist_token", "reg_token") if key in found], dim=1)
    own = own + places[:, :first] if first else own
    places = places[:, first:]
    if which == AUDIOMAE:  # frames by bins, of 128 bins
        places = places.unflatten(1, (-1, 128 // filters.shape[3]))
    else:
        side = isqrt(places.shape[1])
        grid = (side, side) if which == PICTURE else (_rows_of_ast(folder, rows), -1)
        filters, places = filters.transpose(2, 3), places.unflatten(1, grid).transpose(1, 2)
    fitted = {
        "patches.filters.weight": _resized(filters, ours["patches.filters.weight"].shape[2:]),
        "patches.places.table": _stretched(places, columns, rows),
        "patches.tokens": own,
    }
    if "patch_embed.proj.bias" in found:
        fitted["patches.filters.bias"] = found["patch_embed.proj.bias"]
    for key, value in found.items():
        name = re.sub(r"^norm_pre\.", "patches.norm.", key)
        if name.startswith(("blocks.", "norm.", "fc_norm.", "patches.norm.")):
            fitted[name] = value
    return fitted


def _timm_names(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """An AST's tensors by timm's names: queries, keys and values of a block lie one below the other."""
    renamed = {}
    for key, value in found.items():
        for pattern, name in NAMES:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    for key in [key for key in renamed if ".attn.query." in key]:
        parts = [renamed.pop(key.replace(".query.", f".{part}.")) for part in ("query", "key", "value")]
        renamed[key.replace(".query.", ".qkv.")] = torch.cat(parts)
    return renamed


def _rows_of_ast(folder: Path | None, ours: int) -> int:
    """Rows of patches that an AST was trained with, by the config beside it; else as many as here."""
    path = folder / "config.json" if folder else None
    if path is None or not path.is_file():
        return ours
    config = json.loads(path.read_text(encoding="utf-8"))
    bins, patch, stride = (config.get(key, default) for key, default in
                           (("num_mel_bins", 128), ("patch_size", 16), ("frequency_stride", 10)))  # fmt: skip
    return (bins - patch) // stride + 1


def _resized(filters: Tensor, size: torch.Size) -> Tensor:
    """Filters (D, 1, T, F) of another size that say of a patch what these say of it when it is stretched to theirs."""
    for axis, wanted in zip((2, 3), size, strict=True):
        if (length := filters.shape[axis]) != wanted:
            stretch = F.interpolate(torch.eye(wanted)[None], length, mode="linear", align_corners=False)[0]
            filters = torch.tensordot(filters, stretch.to(filters), dims=([axis], [1])).movedim(-1, axis)
    return filters


def _stretched(places: Tensor, columns: int, rows: int) -> Tensor:
    """A table of places (1, columns', rows', D) for another grid, between its entries."""
    if places.shape[1:3] == (columns, rows):
        return places
    grid = F.interpolate(places.permute(0, 3, 1, 2), (columns, rows), mode="bilinear", align_corners=False)
    return grid.permute(0, 2, 3, 1)
