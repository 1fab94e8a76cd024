"""How the losses of several targets become one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Sum(nn.Module):
    """The weighted sum; a target without a weight has weight 1.

    Args:
        targets: Names of the task's targets.
        weights: Weight by target.

    Raises:
        ValueError: A weight is given to a target that the task does not have.
    """

    def __init__(self, targets: list[str], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        weights = dict(weights or {})
        if unknown := set(weights) - set(targets):
            raise ValueError(f"balance.weights names {', '.join(sorted(unknown))}; the task has {', '.join(targets)}")
        self.weights = {name: float(weights.get(name, 1.0)) for name in targets}

    def forward(self, losses: dict[str, Tensor]) -> Tensor:
        """Mean loss of each target, () each, to the loss that is minimised, ()."""
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()
