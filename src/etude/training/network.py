"""Trained network of a checkpoint: standardiser, backbone, read-out and task, without the code that trains them.

This module does not import Lightning, so that commands that train nothing start quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from etude.audio.frontend_modules import valid
from etude.backbones.base import Backbone
from etude.config.instantiate import NETWORK_MODULES, check_trusted, load_function, make, resolve
from etude.embeddings.readouts import Readout
from etude.errors import UserError
from etude.files.safe_read import read_checkpoint
from etude.tasks.heads import Task
from etude.training.averaged import AveragedHead, AveragedTarget, Member, average_members

AnyNetwork = TypeVar("AnyNetwork", bound="Network")


class Standardiser(nn.Module):
    """Standardisation of each bin to mean 0 and standard deviation 1 over the training split.

    Padding is set to 0 after the standardisation.

    Args:
        mean: Mean of each bin (F,).
        std: Standard deviation of each bin (F,).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Standardise raw frames.

        Args:
            x: Raw frames (B, T, F).
            lengths: Valid frames (B,).

        Returns:
            Standardised frames (B, T, F), float32.
        """
        return (x.float() - self.mean) / self.std * valid(lengths, x.shape[1])[..., None]


class Network(nn.Module):
    """Standardiser, backbone, read-out and task. The Learner is the same network with its training.

    Args:
        standardiser: Statistics of the training split.
        backbone: Network that computes an embedding from frames.
        task: Module that computes outputs, losses and predictions from an embedding.
        recipe: Plain values from which the network can be rebuilt. They are stored in every checkpoint.
        readout: Read-out of the backbone; None for the backbone's own embedding.

    Attributes:
        readout: Module that computes embeddings (B, D) from the backbone, standardised frames and lengths.
    """

    def __init__(
        self,
        standardiser: Standardiser,
        backbone: Backbone,
        task: Task,
        recipe: dict[str, Any] | None = None,
        readout: Readout | None = None,
    ) -> None:
        super().__init__()
        self.standardiser, self.backbone, self.task, self.recipe = standardiser, backbone, task, recipe or {}
        self.readout = Readout(backbone, len(standardiser.mean)) if readout is None else readout

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the embedding and the outputs of clips.

        Args:
            x: Raw frames (B, T, F).
            lengths: Valid frames (B,).

        Returns:
            Embeddings (B, D), and outputs (B, K) by target.
        """
        z = self.readout(self.backbone, self.standardiser(x, lengths), lengths)
        return z, self.task(z)


def build_network(recipe: Mapping[str, Any]) -> Network:
    """Build the untrained network of a recipe.

    Args:
        recipe: `config` (backbone, readout, head, task, weighting, optim, augment), `targets` (kind and size by name)
            and `bins`. For inference on audio files, it also has `front`, `columns` and `evaluation`. The recipe of an
            ensemble has the recipes of its `members`, the numbers of their front ends in a joint front end (`views`),
            and the `weights` of the members by target.

    Raises:
        UserError: The task has a target that is missing from the data, or is of another kind there.
    """
    standardiser, backbone, readout, task = build_modules(recipe)
    return Network(standardiser, backbone, task, dict(recipe), readout)


def build_modules(recipe: Mapping[str, Any]) -> tuple[Standardiser, Backbone, Readout, Task]:
    """Build the untrained modules of the network of a recipe. For arguments and errors see `build_network`."""
    if recipe.get("members"):
        return _build_averaged_modules(recipe)
    config, specs, bins = recipe["config"], recipe["targets"], recipe["bins"]
    targets = []
    for name, node in config["task"]["targets"].items():
        if name not in specs:
            raise UserError(f"task: this data has no target {name}; it has {', '.join(specs)}")
        kind = getattr(resolve(node["_target_"]), "kind", None)
        if kind != specs[name]["kind"]:
            raise UserError(f"task: target {name} is a {specs[name]['kind']} in this data, not a {kind}")
        targets.append(make_target(name, node, specs[name]))
    backbone = make(config["backbone"], bins)
    # recipes of networks from before read-outs have no such key
    readout = make(config["readout"], backbone, bins) if config.get("readout") else Readout(backbone, bins)
    head = lambda dim, size: make(config["head"], dim, size)  # noqa: E731
    weighting = lambda names: make(config["weighting"], names)  # noqa: E731
    standardiser = Standardiser(torch.zeros(bins), torch.ones(bins))
    return standardiser, backbone, readout, Task(targets, head, weighting, readout.dim)


def make_target(name: str, node: Mapping[str, Any], spec: Mapping[str, Any]) -> Any:
    """Return the target of a node, and check its loss if it is a function.

    Raises:
        UserError: The loss cannot be imported, fails, or does not return a loss.
    """
    values = {key: value for key, value in node.items() if key != "metrics"}
    if not isinstance(values.get("loss"), Mapping):
        return make(values, name, spec)
    target = make(values, name, spec, loss=load_function(f"task.targets.{name}.loss", values.pop("loss")))
    target.loss(torch.zeros(2, target.size, requires_grad=True), torch.tensor([0, 1]) if target.classes
                else torch.tensor([target.low, target.high]))  # fmt: skip
    return target


def without_functions(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a recipe without the metrics and the losses that are functions.

    A network can then be loaded without trust in these functions, which it does not need for predictions.
    """
    targets = {}
    for name, node in config["task"]["targets"].items():
        targets[name] = {key: value for key, value in node.items()
                         if key != "metrics" and not (key == "loss" and isinstance(value, Mapping))}  # fmt: skip
    return {**config, "task": {**config["task"], "targets": targets}}


def _build_averaged_modules(recipe: Mapping[str, Any]) -> tuple[Standardiser, Backbone, Readout, Task]:
    """Build the untrained modules of an ensemble. The members standardise their frames themselves."""
    bins, front = recipe["bins"], make(recipe["front"]) if recipe.get("views") else None
    members = []
    for member in recipe["members"]:
        standardiser, backbone, readout, task = build_modules(member)
        members.append(Member(standardiser, backbone, readout, task, member))
    averaged, task = average_members(members, front, recipe.get("views") or [0] * len(members), recipe.get("weights"))
    return Standardiser(torch.zeros(bins), torch.ones(bins)), averaged, Readout(averaged, bins), task


def member_networks(network: Network) -> list[Network]:
    """Return the networks of the members of an ensemble. They share its weights."""
    targets = [target for target in network.task.targets.values() if isinstance(target, AveragedTarget)]
    heads = [head for head in network.task.heads.values() if isinstance(head, AveragedHead)]
    encoders = getattr(network.backbone, "encoders", ())
    members = []
    for i, (encoder, recipe) in enumerate(zip(encoders, network.recipe["members"], strict=True)):
        own_heads = iter([head.heads[i] for head in heads])
        task = Task(
            [target.targets[i] for target in targets],
            lambda dim, size, own_heads=own_heads: next(own_heads),  # type: ignore[misc]
            lambda kinds: network.task.weighting,
            encoder.readout.dim,
        )
        members.append(Network(encoder.standardiser, encoder.backbone, task, recipe, encoder.readout))
    return members


def load_network(checkpoint: Path) -> Network:
    """Load a trained network from its checkpoint, in evaluation mode.

    Only tensors and plain values are read from the file.

    Raises:
        UserError: The file is not a checkpoint of Étude, or its weights do not match its recipe.
    """
    return load_weights(checkpoint, build_network)


def load_weights(checkpoint: Path, build: Callable[[Mapping[str, Any]], AnyNetwork]) -> AnyNetwork:
    """Load a checkpoint into the network that `build` creates from its recipe. For errors see `load_network`."""
    stored = read_checkpoint(checkpoint)
    check_trusted(stored["etude"], NETWORK_MODULES)
    network = build(stored["etude"])
    try:
        network.load_state_dict(stored["state_dict"])
    except RuntimeError as error:
        raise UserError(f"{checkpoint}: the weights do not match the network that the file describes") from error
    return network.eval()
