"""What an export says of its network: plain values, which know nothing of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etude.export.graph import Graph
    from etude.prediction.model import Model


def about(model: Model, graph: Graph | None) -> dict[str, Any]:
    """What files and the card say of a network: plain values, none of which knows this machine."""
    from etude import __version__

    recipe, front, plan = model.network.recipe, model.front, model.plan()
    seconds = plan.samples / front.rate
    return {
        "version": __version__,
        "input": graph.takes if graph else None,
        "front": type(front).__name__,
        "settings": {key: value for key, value in front.to_dict().items() if key != "_target_"},
        "rate": front.rate,
        "bins": recipe["bins"],
        "frames_per_second": front.frames_per_second,
        "dim": model.network.backbone.dim,
        "ragged": graph.ragged if graph else True,
        "least": graph.least if graph else 1,
        "window": round(seconds, 3) if model.knows_clips and front.sync == "none" and front.rate > 1 else None,
        "shortest": plan.shortest or None,
        "crop": plan.crop if plan.crops else None,
        "crops": plan.crops,
        "targets": model.columns.targets,
    }


def config(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json holds: the recipe, in which a file of weights of this machine is its name alone."""
    from etude import __version__

    return {
        "library_name": "etude", "model_type": "etude", "etude_version": __version__,
        "etude": {**recipe, "config": _without_folders(recipe["config"])},
    }  # fmt: skip


def _without_folders(node: Any) -> Any:
    """A config in which whole paths are the names of their files."""
    if isinstance(node, Mapping):
        return {key: _without_folders(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_without_folders(value) for value in node]
    whole = isinstance(node, str) and (Path(node).is_absolute() or node.startswith("~"))
    return Path(node).name if whole else node
