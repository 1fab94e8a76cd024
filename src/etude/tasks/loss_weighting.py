"""Weighting of the losses of several targets, with projection of conflicting gradients (PCGrad).

A target of which a batch has no label has loss 0 there; it teaches nothing, and nothing that is learned about its
weight moves. What weight each target has is kept, so that the curves can show it beside its raw loss.

A step needs the gradient of each target by itself, and no sum of losses has the gradient that comes out. But a loss can
be made that has: the sum over all weights w of g·w, with g held constant, has the gradient g and nothing else. So
accumulation, clipping, mixed precision and the exchange between devices go on as with any other loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from etude.errors import UserError
from etude.tasks.targets import module_key


class LossWeighting(nn.Module):
    """What every weighting is.

    Args:
        targets: Names of the task's targets; as a mapping, with the kind of each (`label` or `scalar`).

    Attributes:
        weights: What the loss of each target was multiplied by the last time, () each.
        needs_full_gradients: Whether each device must hold the gradients of all weights, not a shard of them.
    """

    needs_full_gradients: bool = False

    def __init__(self, targets: Iterable[str]) -> None:
        super().__init__()
        self.weights: dict[str, Tensor | float] = dict.fromkeys(targets, 1.0)

    def forward(self, losses: dict[str, Tensor], known: dict[str, Tensor] | None = None) -> Tensor:
        """One loss out of several.

        Args:
            losses: Mean loss of each target over the clips that have it, ().
            known: Whether any clip has it, () bool; none means that all have.

        Returns:
            The loss that is minimised, ().
        """
        return torch.stack(list(losses.values())).sum()

    def objective(self, loss: Tensor, losses: dict[str, Tensor], shared: nn.Module, own: nn.Module) -> Tensor:
        """What to go backward from: the loss itself, or for gradient surgery something with other gradients.

        Args:
            loss: What `forward` returned, ().
            losses: What it was given.
            shared: What all targets share, the backbone.
            own: What they do not share, the heads.
        """
        return loss

    def before_step(self) -> None:
        """Called when the gradients of a step are complete."""


class WeightedSum(LossWeighting):
    """The weighted sum; a target without a weight has weight 1.

    Args:
        targets: Names of the task's targets.
        weights: Weight by target.

    Raises:
        ValueError: A weight is given to a target that the task does not have.
    """

    def __init__(self, targets: Iterable[str], weights: Mapping[str, float] | None = None) -> None:
        super().__init__(targets)
        weights = dict(weights or {})
        if unknown := set(weights) - set(self.weights):
            raise ValueError(
                f"weighting.weights names {', '.join(sorted(unknown))}; the task has {', '.join(self.weights)}"
            )
        self.weights |= {name: float(weight) for name, weight in weights.items()}

    def forward(self, losses: dict[str, Tensor], known: dict[str, Tensor] | None = None) -> Tensor:
        """As of every weighting."""
        return super().forward({name: self.weights[name] * loss for name, loss in losses.items()})


class RandomWeighting(LossWeighting):
    """Other weights at every step, drawn at random.

    Lin, Ye, Zhang & Tsang, 2022, "Reasonable effectiveness of random weighting: a litmus test for multi-task learning":
    K normal numbers through a softmax, here times K, so that a weight is 1 on average and the learning rate means what
    it means for the sum. Of the simple ways to move weights it is the one without state, temperature or schedule:
    nothing to resume, nothing to agree upon between devices. It does about as well as those that follow the losses
    (such as dynamic weight average, Liu, Johns & Davison, 2019), and so is the bar that they have to pass.
    """

    def forward(self, losses: dict[str, Tensor], known: dict[str, Tensor] | None = None) -> Tensor:
        """As of every weighting; in evaluation all weights are 1, so that a loss can be compared with the last one."""
        count = len(losses)
        drawn = count * torch.randn(count).softmax(0) if self.training else torch.ones(count)
        self.weights = dict(zip(losses, drawn.tolist(), strict=True))
        return super().forward({name: self.weights[name] * loss for name, loss in losses.items()})


class UncertaintyWeighting(LossWeighting):
    """Weights that are learned, as the noise that each target is believed to have.

    Kendall, Gal & Cipolla, 2018, "Multi-task learning using uncertainty to weigh losses for scene geometry and
    semantics". With s = log σ² for each target, a scalar's loss L becomes L exp(-s) / 2 + s / 2, the likelihood of a
    Gaussian, and a label's L exp(-s) + s / 2, that of a softmax whose outputs are divided by σ² (their approximation).
    A scalar's loss stands in the place of their squared error whichever it is. The loss can be less than 0.

    Args:
        targets: Kinds by name, `label` or `scalar`.
        rate: How many times faster than other weights s moves. Adam's steps are about as long as the learning rate
            whatever the gradient, and s has a way of several units to go: at the rate of a network, 0.0005, it would
            take thousands of steps.

    Attributes:
        log_variance: s / rate of each target, () each; begins at 0, is never decayed.
    """

    def __init__(self, targets: Mapping[str, str], rate: float = 100.0) -> None:
        super().__init__(targets)
        if rate <= 0:
            raise ValueError(f"weighting.rate must be greater than 0, got {rate}")
        self.rate, self.share = rate, {name: {"label": 1.0, "scalar": 0.5}[kind] for name, kind in targets.items()}
        self.log_variance = nn.ParameterDict({module_key(name): nn.Parameter(torch.zeros(())) for name in targets})

    def forward(self, losses: dict[str, Tensor], known: dict[str, Tensor] | None = None) -> Tensor:
        """As of every weighting."""
        terms = []
        for name, loss in losses.items():
            learned = self.log_variance[module_key(name)]
            # rate times as much, with the gradient of s itself: clipping by norm would see a larger one before all else
            s = learned + (self.rate - 1) * learned.detach()
            weight = self.share[name] * (-s).exp()
            self.weights[name] = weight.detach()
            there = 1.0 if known is None else known[name].to(loss)
            terms.append(weight * loss + there * s / 2)
        return torch.stack(terms).sum()

    def before_step(self) -> None:
        """Leave out of the step what no clip of it was about: Adam's momentum would go on moving it."""
        for parameter in self.log_variance.values():
            if parameter.grad is not None and not parameter.grad.any():
                parameter.grad = None


class PCGrad(LossWeighting):
    """Projection of conflicting gradients, on what the targets share; a head follows its own target alone.

    Yu, Kumar, Gupta, Levine, Hausman & Finn, 2020, "Gradient surgery for multi-task learning": of the gradient of each
    target the component against each other target is removed, in random order, where their product is negative; then
    they are summed. TorchJD (Quinton & Rey, 2024, "Jacobian descent for multi-objective optimization") projects. The
    result is a weighted sum of the gradients, and those are the weights that are kept.

    A step takes a backward pass for each target. When batches are accumulated, the surgery is on each by itself. On
    several devices it is on the gradients of the whole batch, the same on each.
    """

    needs_full_gradients = True

    def objective(self, loss: Tensor, losses: dict[str, Tensor], shared: nn.Module, own: nn.Module) -> Tensor:
        """A loss of the same value whose gradients have been operated on.

        Raises:
            UserError: TorchJD is not installed.
        """
        common, private = ([p for p in part.parameters() if p.requires_grad] for part in (shared, own))
        if len(losses) < 2 or not common:
            return loss  # there is nobody to disagree with, or nothing to disagree about
        project = _pcgrad()
        rows, heads = [], [torch.zeros_like(p) for p in private]
        for place, each in enumerate(losses.values(), 1):
            # every target on every device, whether it has labels or not: devices may have to meet within a pass
            gradients = torch.autograd.grad(
                each, [*common, *private], retain_graph=place < len(losses), materialize_grads=True
            )
            rows.append(torch.cat([gradient.flatten() for gradient in gradients[: len(common)]]))
            heads = [head + gradient for head, gradient in zip(heads, gradients[len(common) :], strict=True)]
        jacobian = torch.stack(rows)  # (K, weights of the backbone)
        with torch.no_grad(), torch.autocast(jacobian.device.type, enabled=False):
            if several := dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
                dist.all_reduce(jacobian)
                jacobian /= dist.get_world_size()
            # row by row, because a product of matrices may be rounded to TF32 and its signs are what counts
            weights = project(torch.stack([jacobian.mv(row) for row in jacobian]))
            if several:
                dist.broadcast(weights, 0)  # the order of the projections is random
            merged = (jacobian.T.mv(weights)).split([p.numel() for p in common])
        self.weights = dict(zip(losses, weights.unbind(), strict=True))
        terms = [(p * g.view_as(p)).sum() for p, g in zip([*common, *private], [*merged, *heads], strict=True)]
        pull = torch.stack(terms).sum()
        return loss.detach() + pull - pull.detach()


def _pcgrad() -> Any:
    """From the products of all gradients with each other (K, K) to their weights (K,)."""
    try:
        from torchjd.aggregation import PCGradWeighting
    except ImportError as error:
        raise UserError("weighting=pcgrad needs TorchJD: pip install 'etude[pcgrad]'") from error
    return PCGradWeighting()
