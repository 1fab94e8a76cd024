"""Weights of networks that have seen pictures: timm's own, by the network's name, or a file of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from etude.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

IMAGENET = "imagenet"


def read(weights: str, model: str) -> dict[str, Tensor]:
    """Tensors by name.

    Args:
        weights: `imagenet`, for `<model>.safetensors` in the folder that the environment variable `ETUDE_WEIGHTS`
            names, or where there is none for those that timm fetches from the Hugging Face hub; or a file.
        model: timm's name of the network, with or without the tag of its weights.

    Raises:
        UserError: There are none of this name, they cannot be fetched, or the file is not one of weights.
    """
    from etude.checkpoint import tensors

    if weights != IMAGENET:
        return tensors(Path(weights))
    kept = at_hand(model)
    return tensors(kept) if kept else fetch(model)


def at_hand(model: str) -> Path | None:
    """The file of a network's weights in the folder that `ETUDE_WEIGHTS` names, for machines without a network."""
    folder = os.environ.get("ETUDE_WEIGHTS")
    file = Path(folder).expanduser() / f"{model}.safetensors" if folder else None
    return file if file and file.is_file() else None


def fetch(model: str) -> dict[str, Tensor]:
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
