"""Weighting of the losses of several targets, with projection of conflicting gradients (PCGrad).

A target without labels in a batch has loss 0 there. It contributes no gradient, and learned parameters of its weight do
not change. The weight of each target is stored, so that the training curves can show it beside the unweighted loss.

PCGrad needs the gradient of each target separately, and the projected gradient is not the gradient of a sum of the
losses. However, the sum over all parameters w of g·w, with g constant, has exactly the gradient g. Such a surrogate
loss works with accumulation, clipping, mixed precision and gradient exchange between devices like any other loss.
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
    """Unweighted sum of losses, and base class of loss weightings.

    Args:
        targets: Names of the task's targets, or a mapping from each name to its kind (`label` or `scalar`).

    Attributes:
        weights: Most recent weight of the loss of each target, () each.
        needs_full_gradients: Whether each device requires the gradients of all parameters, not a shard of them.
    """

    needs_full_gradients: bool = False

    def __init__(self, targets: Iterable[str]) -> None:
        super().__init__()
        self.weights: dict[str, Tensor | float] = dict.fromkeys(targets, 1.0)

    def forward(self, losses: dict[str, Tensor], has_labels: dict[str, Tensor] | None = None) -> Tensor:
        """Combine the losses of all targets.

        Args:
            losses: Mean loss of each target over its labelled clips, ().
            has_labels: For each target, whether any clip of the batch has a label, () bool. None if every target
                has labels.

        Returns:
            The loss that is minimised, ().
        """
        return torch.stack(list(losses.values())).sum()

    def objective(self, loss: Tensor, losses: dict[str, Tensor], backbone: nn.Module, heads: nn.Module) -> Tensor:
        """Return the loss itself, or a surrogate loss with modified gradients, for the backward pass.

        Args:
            loss: Result of `forward`, ().
            losses: Losses passed to `forward`.
            backbone: Module that all targets share.
            heads: Modules that targets do not share.
        """
        return loss

    def before_step(self) -> None:
        """Modify the gradients of a step before the optimiser uses them."""


class WeightedSum(LossWeighting):
    """Sum of losses with fixed weights, which are 1 by default.

    Args:
        targets: Names of the task's targets.
        weights: Weight by target.

    Raises:
        ValueError: `weights` contains a target that the task does not have.
    """

    def __init__(self, targets: Iterable[str], weights: Mapping[str, float] | None = None) -> None:
        super().__init__(targets)
        weights = dict(weights or {})
        if unknown := set(weights) - set(self.weights):
            raise ValueError(
                f"weighting.weights: unknown {', '.join(sorted(unknown))}; the task has {', '.join(self.weights)}"
            )
        self.weights |= {name: float(weight) for name, weight in weights.items()}

    def forward(self, losses: dict[str, Tensor], has_labels: dict[str, Tensor] | None = None) -> Tensor:
        """Compute the weighted sum of the losses."""
        return super().forward({name: self.weights[name] * loss for name, loss in losses.items()})


class RandomWeighting(LossWeighting):
    """Sum of losses with random weights that are drawn at every step.

    Source: Lin, Ye, Zhang & Tsang, 2022, "Reasonable effectiveness of random weighting: a litmus test for multi-task
    learning". Weights are the softmax of K normal numbers, here multiplied by K. A weight is then 1 on average, and the
    learning rate is comparable with the learning rate for the plain sum. This weighting has no state, temperature or
    schedule, so there is nothing to resume and nothing to synchronise between devices. Its accuracy is similar to the
    accuracy of weightings that adapt to the losses, such as dynamic weight average (Liu, Johns & Davison, 2019). It is
    a baseline for these weightings.
    """

    def forward(self, losses: dict[str, Tensor], has_labels: dict[str, Tensor] | None = None) -> Tensor:
        """Compute the randomly weighted sum. All weights are 1 in evaluation, which keeps losses comparable."""
        count = len(losses)
        drawn = count * torch.randn(count).softmax(0) if self.training else torch.ones(count)
        self.weights = dict(zip(losses, drawn.tolist(), strict=True))
        return super().forward({name: self.weights[name] * loss for name, loss in losses.items()})


class UncertaintyWeighting(LossWeighting):
    """Sum of losses with learned weights, derived from an estimated noise variance σ² of each target.

    Source: Kendall, Gal & Cipolla, 2018, "Multi-task learning using uncertainty to weigh losses for scene geometry and
    semantics". With s = log σ² for each target, the loss L of a scalar becomes L exp(-s) / 2 + s / 2, from the
    likelihood of a Gaussian. The loss L of a label becomes L exp(-s) + s / 2, from the likelihood of a softmax whose
    outputs are divided by σ² (an approximation in the paper). The paper uses the squared error as the loss of a scalar;
    here it can be any loss. The result can be negative.

    Args:
        targets: Mapping from the name of a target to its kind, `label` or `scalar`.
        rate: Factor by which s changes faster than other parameters. The length of Adam's steps is about the learning
            rate, independent of the gradient, and s must change by several units. At the learning rate of a network,
            0.0005, this would take thousands of steps.

    Attributes:
        log_variance: s / rate of each target, () each; initially 0, without weight decay.
    """

    def __init__(self, targets: Mapping[str, str], rate: float = 100.0) -> None:
        super().__init__(targets)
        if rate <= 0:
            raise ValueError(f"weighting.rate must be greater than 0, got {rate}")
        self.rate, self.share = rate, {name: {"label": 1.0, "scalar": 0.5}[kind] for name, kind in targets.items()}
        self.log_variance = nn.ParameterDict({module_key(name): nn.Parameter(torch.zeros(())) for name in targets})

    def forward(self, losses: dict[str, Tensor], has_labels: dict[str, Tensor] | None = None) -> Tensor:
        """Compute the sum of losses weighted by uncertainty."""
        terms = []
        for name, loss in losses.items():
            learned = self.log_variance[module_key(name)]
            # the value is rate * parameter, but the parameter gets the gradient of s; rate times this gradient would
            # dominate clipping by norm
            s = learned + (self.rate - 1) * learned.detach()
            weight = self.share[name] * (-s).exp()
            self.weights[name] = weight.detach()
            present = 1.0 if has_labels is None else has_labels[name].to(loss)
            terms.append(weight * loss + present * s / 2)
        return torch.stack(terms).sum()

    def before_step(self) -> None:
        """Remove the gradients of targets without labels in the step, because Adam would still apply its momentum."""
        for parameter in self.log_variance.values():
            if parameter.grad is not None and not parameter.grad.any():
                parameter.grad = None


class PCGrad(LossWeighting):
    """Projection of conflicting task gradients of the shared backbone (PCGrad).

    Source: Yu, Kumar, Gupta, Levine, Hausman & Finn, 2020, "Gradient surgery for multi-task learning". When two task
    gradients have a negative inner product, the conflicting component is removed. This is repeated for each other
    target, in random order. The projected gradients are then summed. The implementation is TorchJD (Quinton & Rey,
    2024, "Jacobian descent for multi-objective optimization"). The result is a weighted sum of the task gradients. The
    weights are stored in `weights`. The gradients of the heads are unchanged.

    A step needs a backward pass for each target. With gradient accumulation, each batch is projected separately. On
    several devices, the gradients of the complete batch are projected, identically on each device.
    """

    needs_full_gradients = True

    def objective(self, loss: Tensor, losses: dict[str, Tensor], backbone: nn.Module, heads: nn.Module) -> Tensor:
        """Return a surrogate loss of the same value with projected gradients.

        Raises:
            UserError: TorchJD is not installed.
        """
        shared, private = ([p for p in module.parameters() if p.requires_grad] for module in (backbone, heads))
        if len(losses) < 2 or not shared:
            return loss  # a single target or no trainable backbone, so there is no conflict
        project = _pcgrad_weighting()
        rows, head_gradients = [], [torch.zeros_like(p) for p in private]
        for count, task_loss in enumerate(losses.values(), 1):
            # for every target on every device, even without labels, because a backward pass may synchronise devices
            gradients = torch.autograd.grad(
                task_loss, [*shared, *private], retain_graph=count < len(losses), materialize_grads=True
            )
            rows.append(torch.cat([gradient.flatten() for gradient in gradients[: len(shared)]]))
            head_gradients = [a + b for a, b in zip(head_gradients, gradients[len(shared) :], strict=True)]
        jacobian = torch.stack(rows)  # (K, parameters of the backbone)
        with torch.no_grad(), torch.autocast(jacobian.device.type, enabled=False):
            if several := dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
                dist.all_reduce(jacobian)
                jacobian /= dist.get_world_size()
            # row by row, because a matrix product may be rounded to TF32, which can change its signs
            weights = project(torch.stack([jacobian.mv(row) for row in jacobian]))
            if several:
                dist.broadcast(weights, 0)  # the order of the projections is random
            projected = (jacobian.T.mv(weights)).split([p.numel() for p in shared])
        self.weights = dict(zip(losses, weights.unbind(), strict=True))
        constants = [*projected, *head_gradients]
        terms = [(p * g.view_as(p)).sum() for p, g in zip([*shared, *private], constants, strict=True)]
        surrogate = torch.stack(terms).sum()
        return loss.detach() + surrogate - surrogate.detach()


def _pcgrad_weighting() -> Any:
    """Return the function that computes weights (K,) from the Gramian of the task gradients (K, K)."""
    try:
        from torchjd.aggregation import PCGradWeighting
    except ImportError as error:
        raise UserError("weighting=pcgrad needs TorchJD: pip install 'etude[pcgrad]'") from error
    return PCGradWeighting()
