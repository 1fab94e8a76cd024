"""Gradient surgery: where two targets pull the backbone apart, the part of each pull that harms the other is cut off.

A step needs the gradient of each target by itself, and no sum of losses has the gradient that comes out. But a loss can
be made that has: the sum over all weights w of g·w, with g held constant, has the gradient g and nothing else. So
accumulation, clipping, mixed precision and the exchange between devices go on as with any other loss.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from etude.errors import UserError
from etude.tasks.balance import Balance


class PCGrad(Balance):
    """Projection of conflicting gradients, on what the targets share; a head follows its own target alone.

    Yu, Kumar, Gupta, Levine, Hausman & Finn, 2020, "Gradient surgery for multi-task learning": of the gradient of each
    target the component against each other target is removed, in random order, where their product is negative; then
    they are summed. TorchJD (Quinton & Rey, 2024, "Jacobian descent for multi-objective optimization") projects. The
    result is a weighted sum of the gradients, and those are the weights that are kept.

    A step takes a backward pass for each target. When batches are accumulated, the surgery is on each by itself. On
    several devices it is on the gradients of the whole batch, the same on each.
    """

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
        raise UserError("balance=pcgrad needs TorchJD: pip install 'etude[pcgrad]'") from error
    return PCGradWeighting()
