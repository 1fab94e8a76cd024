"""Averaged members of an ensemble as the modules of one network.

The backbone computes the embedding of every member, and the outputs of a target are those of all members, one after the
other. The mean over crops and windows is therefore a mean for each member, as in its own predictions. The target
converts the outputs of each member to probabilities or values, and averages these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from etude.audio.frontend import JointFrontEnd
from etude.backbones.base import Backbone, replace_lstms
from etude.config.instantiate import make
from etude.embeddings.readouts import Readout
from etude.errors import UserError
from etude.tasks.heads import Task
from etude.tasks.targets import Target, module_key

UNTRAINED = {"optim": {"_target_": "etude.training.optimiser.Optimiser"}, "augment": None}
"""Parts of the config of an ensemble that only training uses."""


@dataclass(frozen=True)
class Member:
    """Modules of the network of a member.

    Args:
        standardiser: Standardisation of its frames.
        backbone: Its backbone.
        readout: Its read-out.
        task: Its targets with their heads.
        recipe: Its recipe.
    """

    standardiser: nn.Module
    backbone: Backbone
    readout: Readout
    task: Task
    recipe: Mapping[str, Any]


class MemberEncoder(nn.Module):
    """Standardiser, backbone and read-out of a member."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        self.standardiser, self.backbone, self.readout = member.standardiser, member.backbone, member.readout

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Compute the embedding (B, D) from raw frames (B, T, F) and lengths (B,)."""
        return self.readout(self.backbone, self.standardiser(x, lengths), lengths)


class AveragedBackbone(Backbone):
    """Backbone whose embedding is the concatenation of the members' embeddings.

    Args:
        members: The members.
        front: Front end of the packed frames. None if all members use the same frames.
        views: Number of the front end of each member in `front`.
    """

    skips_standardisation = True

    def __init__(self, members: Sequence[Member], front: JointFrontEnd | None, views: Sequence[int]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(MemberEncoder(member) for member in members)
        self.front, self.views = front, [*views]
        self.dim = sum(member.readout.dim for member in members)
        backbones = [member.backbone for member in members]
        self.version = sum(backbone.version for backbone in backbones)  # increases with that of any of them
        self.variable_length = all(backbone.variable_length for backbone in backbones)
        self.min_frames = max(backbone.min_frames for backbone in backbones)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Compute the concatenated embeddings (B, D) from frames (B, T, F), packed if the members' frames differ."""
        frames = self.front.unpack(x) if self.front is not None else [(x, lengths)]
        encoders = zip(self.encoders, self.views, strict=True)
        return torch.cat([encoder(*frames[view]).float() for encoder, view in encoders], dim=1)

    def for_export(self) -> Self:
        """Return a copy that torch.export can trace."""
        copy = deepcopy(self)
        for encoder in copy.encoders:
            if isinstance(encoder, MemberEncoder):
                encoder.backbone = encoder.backbone.for_export()
        replace_lstms(copy)
        return copy

    def layers(self) -> list[nn.Module]:
        """Return the members, which are layers side by side."""
        return [*self.encoders]


class AveragedHead(nn.Module):
    """Heads of the members for one target.

    Args:
        heads: Head of each member.
        dims: Size of the embedding of each member.
    """

    def __init__(self, heads: Sequence[nn.Module], dims: Sequence[int]) -> None:
        super().__init__()
        self.heads, self.dims = nn.ModuleList(heads), [*dims]

    def forward(self, z: Tensor) -> Tensor:
        """Compute the outputs (B, M K) of all members from their concatenated embeddings (B, D)."""
        parts = zip(self.heads, z.split(self.dims, dim=1), strict=True)
        return torch.cat([head(part) for head, part in parts], dim=1)


class AveragedTarget(Target):
    """Target whose prediction is the mean of the members' predictions. It is not trained.

    Args:
        targets: The target of each member.
        weights: Weight of each member, with the sum 1. None for equal weights.
    """

    def __init__(self, targets: Sequence[Target], weights: Sequence[float] | None = None) -> None:
        first = targets[0]
        self.name, self.kind, self.classes = first.name, first.kind, first.classes
        self.low, self.high = first.low, first.high
        self.targets, self.size = [*targets], sum(target.size for target in targets)
        self.weights = [*(weights or [1 / len(targets)] * len(targets))]

    def has_label(self, y: Tensor) -> Tensor:
        """Return a mask (B,), bool, that is True where the true value (B,) is present."""
        return self.targets[0].has_label(y)

    def predict(self, out: Tensor) -> Tensor:
        """Return the mean probabilities (B, K) or values (B,) from the outputs of all members (B, M K)."""
        return self._mean([target.predict(part) for target, part in self._parts(out)])

    def score(self, out: Tensor) -> Tensor:
        """Return the mean of the members' unsaturated scores (B, K)."""
        return self._mean([target.score(part) for target, part in self._parts(out)])

    def _parts(self, out: Tensor) -> list[tuple[Target, Tensor]]:
        """Return the target and the outputs of each member."""
        return [*zip(self.targets, out.split([target.size for target in self.targets], dim=1), strict=True)]

    def _mean(self, values: Sequence[Tensor]) -> Tensor:
        """Return the weighted mean over members."""
        return torch.stack([weight * value for weight, value in zip(self.weights, values, strict=True)]).sum(0)


def average_members(
    members: Sequence[Member],
    front: JointFrontEnd | None,
    views: Sequence[int],
    weights: Mapping[str, Sequence[float]] | None = None,
) -> tuple[AveragedBackbone, Task]:
    """Return backbone and task of the averaged network.

    Args:
        members: The members, which have the same targets.
        front: Front end of the packed frames. None if all members use the same frames.
        views: Number of the front end of each member in `front`.
        weights: Weight of each member, by target. None for equal weights.
    """
    backbone = AveragedBackbone(members, front, views)
    tasks, dims = [member.task for member in members], [member.readout.dim for member in members]
    names = list(tasks[0].targets)
    targets: list[Target] = [
        AveragedTarget([task.targets[name] for task in tasks], (weights or {}).get(name)) for name in names
    ]
    heads = iter([AveragedHead([task.heads[module_key(name)] for task in tasks], dims) for name in names])
    return backbone, Task(targets, lambda dim, size: next(heads), lambda kinds: tasks[0].weighting, backbone.dim)


def averaged_recipe(
    recipes: Sequence[Mapping[str, Any]], weights: Mapping[str, Sequence[float]] | None = None
) -> dict[str, Any]:
    """Return the recipe of the averaged network of several networks.

    Args:
        recipes: Recipe of each member.
        weights: Weight of each member, by target. None for equal weights.

    Raises:
        UserError: The frames of the members cannot be combined.
    """
    inputs = [(recipe["front"], recipe["columns"]) for recipe in recipes]
    distinct = [value for i, value in enumerate(inputs) if value not in inputs[:i]]
    first = recipes[0]
    shared = {key: first.get(key) for key in ("bins", "columns", "front", "evaluation", "targets")}
    recipe = shared | {
        "config": {**first["config"], "backbone": {"members": len(recipes)}, "readout": None} | UNTRAINED,
        "members": [{key: value for key, value in r.items() if key != "training_record"} for r in recipes],
        "weights": {name: [*values] for name, values in weights.items()} if weights else None,
    }
    evaluations = [r.get("evaluation") or {} for r in recipes]
    crops = {(evaluation.get("crops"), evaluation.get("crop")) for evaluation in evaluations}
    if len(distinct) == 1:  # the frames are passed to all members
        if len(crops) > 1:
            raise UserError("an ensemble needs members with one data.eval_crops and one data.crop")
        return recipe
    if any(count for count, _ in crops):
        raise UserError("an ensemble of runs on different frames needs data.eval_crops=null in each of them")
    fronts = [make(front) for front, _ in distinct]
    try:
        joint = JointFrontEnd(fronts=fronts, columns=[columns for _, columns in distinct])
    except UserError as error:
        raise UserError(f"an ensemble needs frames that can be combined: {error}") from error
    views = [distinct.index(value) for value in inputs]
    recipe |= {"views": views, "front": joint.to_dict(), "bins": joint.bins, "columns": [0, joint.bins]}
    return recipe | {"evaluation": evaluations[views.index(fronts.index(joint.displayed()))] or None}


def averaged_key(name: str, member: int) -> str:
    """Return the name of a tensor of a member in the averaged network."""
    if name.startswith("task.heads."):
        head, _, rest = name.removeprefix("task.heads.").partition(".")
        return f"task.heads.{head}.heads.{member}.{rest}"
    return f"backbone.encoders.{member}.{name}"
