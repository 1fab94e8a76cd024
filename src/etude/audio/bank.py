"""A bank of filters, applied without the bins that they do not take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

GROUP = 16  # filters at a time: fewer are too little work for a product of matrices, more skip too little


class Bank:
    """Filters whose neighbours take neighbouring bins, as mel bands do.

    Nine in ten of their weights are zero. A few filters together take a narrow range of bins, and a product with that
    range is all that is needed: a third of the time of one product with all bins.

    Args:
        filters: (F, bins).

    Attributes:
        width: Number of filters, F.
    """

    def __init__(self, filters: np.ndarray) -> None:
        import torch

        self.width = len(filters)
        self._parts = []
        for start in range(0, self.width, GROUP):
            some = filters[start : start + GROUP]
            taken = np.flatnonzero(some.any(0))
            bins = slice(int(taken[0]), int(taken[-1]) + 1) if len(taken) else slice(0, 0)
            weights = torch.from_numpy(some[:, bins].T.astype(np.float32).copy())
            self._parts.append((slice(start, start + len(some)), bins, weights))

    def apply(self, power: Tensor, out: Tensor) -> Tensor:
        """Power (T, bins) to what each filter takes of it, written into `out` (T, F)."""
        import torch

        for columns, bins, weights in self._parts:
            torch.mm(power[:, bins], weights, out=out[:, columns])
        return out
