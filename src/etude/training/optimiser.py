"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Optimiser:
    """Factory of an optimiser and its learning-rate schedule.

    Args:
        kind: `adamw` (Loshchilov & Hutter, 2019) or `adam` (Kingma & Ba, 2015).
        lr: Highest learning rate.
        weight_decay: Weight decay of matrices and filters. Biases, norms and single vectors are not decayed.
        warmup: Fraction of all steps over which the rate increases from 0.
        schedule: `cosine`, which reaches 0 after the last step, or `none`.
    """

    kind: str = "adamw"
    lr: float = 5e-4
    weight_decay: float = 0.01
    warmup: float = 0.05
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        for name, value, options in (
            ("kind", self.kind, ("adam", "adamw")),
            ("schedule", self.schedule, ("cosine", "none")),
        ):
            if value not in options:
                raise ValueError(f"optim.{name} must be one of {', '.join(options)}, got {value!r}")

    def configure(
        self, module: nn.Module, steps: int, multiplier: Callable[[str, float], float] | None = None
    ) -> dict[str, Any]:
        """Create the optimiser and the schedule.

        Args:
            module: Module to train. Only parameters that require a gradient are trained.
            steps: Total number of steps. The rate changes after each step, not after each epoch.
            multiplier: Function that returns the multiplier of a parameter's learning rate, given its name and the
                fraction of completed steps in [0, 1). None trains all parameters at one rate.

        Returns:
            Return value of Lightning's `configure_optimizers`.
        """
        import torch
        from torch.optim.lr_scheduler import LambdaLR

        factor = multiplier or (lambda name, progress: 1.0)
        # parameters share a group if they have equal rates at all steps and equal weight decay
        groups: dict[tuple[Any, ...], list[str]] = {}
        trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        axes = getattr(module, "axes", {})  # number of axes of weights before sharding
        for name, p in trainable.items():
            decayed = axes.get(name, p.ndim) > 1 and "weight" in name.rpartition(".")[2]  # no tokens or positions
            factors = tuple(factor(name, step / steps) for step in range(0, steps, max(1, steps // 1000)))
            groups.setdefault((decayed, factors), []).append(name)
        # the group with the highest rate is first
        order = sorted(groups.items(), key=lambda group: (-group[0][1][0], not group[0][0]))
        optimiser_class = torch.optim.AdamW if self.kind == "adamw" else torch.optim.Adam
        optimiser = optimiser_class(
            [
                {"params": [trainable[name] for name in names], "weight_decay": self.weight_decay if decayed else 0.0}
                for (decayed, _), names in order
            ],
            lr=self.lr,
        )
        rates: list[Callable[[int], float]] = [
            lambda step, name=names[0]: self.factor(step, steps) * factor(name, min(step, steps - 1) / steps)  # type: ignore[misc]
            for _, names in order
        ]
        schedule = LambdaLR(optimiser, rates)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def factor(self, step: int, steps: int) -> float:
        """Return the rate at a step as a fraction of the highest rate, in [0, 1]."""
        warm = round(self.warmup * steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        if self.schedule == "none":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))
