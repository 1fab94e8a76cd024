"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Optimiser:
    """Makes the optimiser of a module and the course of its learning rate.

    Args:
        kind: `adamw` (Loshchilov & Hutter, 2019) or `adam` (Kingma & Ba, 2015).
        lr: Highest learning rate.
        weight_decay: Decay of matrices and filters; biases, norms and single vectors are never decayed.
        warmup: Share of all steps over which the rate rises from 0.
        schedule: `cosine`, reaching 0 as the last step ends, or `none`.
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
        """What Lightning's `configure_optimizers` returns.

        Args:
            module: Its parameters that require a gradient are trained.
            steps: Steps of the whole run. The rate changes after each step, not after each epoch.
            multiplier: Of a parameter's rate, by its name and the share of all steps that are done, in [0, 1). None
                trains all at one rate.
        """
        import torch
        from torch.optim.lr_scheduler import LambdaLR

        share = multiplier or (lambda name, done: 1.0)
        # parameters share a group when their rates are alike all along and both are decayed, or not
        groups: dict[tuple[Any, ...], list[str]] = {}
        free = {name: p for name, p in module.named_parameters() if p.requires_grad}
        axes = getattr(module, "axes", {})  # of weights before they were put into shards
        for name, p in free.items():
            decayed = axes.get(name, p.ndim) > 1 and "weight" in name.rpartition(".")[2]  # no token, no code
            course = tuple(share(name, step / steps) for step in range(0, steps, max(1, steps // 1000)))
            groups.setdefault((decayed, course), []).append(name)
        order = sorted(
            groups.items(), key=lambda group: (-group[0][1][0], not group[0][0])
        )  # what learns most is first
        maker = torch.optim.AdamW if self.kind == "adamw" else torch.optim.Adam
        optimiser = maker(
            [
                {"params": [free[name] for name in names], "weight_decay": self.weight_decay if decayed else 0.0}
                for (decayed, _), names in order
            ],
            lr=self.lr,
        )
        rates: list[Callable[[int], float]] = [
            lambda step, name=names[0]: self.factor(step, steps) * share(name, min(step, steps - 1) / steps)  # type: ignore[misc]
            for _, names in order
        ]
        schedule = LambdaLR(optimiser, rates)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def factor(self, step: int, steps: int) -> float:
        """Share of the highest rate at a step, in [0, 1]."""
        warm = round(self.warmup * steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        if self.schedule == "none":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))
