"""Heads, the networks that compute the outputs of one target from an embedding, and the task that contains them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from etude.audio.frontend_modules import MaskedBatchNorm
from etude.tasks.loss_weighting import LossWeighting
from etude.tasks.targets import Target, module_key


class Linear(nn.Module):
    """Linear head.

    Args:
        dim: Size of the embedding, D.
        size: Number of outputs, K.
        dropout: Probability of dropping a unit of the embedding.
        norm: Whether batch norm standardises each unit of the embedding over clips. Units of a frozen backbone differ
            in scale, and weights of small units would be learned slowly (He et al., 2022, "Masked autoencoders are
            scalable vision learners", on linear probing).
    """

    def __init__(self, dim: int, size: int, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.norm = Norm(dim) if norm else None
        self.layers = nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, size))

    def forward(self, z: Tensor) -> Tensor:
        """Compute outputs (B, K) from an embedding (B, D)."""
        return self.layers(z if self.norm is None else self.norm(z))


class Norm(MaskedBatchNorm):
    """Batch norm of embeddings over the clips of all devices."""

    def forward(self, z: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Normalise each of the D features over the batch (B, D)."""
        return super().forward(z[:, :, None, None], z.new_ones(z.shape[0], dtype=torch.int64))[:, :, 0, 0]


class MLP(nn.Module):
    """Head with one hidden layer and GELU, on the layer-normalised embedding.

    Args:
        dim: Size of the embedding, D.
        size: Number of outputs, K.
        hidden: Number of units in the hidden layer.
        dropout: Probability of dropping a hidden unit.
    """

    def __init__(self, dim: int, size: int, hidden: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, size)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Compute outputs (B, K) from an embedding (B, D)."""
        return self.layers(z)


class Task(nn.Module):
    """Targets with their heads and the weighting of their losses.

    Single-task learning is a task with one target.

    Args:
        targets: Targets to predict.
        head: Function that creates a head from the embedding size D and the number of outputs K.
        weighting: Function that creates the loss weighting from the kind of each target ({name: kind}).
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
        """Compute the outputs (B, K) of each target from an embedding (B, D)."""
        return {name: self.heads[module_key(name)](z) for name in self.targets}

    def loss(
        self,
        out: dict[str, Tensor],
        y: dict[str, Tensor],
        weight: Tensor | None = None,
        counts: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the weighted loss and the loss of each target.

        Args:
            out: Outputs (B, K) by target.
            y: True values (B,) by target; missing ones are masked.
            weight: Weight of each clip (B,), at least 0; None for equal weights.
            counts: Result of `count_labels` for these values, if it was computed before, because it requires
                communication between devices.

        Returns:
            The weighted loss (), and the mean loss of each target over its labelled clips (). In training on several
            devices, the mean of these losses over devices is the mean over all labelled clips of the step, even if a
            device has few labelled clips.
        """
        each, devices, counts = {}, self.devices(), counts or self.count_labels(y, weight)
        for name, target in self.targets.items():
            losses = target.loss(out[name], y[name], weight)
            total = losses.sum() if weight is None else (weight * losses).sum()
            each[name] = devices * total / torch.where(counts[name] > 0, counts[name], 1)
        return self.weighting(each, {name: count > 0 for name, count in counts.items()}), each

    def count_labels(self, y: dict[str, Tensor], weight: Tensor | None = None) -> dict[str, Tensor]:
        """Count the labelled clips of each target on all devices, or sum their weights.

        Args:
            y: True values (B,) by target; missing ones are masked.
            weight: Weight of each clip (B,); None for equal weights.

        Returns:
            Count or weight of each target, ().
        """
        labelled = {name: target.has_label(y[name]) for name, target in self.targets.items()}
        counts = {name: (mask if weight is None else weight * mask).sum() for name, mask in labelled.items()}
        if self.devices() == 1:
            return counts
        total = torch.stack(list(counts.values()))
        dist.all_reduce(total)
        return dict(zip(counts, total.unbind(), strict=True))

    def devices(self) -> int:
        """Return the number of devices that share a step, or 1 in evaluation.

        In evaluation, the losses are computed from the complete split on each device.
        """
        several = self.training and dist.is_available() and dist.is_initialized()
        return dist.get_world_size() if several else 1

    def predict(self, out: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert the outputs of each target to probabilities (B, K) or values (B,)."""
        with torch.no_grad():
            return {name: target.predict(out[name]) for name, target in self.targets.items()}
