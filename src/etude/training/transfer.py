"""Initialisation from another run, and freezing of layers.

The table holds a multiplier of the learning rate for each layer and epoch. So what is frozen needs no callback that an
interruption could forget: it follows from the config and the step alone, on every device.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from etude.backbones.base import Backbone
from etude.errors import UserError
from etude.files.safe_read import read_checkpoint
from etude.runs.folder import RunFolder

log = logging.getLogger(__name__)
WAYS = ("full", "probe", "last_k", "gradual")


@dataclass(frozen=True)
class Transfer:
    """Where a backbone's weights come from, and which of them go on learning.

    Args:
        init_from: A run folder, or a checkpoint; none keeps the weights that the backbone brings (`backbone.weights`).
        train: `full`, everything; `probe`, the heads alone; `last_k`, the heads and the backbone's last layers; or
            `gradual`, the heads first and then, epoch by epoch, one layer more from the last to the first (Howard &
            Ruder, 2018, "Universal language model fine-tuning").
        last_k: How many layers `last_k` trains.
        unfreeze_every: Epochs from one layer to the next in `gradual`.
        layer_decay: Each layer's learning rate as a share of the next one's (Clark et al., 2020, "ELECTRA").
        cache: Whether what leaves the layers that never learn is kept on disk, so that they run once for each clip and
            not once an epoch: `true`, `false`, or `auto`, where that changes nothing.
    """

    init_from: str | None = None
    train: str = "full"
    last_k: int = 2
    unfreeze_every: int = 1
    layer_decay: float = 1.0
    cache: bool | str = "auto"

    def __post_init__(self) -> None:
        if self.train not in WAYS:
            raise ValueError(f"transfer.train must be one of {', '.join(WAYS)}, got {self.train!r}")
        for name, value in (("last_k", self.last_k), ("unfreeze_every", self.unfreeze_every)):
            if value < 1:
                raise ValueError(f"transfer.{name} must be at least 1, got {value}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"transfer.layer_decay must be in (0, 1], got {self.layer_decay}")
        if self.cache not in (True, False, "auto"):
            raise ValueError(f"transfer.cache must be true, false or auto, got {self.cache!r}")

    def multiplier(self, layer: int, layers: int, epoch: int) -> float:
        """Multiplier of the learning rate.

        Args:
            layer: Layer of the backbone, 0 at its input.
            layers: How many it has.
            epoch: Epoch of training, from 0.

        Returns:
            0 for a layer that is frozen; that of a head is 1.
        """
        height = layers - layer  # 1 is the last layer
        first = {
            "full": 0,
            "probe": None,
            "last_k": 0 if height <= self.last_k else None,
            "gradual": height * self.unfreeze_every,
        }
        begins = first[self.train]
        return self.layer_decay**height if begins is not None and epoch >= begins else 0.0

    @property
    def lasting(self) -> bool:
        """Whether what is frozen is frozen for good."""
        return self.train in ("probe", "last_k")

    def frozen(self, layers: int) -> int:
        """How many layers at the input never learn."""
        return {"probe": layers, "last_k": max(0, layers - self.last_k)}.get(self.train, 0)

    def apply(
        self,
        backbone: Backbone,
        standardiser: nn.Module,
        front: dict[str, object] | None = None,
        copy: bool = True,
    ) -> None:
        """Copy weights of the source run, and freeze the layers that never learn.

        Args:
            backbone: Backbone of the new network.
            standardiser: Standardisation of its frames, which is copied as well.
            front: Values of the front end of its frames.
            copy: Whether to copy; a run that is resumed has its weights already.

        Raises:
            UserError: There is no checkpoint there, not one tensor agrees, its network heard other frames, or a layer
                would be frozen that was not copied whole.
        """
        if self.init_from is None and getattr(backbone, "weights", None) is None:
            raise UserError(
                "transfer: there is nothing to transfer; give transfer.init_from, a run folder or a checkpoint, or "
                "backbone.weights"
            )
        layers = levels(backbone)[-1] + 1
        frozen = self.frozen(layers)
        if self.init_from is not None and copy:
            missing = self._copy(backbone, standardiser, Path(self.init_from), front)
            never = sorted(name for name in missing if depths(backbone).get(name, layers) < frozen)
            if never:
                raise UserError(
                    f"transfer.init_from: {self.init_from} has no weights that fit {', '.join(never[:4])}, which "
                    f"transfer.train={self.train} would freeze as they are; make the backbones alike, or train=full"
                )
        for name, depth in depths(backbone).items():
            if depth < frozen:
                backbone.get_parameter(name).requires_grad_(False)
        if self.train != "full" or self.layer_decay < 1:
            log.info("transfer: %d of the backbone's %d layers learn", layers - frozen, layers)

    def _copy(
        self, backbone: Backbone, standardiser: nn.Module, path: Path, front: dict[str, object] | None
    ) -> set[str]:
        """Every tensor of the backbone whose name and shape agree, and the standardisation; returns what is left."""
        path = RunFolder(path).best_path if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"transfer.init_from: {path} does not exist")
        stored = read_checkpoint(path)
        _same_frames(stored["etude"], front, path)
        every = stored["state_dict"]
        theirs = {k.removeprefix("backbone."): v for k, v in every.items() if k.startswith("backbone.")}
        ours = backbone.state_dict()
        same = {k: v for k, v in theirs.items() if k in ours and ours[k].shape == v.shape}
        if not same:
            raise UserError(
                f"transfer.init_from: no tensor of {path} fits the backbone; is it of another kind or size?"
            )
        backbone.load_state_dict(same, strict=False)
        log.info("transfer: %d of %d backbone tensors copied from %s", len(same), len(ours), path)
        known = {k.removeprefix("standardiser."): v for k, v in every.items() if k.startswith("standardiser.")}
        mean = standardiser.get_buffer("mean")
        if all(v.shape == mean.shape for v in known.values()):
            standardiser.load_state_dict(known)  # frames on the scale that these weights know
        left = {
            "not in the source": set(ours) - set(theirs),
            "of another shape": set(theirs) & set(ours) - set(same),
            "not in this network": set(theirs) - set(ours),
        }
        for title, keys in left.items():
            if keys:
                log.warning("transfer: %d tensors are %s: %s", len(keys), title, ", ".join(sorted(keys)[:8]))
        return set(ours) - set(same)


def levels(backbone: Backbone) -> list[int]:
    """The depth of each of a backbone's layers, from 0; one of vectors alone, a final norm, belongs to the one before.

    Args:
        backbone: Any backbone.
    """
    depths: list[int] = []
    for part in backbone.layers():
        weighs = any(p.ndim > 1 for p in part.parameters())
        depths.append(depths[-1] + weighs if depths else 0)
    return depths


def depths(backbone: Backbone) -> dict[str, int]:
    """The depth of each parameter of a backbone, by name; one that stands in no layer is as deep as the input."""
    parts = zip(levels(backbone), backbone.layers(), strict=True)
    layer = {id(p): depth for depth, part in parts for p in part.parameters()}
    return {name: layer.get(id(p), 0) for name, p in backbone.named_parameters()}


def _same_frames(recipe: dict[str, Any], front: dict[str, object] | None, path: Path) -> None:
    """Refuse weights that know another front end: they would hear noise."""
    theirs = recipe.get("front")
    if front is None or not isinstance(theirs, dict) or theirs == front:
        return
    words = ", ".join(f"{k}={theirs.get(k)}" for k in sorted({*theirs, *front}) if theirs.get(k) != front.get(k))
    raise UserError(f"transfer.init_from: {path} was trained on other frames (feature.front: {words})")
