"""Everything a network said about a part, gathered before anything is measured.

A metric of a whole part is not the mean of its batches' metrics (Spearman's rho over batches of 8 reads as .6 where .53
is true), so batches and devices only add rows here. A clip that several devices saw is kept once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class Collected(Metric):
    """Rows of outputs, gathered over batches and devices.

    Args:
        names: Names of the targets.
    """

    full_state_update = False

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.keys = ["row", "z", *(f"out.{name}" for name in names), *(f"y.{name}" for name in names)]
        for i in range(len(self.keys)):
            self.add_state(f"column{i}", default=[], dist_reduce_fx="cat")

    def update(self, row: Tensor, z: Tensor, out: dict[str, Tensor], y: dict[str, Tensor]) -> None:
        """Add a batch: row numbers (B,), embeddings (B, D), outputs (B, K) and true values (B,) by target."""
        columns = [row, z.float(), *(out[k[4:]].float() for k in self.keys if k.startswith("out.")),
                   *(y[k[2:]] for k in self.keys if k.startswith("y."))]  # fmt: skip
        for i, column in enumerate(columns):
            getattr(self, f"column{i}").append(column.detach())

    def compute(self) -> dict[str, Tensor]:
        """All rows in the order of the table, on the CPU: `row`, `z`, `out.<target>`, `y.<target>`."""
        table = {}
        for i, key in enumerate(self.keys):
            column = getattr(self, f"column{i}")
            table[key] = (torch.cat(column) if isinstance(column, list) else column).cpu()
        rows, inverse = table["row"].unique(return_inverse=True)
        first = torch.full((len(rows),), len(inverse)).scatter_reduce(0, inverse, torch.arange(len(inverse)), "amin")
        return {key: column[first] for key, column in table.items()}
