"""Optimiser and learning rate: Adam or AdamW, with a linear warm-up and a cosine decay counted in steps."""

from __future__ import annotations

import math
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
        decay: `cosine`, reaching 0 as the last step ends, or `none`.
    """

    kind: str = "adamw"
    lr: float = 5e-4
    weight_decay: float = 0.01
    warmup: float = 0.05
    decay: str = "cosine"

    def __post_init__(self) -> None:
        for name, value, options in (("kind", self.kind, ("adam", "adamw")), ("decay", self.decay, ("cosine", "none"))):
            if value not in options:
                raise ValueError(f"optim.{name} must be one of {', '.join(options)}, got {value!r}")

    def configure(self, module: nn.Module, steps: int) -> dict[str, Any]:
        """What Lightning's `configure_optimizers` returns.

        Args:
            module: Its parameters that require a gradient are trained.
            steps: Steps of the whole run. The rate changes after each step, not after each epoch.
        """
        import torch
        from torch.optim.lr_scheduler import LambdaLR

        free = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        matrix = {name for name, p in free if p.ndim > 1 and "weight" in name.rpartition(".")[2]}  # no token, no code
        groups = [
            {"params": [p for name, p in free if name in matrix], "weight_decay": self.weight_decay},
            {"params": [p for name, p in free if name not in matrix], "weight_decay": 0.0},
        ]
        maker = torch.optim.AdamW if self.kind == "adamw" else torch.optim.Adam
        optimiser = maker([group for group in groups if group["params"]], lr=self.lr)
        schedule = LambdaLR(optimiser, lambda step: self.factor(step, steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def factor(self, step: int, steps: int) -> float:
        """Share of the highest rate at a step, in [0, 1]."""
        warm = round(self.warmup * steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        if self.decay == "none":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))
