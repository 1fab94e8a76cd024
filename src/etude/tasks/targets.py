"""Targets: what is learned. The data says how large one is; a target knows its loss and how to read its outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": partial(F.huber_loss, delta=0.1),
}
TAKEN = frozenset((*dir(nn.ModuleDict()), *dir(nn.ParameterDict())))  # attributes that no module in them may replace


def module_key(name: str) -> str:
    """Return the key of a target in a `ModuleDict` or `ParameterDict`.

    Keys become attributes: torch refuses one with a dot, an empty one, and the names that these containers have
    themselves, such as `type`, `pop` and `train`. Such names are escaped as in addresses, all others stay as they are,
    so that weights keep their names.
    """
    key = name.replace("%", "%25").replace(".", "%2E")
    return f"%{ord(key[0]):02X}{key[1:]}" if key in TAKEN else key or "%"


class Target:
    """Something about a clip that a head learns to say.

    Attributes:
        name: Its column in the table of clips.
        size: Outputs that its head needs, K.
        kind: The kind of column it fits: `label` or `scalar`.
        classes: Names of the classes of a label; empty for a scalar.
        low, high: Range of a scalar.
    """

    name: str
    size: int
    kind: str
    classes: Sequence[str] = ()
    low: float = 0.0
    high: float = 1.0

    def known(self, y: Tensor) -> Tensor:
        """Which true values (B,) are there: (B,) bool."""
        raise NotImplementedError

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        """Loss of each clip, 0 where the true value is missing.

        Args:
            out: Outputs (B, K).
            y: True values (B,).

        Returns:
            Losses (B,).

        Raises:
            ValueError: The shapes are not (B, K) and (B,). Broadcasting (B, 1) against (B,) has taught many a network
                the mean of its batch.
        """
        if out.ndim != 2 or out.shape != (len(y), self.size) or y.ndim != 1:
            raise ValueError(f"{self.name}: outputs must be (B, {self.size}) and true values (B,), "
                             f"got {tuple(out.shape)} and {tuple(y.shape)}")  # fmt: skip
        known = self.known(y)
        each = self._each(out.float(), torch.where(known, y, torch.zeros_like(y)))
        return torch.where(known, each, torch.zeros_like(each))

    def predict(self, out: Tensor) -> Tensor:
        """Outputs (B, K) as what they mean: probabilities (B, K), or values (B,)."""
        raise NotImplementedError

    def score(self, out: Tensor) -> Tensor:
        """Outputs (B, K) as what is explained of them: before what squeezes them, so that nothing vanishes, (B, K)."""
        raise NotImplementedError

    def _each(self, out: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError


class Label(Target):
    """One class of several, learned with cross-entropy.

    Args:
        name: Its column in the table of clips.
        spec: What the data says about the column: `classes`, and for balanced weights their `counts` in training.
        smoothing: Share of probability spread over all classes (Szegedy et al., 2016).
        class_weight: `balanced` weighs a clip's loss inversely to the size of its class, 1 on average over the training
            part, so that every class counts alike, as in scikit-learn; none weighs all clips alike.
    """

    kind = "label"

    def __init__(
        self, name: str, spec: dict[str, Any], smoothing: float = 0.0, class_weight: str | None = None
    ) -> None:
        if class_weight not in (None, "balanced"):
            raise ValueError(f"target {name}: class_weight must be balanced or null, got {class_weight!r}")
        self.name, self.classes, self.smoothing = name, list(spec["classes"]), smoothing
        self.size = len(self.classes)
        self.weight: Tensor | None = None
        if class_weight:
            counts = torch.tensor(spec["counts"], dtype=torch.float32)
            self.weight = counts.sum() / ((counts > 0).sum() * counts.clamp(min=1))

    def known(self, y: Tensor) -> Tensor:
        """A missing class is -1."""
        return y >= 0

    def predict(self, out: Tensor) -> Tensor:
        """Probabilities (B, K)."""
        return out.float().softmax(1)

    def score(self, out: Tensor) -> Tensor:
        """Outputs before the softmax (B, K)."""
        return out.float()

    def _each(self, out: Tensor, y: Tensor) -> Tensor:
        losses = F.cross_entropy(out, y, reduction="none", label_smoothing=self.smoothing)
        if self.weight is None:
            return losses
        self.weight = self.weight.to(losses.device)  # once
        return losses * self.weight[y]


class Scalar(Target):
    """A number in a range, learned with a squared or a robust loss on its unit scale.

    The head's one output is read as a place in the range, of which 0 is the middle, where a new network begins. Left
    linear, -0.5 is the lower end and 0.5 the upper; a prediction outside is moved to the nearer end, and the loss sees
    it where it is, so that its gradient never vanishes. Bounded, a sigmoid of the same slope in the middle keeps it
    inside.

    Args:
        name: Its column in the table of clips.
        spec: What the data says about the column: `low` and `high`.
        loss: `mse`, `mae`, or `huber` (quadratic up to a tenth of the range).
        bounded: Whether a sigmoid keeps the output inside the range.
    """

    kind = "scalar"
    size = 1

    def __init__(self, name: str, spec: dict[str, Any], loss: str = "mse", bounded: bool = False) -> None:
        if loss not in LOSSES:
            raise ValueError(f"target {name}: loss must be one of {', '.join(LOSSES)}, got {loss!r}")
        self.name, self.criterion, self.bounded = name, LOSSES[loss], bounded
        self.low, self.high = float(spec["low"]), float(spec["high"])

    def known(self, y: Tensor) -> Tensor:
        """A missing value is NaN."""
        return ~y.isnan()

    def predict(self, out: Tensor) -> Tensor:
        """Values (B,) inside the range."""
        return self.low + (self.high - self.low) * self._place(out.float()).clamp(0, 1)

    def score(self, out: Tensor) -> Tensor:
        """Values (B, 1), before those outside the range are moved to its ends."""
        return (self.low + (self.high - self.low) * self._place(out.float()))[:, None]

    def _each(self, out: Tensor, y: Tensor) -> Tensor:
        return self.criterion(self._place(out), (y - self.low) / (self.high - self.low), reduction="none")

    def _place(self, out: Tensor) -> Tensor:
        """Outputs (B, 1) as places in the range (B,), of which 0 and 1 are the ends."""
        return (4 * out[:, 0]).sigmoid() if self.bounded else out[:, 0] + 0.5
