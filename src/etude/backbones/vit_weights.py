"""Weights of vision transformers that were trained elsewhere, turned to a spectrogram and cut to its grid.

Three kinds are told apart by their keys and shapes: timm's of pictures, AST's as `transformers` keeps them, and
AudioMAE's as timm does. A picture's rows are frequencies and its columns are time, as in AST; AudioMAE's rows are time.
"""

from __future__ import annotations

import json
import re
from math import isqrt
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from etude.backbones.pretrained import one_channel

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
