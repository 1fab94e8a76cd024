"""timm's vision transformers by name, those of them whose tokens may be as many as a clip has patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

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
