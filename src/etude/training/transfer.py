"""Initialisation from another run, and freezing of layers.

The learning rate of each layer and epoch has a multiplier, which is 0 for a frozen layer. The multiplier depends only
on the config and the step. Freezing is therefore equal on every device. It has no state that an interruption
could lose.
"""

from __future__ import annotations

import logging
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from etude.backbones.base import Backbone, layer_indices, parameter_layer_index
from etude.errors import UserError
from etude.files.safe_read import read_checkpoint
from etude.runs.folder import find_weights

log = logging.getLogger(__name__)
MODES = ("full", "probe", "last_k", "gradual")
HEAD_INITS = ("random", "linear_probe")
OVERLAPS = ("refuse", "drop", "allow")


@dataclass(frozen=True)
class Transfer:
    """Initialisation of a backbone and choice of its trained layers.

    Args:
        init_from: A run folder, a checkpoint or an exported network. None keeps the pretrained weights of
            `backbone.weights`.
        train: `full` trains all layers. `probe` trains the heads only. `last_k` trains the heads and the last layers of
            the backbone. `gradual` trains the heads first and then unfreezes layers from the last to the first (Howard
            & Ruder, 2018, "Universal language model fine-tuning").
        last_k: Number of layers that `last_k` trains.
        unfreeze_every: Number of epochs between two layers in `gradual`.
        layer_decay: Ratio of a layer's learning rate to the learning rate of the next layer (Clark et al., 2020,
            "ELECTRA").
        head_init: `linear_probe` fits the heads to the embeddings of the initial backbone before the first step (Kumar
            et al., 2022, "Fine-tuning can distort pretrained features"); `random` does not.
        cache: Whether the outputs of frozen layers are cached on disk, so that these layers run once per clip instead
            of once per epoch. `auto` enables the cache if it does not change the results.
        overlap: Handling of clips of validation and test on which the copied weights were ever trained: `refuse`,
            `drop` leaves them out of both splits, `allow` scores them. `experiment.earlier_training` finds them.
        min_copied: Smallest share of the backbone's weights, and of its layers, that must be copied from `init_from`. A
            layer is copied if at least half of its weights are.
    """

    init_from: str | None = None
    train: str = "full"
    last_k: int = 2
    unfreeze_every: int = 1
    layer_decay: float = 1.0
    head_init: str = "random"
    cache: bool | str = "auto"
    overlap: str = "refuse"
    min_copied: float = 0.5

    def __post_init__(self) -> None:
        if self.train not in MODES:
            raise ValueError(f"transfer.train must be one of {', '.join(MODES)}, got {self.train!r}")
        if self.overlap not in OVERLAPS:
            raise ValueError(f"transfer.overlap must be one of {', '.join(OVERLAPS)}, got {self.overlap!r}")
        if self.head_init not in HEAD_INITS:
            raise ValueError(f"transfer.head_init must be one of {', '.join(HEAD_INITS)}, got {self.head_init!r}")
        if not 0 <= self.min_copied <= 1:
            raise ValueError(f"transfer.min_copied must be in [0, 1], got {self.min_copied}")
        for name, value in (("last_k", self.last_k), ("unfreeze_every", self.unfreeze_every)):
            if value < 1:
                raise ValueError(f"transfer.{name} must be at least 1, got {value}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"transfer.layer_decay must be in (0, 1], got {self.layer_decay}")
        if self.cache not in (True, False, "auto"):
            raise ValueError(f"transfer.cache must be true, false or auto, got {self.cache!r}")

    def multiplier(self, layer: int, layers: int, epoch: int) -> float:
        """Return the multiplier of the learning rate of a layer.

        Args:
            layer: Layer of the backbone, 0 at its input.
            layers: Number of layers of the backbone.
            epoch: Epoch of training, from 0.

        Returns:
            A multiplier in [0, 1], which is 0 for a frozen layer. The multiplier of a head is 1.
        """
        distance = layers - layer  # from the output; 1 is the last layer
        first_epochs = {
            "full": 0,
            "probe": None,
            "last_k": 0 if distance <= self.last_k else None,
            "gradual": distance * self.unfreeze_every,
        }
        first_epoch = first_epochs[self.train]
        return self.layer_decay**distance if first_epoch is not None and epoch >= first_epoch else 0.0

    @property
    def freezes_permanently(self) -> bool:
        """Whether frozen layers stay frozen in all epochs."""
        return self.train in ("probe", "last_k")

    def frozen_layers(self, layers: int) -> int:
        """Return the number of layers at the input that are frozen in all epochs."""
        return {"probe": layers, "last_k": max(0, layers - self.last_k)}.get(self.train, 0)

    def apply(
        self,
        backbone: Backbone,
        standardiser: nn.Module,
        front: dict[str, object] | None = None,
        copy: bool = True,
    ) -> None:
        """Copy weights of the source run, and freeze layers.

        Args:
            backbone: Backbone of the new network.
            standardiser: Standardisation of the backbone's frames. It is copied as well.
            front: Parameters of the front end that computes its frames.
            copy: Whether to copy weights. A resumed run already has its weights.

        Raises:
            UserError: The checkpoint does not exist, too few of its weights match, it was trained on other frames, or
                a layer would be frozen although its weights were not copied.
        """
        if self.init_from is None and getattr(backbone, "weights", None) is None:
            raise UserError(
                "transfer: there is nothing to transfer; set transfer.init_from to a run folder or a checkpoint, or "
                "set backbone.weights"
            )
        layers = layer_indices(backbone)[-1] + 1
        frozen = self.frozen_layers(layers)
        layer_of = parameter_layer_index(backbone)
        if self.init_from is not None and copy:
            missing = self._copy_weights(backbone, standardiser, Path(self.init_from), front)
            untrained = sorted(name for name in missing if layer_of.get(name, layers) < frozen)
            if untrained:
                raise UserError(
                    f"transfer.init_from: {self.init_from} has no weights that match {', '.join(untrained[:4])}, which "
                    f"transfer.train={self.train} would freeze at random values; use the same backbone in both runs, "
                    "or transfer.train=full"
                )
        for name, index in layer_of.items():
            if index < frozen:
                backbone.get_parameter(name).requires_grad_(False)
        if self.train != "full" or self.layer_decay < 1:
            log.info("transfer: %d of the backbone's %d layers are trained", layers - frozen, layers)

    def _copy_weights(
        self, backbone: Backbone, standardiser: nn.Module, path: Path, front: dict[str, object] | None
    ) -> set[str]:
        """Copy the standardisation and all tensors of the backbone whose names and shapes match.

        Returns:
            Names of the backbone's tensors that were not copied.
        """
        try:
            path = find_weights(path)
        except UserError as error:
            raise UserError(f"transfer.init_from: {error}") from error
        stored = read_checkpoint(path)
        if stored["etude"].get("members"):
            raise UserError(f"transfer.init_from: {path} is an ensemble; name the run of one of its members")
        _check_front_end(stored["etude"], front, path)
        state = stored["state_dict"]
        source = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
        current = backbone.state_dict()
        matching = {k: v for k, v in source.items() if k in current and current[k].shape == v.shape}
        self._check_share(backbone, set(matching), path)
        backbone.load_state_dict(matching, strict=False)
        statistics = {k.removeprefix("standardiser."): v for k, v in state.items() if k.startswith("standardiser.")}
        mean = standardiser.get_buffer("mean")
        if all(v.shape == mean.shape for v in statistics.values()):
            standardiser.load_state_dict(statistics)  # the scale on which these weights were trained
        skipped = {
            "not in the source": set(current) - set(source),
            "of another shape": set(source) & set(current) - set(matching),
            "not in this network": set(source) - set(current),
        }
        for title, keys in skipped.items():
            if keys:
                log.warning("transfer: %d tensors are %s: %s", len(keys), title, ", ".join(sorted(keys)[:8]))
        return set(current) - set(matching)

    def _check_share(self, backbone: Backbone, copied: set[str], path: Path) -> None:
        """Log the copied weights of each layer, and refuse a network that would be mostly random."""
        layers = copied_weights(backbone, copied)
        n_copied, n_weights = (sum(row[i] for row in layers) for i in (0, 1))
        n_layers = sum(2 * row[0] >= row[1] for row in layers)
        if n_copied == n_weights:
            log.info("transfer: all %s weights of the backbone copied from %s", f"{n_weights:,}", path)
            return
        log.warning("transfer: %s of %s weights of the backbone copied from %s",
                    f"{n_copied:,}", f"{n_weights:,}", path)  # fmt: skip
        for layer, (n_layer_copied, n_layer) in enumerate(layers, 1):
            log.warning("transfer: layer %2d: %10s of %10s weights", layer, f"{n_layer_copied:,}", f"{n_layer:,}")
        if not copied or min(n_copied / n_weights, n_layers / len(layers)) < self.min_copied:
            raise UserError(
                f"transfer.init_from: {n_copied / n_weights:.0%} of the backbone's weights and {n_layers} of its "
                f"{len(layers)} layers can be copied from {path}, less than transfer.min_copied={self.min_copied:g}; "
                "remove backbone from the command to use that of the run, or set one of the same kind and size"
                + (", or set transfer.min_copied=0 to train the other weights from random values" if copied else "")
            )


def copied_weights(backbone: Backbone, copied: Container[str]) -> list[tuple[int, int]]:
    """Return the number of copied weights and of all weights of each layer. Buffers do not count.

    Args:
        backbone: Any backbone.
        copied: Names of the copied tensors.
    """
    rows = [[0, 0] for _ in range(layer_indices(backbone)[-1] + 1)]
    layer_of = parameter_layer_index(backbone)
    for name, parameter in backbone.named_parameters():
        rows[layer_of[name]][0] += parameter.numel() * (name in copied)
        rows[layer_of[name]][1] += parameter.numel()
    return [(n_copied, n_weights) for n_copied, n_weights in rows]


def _check_front_end(recipe: dict[str, Any], front: dict[str, object] | None, path: Path) -> None:
    """Refuse weights that were trained on the frames of another front end."""
    stored = recipe.get("front")
    if front is None or not isinstance(stored, dict) or stored == front:
        return
    changed = ", ".join(f"{k}={stored.get(k)}" for k in sorted({*stored, *front}) if stored.get(k) != front.get(k))
    raise UserError(
        f"transfer.init_from: {path} was trained on other frames (feature.front: {changed}); set the same values here, "
        "or remove feature and backbone from the command to use those of this run"
    )
