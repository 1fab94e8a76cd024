"""A task: targets, a head for each, and a weighting. A single target is a task of one; there is no other path."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from etude.tasks.loss_weighting import LossWeighting
from etude.tasks.targets import Target, module_key


class Task(nn.Module):
    """Everything after the embedding.

    Args:
        targets: What is learned.
        head: Makes a head from the embedding's size D and a number of outputs K.
        weighting: Makes the weighting from the targets' kinds by name.
        dim: Size of the embedding, D.
    """

    def __init__(
        self,
        targets: list[Target],
        head: Callable[[int, int], nn.Module],
        weighting: Callable[[dict[str, str]], LossWeighting],
        dim: int,
    ) -> None:
        super().__init__()
        self.targets = {target.name: target for target in targets}
        self.heads = nn.ModuleDict({module_key(target.name): head(dim, target.size) for target in targets})
        self.weighting = weighting({target.name: target.kind for target in targets})

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        """Embedding (B, D) to outputs (B, K) by target."""
        return {name: self.heads[module_key(name)](z) for name in self.targets}

    def loss(
        self,
        out: dict[str, Tensor],
        y: dict[str, Tensor],
        weight: Tensor | None = None,
        known: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss that is minimised, and each target's own.

        Args:
            out: Outputs (B, K) by target.
            y: True values (B,) by target; missing ones are masked.
            weight: How much each clip counts (B,), at least 0; none counts all alike.
            known: What `known` says of these, where it was asked before: several devices have to agree on it.

        Returns:
            The balanced loss (), and the mean loss of each target over the clips that have it, (). In training on
            several devices the mean of these over the devices is the mean over all clips of the step, however few of
            those with a label are here.
        """
        each, devices, known = {}, self.devices(), known or self.known(y, weight)
        for name, target in self.targets.items():
            losses = target.loss(out[name], y[name])
            total = losses.sum() if weight is None else (weight * losses).sum()
            each[name] = devices * total / torch.where(known[name] > 0, known[name], 1)
        return self.weighting(each, {name: count > 0 for name, count in known.items()}), each

    def known(self, y: dict[str, Tensor], weight: Tensor | None = None) -> dict[str, Tensor]:
        """How many clips of a step have each target, or their weight, on all devices.

        Args:
            y: True values (B,) by target; missing ones are masked.
            weight: How much each clip counts (B,); none counts all alike.

        Returns:
            Count or weight of each target, ().
        """
        there = {name: target.known(y[name]) for name, target in self.targets.items()}
        counts = {name: (known if weight is None else weight * known).sum() for name, known in there.items()}
        if self.devices() == 1:
            return counts
        total = torch.stack(list(counts.values()))
        dist.all_reduce(total)
        return dict(zip(counts, total.unbind(), strict=True))

    def devices(self) -> int:
        """How many share a step; in evaluation each has the whole part."""
        several = self.training and dist.is_available() and dist.is_initialized()
        return dist.get_world_size() if several else 1

    def predict(self, out: dict[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by target as probabilities (B, K) or values (B,)."""
        with torch.no_grad():
            return {name: target.predict(out[name]) for name, target in self.targets.items()}
