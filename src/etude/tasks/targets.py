"""Targets, with their losses and the conversion of outputs to predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.config.instantiate import has_parameter
from etude.errors import UserError, one_line_message
from etude.files.os_errors import is_memory_error

LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": partial(F.huber_loss, delta=0.1),
}
# names of attributes of these containers; a module in them must not have such a name
RESERVED_NAMES = frozenset((*dir(nn.ModuleDict()), *dir(nn.ParameterDict())))


def module_key(name: str) -> str:
    """Return the key of a target in a `ModuleDict` or `ParameterDict`.

    Keys become attributes. torch rejects keys with a dot, empty keys, and attribute names of these containers, such as
    `type`, `pop` and `train`. Such names are percent-encoded. All others are unchanged, so that names in checkpoints
    are stable.
    """
    key = name.replace("%", "%25").replace(".", "%2E")
    return f"%{ord(key[0]):02X}{key[1:]}" if key in RESERVED_NAMES else key or "%"


class Target:
    """Base class of targets, the quantities that heads predict for a clip.

    Attributes:
        name: Column in the table of clips.
        size: Number of outputs of the head, K.
        kind: Kind of the column, `label` or `scalar`.
        classes: Names of the classes of a label; empty for a scalar.
        low: Lower end of the range of a scalar.
        high: Upper end of the range of a scalar.
        function: Loss that replaces the losses of this module; None for one of them.
    """

    name: str
    size: int
    kind: str
    classes: Sequence[str] = ()
    low: float = 0.0
    high: float = 1.0
    function: Callable[..., Tensor] | None = None

    def has_label(self, y: Tensor) -> Tensor:
        """Return a mask (B,), bool, that is True where the true value (B,) is present."""
        raise NotImplementedError

    def loss(self, out: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compute the loss of each clip. It is 0 where the true value is missing.

        Args:
            out: Outputs (B, K).
            y: True values (B,).
            weight: Weight of each clip (B,) in the mean over the batch; None for equal weights.

        Returns:
            Losses (B,), not multiplied by the weights.

        Raises:
            UserError: The function of a config fails, or does not return a loss.
            ValueError: The shapes are not (B, K) and (B,). Broadcasting (B, 1) against (B,) would silently train the
                network to predict the mean of its batch.
        """
        if out.ndim != 2 or out.shape != (len(y), self.size) or y.ndim != 1:
            raise ValueError(f"{self.name}: outputs must be (B, {self.size}) and true values (B,), "
                             f"got {tuple(out.shape)} and {tuple(y.shape)}")  # fmt: skip
        labelled = self.has_label(y)
        if self.function is not None:
            losses = torch.zeros_like(out[:, 0], dtype=torch.float32)
            if not labelled.any():
                return losses + 0 * out.sum()  # with a gradient, which exchanges between devices need
            arguments = self._loss_arguments(out.float()[labelled], y[labelled])
            values = call_loss(self.name, self.function, *arguments, None if weight is None else weight[labelled])
            return losses.masked_scatter(labelled, values.float())
        losses = self._unmasked_losses(out.float(), torch.where(labelled, y, torch.zeros_like(y)))
        return torch.where(labelled, losses, torch.zeros_like(losses))

    def predict(self, out: Tensor) -> Tensor:
        """Convert outputs (B, K) to probabilities (B, K) or values (B,)."""
        raise NotImplementedError

    def score(self, out: Tensor) -> Tensor:
        """Return the unsaturated scores (B, K) that attributions explain, so that gradients do not vanish."""
        raise NotImplementedError

    def _unmasked_losses(self, out: Tensor, y: Tensor) -> Tensor:
        """Compute the loss of each clip (B,). No true value may be missing."""
        raise NotImplementedError

    def _loss_arguments(self, out: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predictions and true values that the function of a config receives."""
        return out, y


def call_loss(
    name: str, function: Callable[..., Tensor], out: Tensor, y: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Call the loss function of a config.

    Args:
        name: Name of the target, for messages.
        function: Function of predictions and true values. If it has a parameter `weights`, it receives the weights.
        out: Predictions, a row per clip.
        y: True values (B,).
        weight: Weight of each clip (B,); None for equal weights.

    Returns:
        Losses (B,). A function that returns one number defines the loss of all clips.

    Raises:
        UserError: The function fails, or does not return a differentiable loss.
    """
    title = getattr(getattr(function, "func", function), "__name__", "the function")  # func: of a functools.partial
    key, weighs = f"task.targets.{name}.loss: {title}", has_parameter(function, "weights")
    weights = {"weights": torch.ones(len(y), device=out.device) if weight is None else weight} if weighs else {}
    try:
        values = function(out, y, **weights)
    except Exception as error:  # of any kind, because the function is not a part of this package
        if is_memory_error(error):
            raise
        raise UserError(f"{key} raised {type(error).__name__}: {one_line_message(error, 200)}") from error
    if not isinstance(values, Tensor) or values.shape not in ((), (len(y),)):
        returned = f"a tensor of shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"{values!r:.60}"
        raise UserError(f"{key} returned {returned} for {len(y)} clips; it must return their losses or their mean")
    if out.requires_grad and not values.requires_grad:
        raise UserError(f"{key} returned a loss without a gradient; compute it from the predictions with torch")
    if values.ndim == 0 and weight is not None and not weighs:
        raise UserError(
            f"{key} returned one number, but the clips have weights, as with augment=mixup; return a loss per clip, or "
            "add the parameter weights"
        )
    return values.expand(len(y))


class Label(Target):
    """Classification target with cross-entropy loss.

    Args:
        name: Column in the table of clips.
        spec: Description of the column: `classes`, and for balanced weights `counts`, the number of training clips of
            each class.
        smoothing: Share of probability spread over all classes (Szegedy et al., 2016).
        class_weight: `balanced` weighs the loss of a clip inversely to the frequency of its class, with mean 1 over the
            training split, as in scikit-learn; None for equal weights.
        loss: `cross_entropy`, or a function of logits (B, K) and class indices (B,), see `call_loss`. A function has
            neither smoothing nor class weights.
    """

    kind = "label"

    def __init__(
        self,
        name: str,
        spec: dict[str, Any],
        smoothing: float = 0.0,
        class_weight: str | None = None,
        loss: str | Callable[..., Tensor] = "cross_entropy",
    ) -> None:
        if class_weight not in (None, "balanced"):
            raise ValueError(f"target {name}: class_weight must be balanced or null, got {class_weight!r}")
        if isinstance(loss, str) and loss != "cross_entropy":
            raise ValueError(f"target {name}: loss must be cross_entropy or a function, got {loss!r}")
        if not isinstance(loss, str):
            if smoothing or class_weight:
                raise ValueError(f"target {name}: smoothing and class_weight must be unset if loss is a function")
            self.function = loss
        self.name, self.classes, self.smoothing = name, list(spec["classes"]), smoothing
        self.size = len(self.classes)
        self.weight: Tensor | None = None
        if class_weight:
            counts = torch.tensor(spec["counts"], dtype=torch.float32)
            self.weight = counts.sum() / ((counts > 0).sum() * counts.clamp(min=1))

    def has_label(self, y: Tensor) -> Tensor:
        """Return a mask that is False where the true value is -1, which means missing."""
        return y >= 0

    def predict(self, out: Tensor) -> Tensor:
        """Return probabilities (B, K)."""
        return out.float().softmax(1)

    def score(self, out: Tensor) -> Tensor:
        """Return logits (B, K)."""
        return out.float()

    def _unmasked_losses(self, out: Tensor, y: Tensor) -> Tensor:
        losses = F.cross_entropy(out, y, reduction="none", label_smoothing=self.smoothing)
        if self.weight is None:
            return losses
        self.weight = self.weight.to(losses.device)  # copied only once
        return losses * self.weight[y]


class Scalar(Target):
    """Regression target in a range, with a squared or robust loss on the range scaled to [0, 1].

    The single output of the head is a position in the range. An output of 0 is the middle; a new network starts near
    it. Without `bounded`, -0.5 is the lower end and 0.5 the upper end. Predictions outside the range are clipped, but
    the loss uses the unclipped value, so that its gradient does not vanish. With `bounded`, a sigmoid of the same slope
    at 0 keeps predictions inside the range.

    Args:
        name: Column in the table of clips.
        spec: Description of the column: `low` and `high`.
        loss: `mse`, `mae`, or `huber` (quadratic up to a tenth of the range), or a function of predicted and true
            positions (B,) in the range, whose ends are 0 and 1, see `call_loss`.
        bounded: Whether a sigmoid keeps the output inside the range.
    """

    kind = "scalar"
    size = 1

    def __init__(
        self, name: str, spec: dict[str, Any], loss: str | Callable[..., Tensor] = "mse", bounded: bool = False
    ) -> None:
        if isinstance(loss, str) and loss not in LOSSES:
            raise ValueError(f"target {name}: loss must be one of {', '.join(LOSSES)}, or a function, got {loss!r}")
        self.function = None if isinstance(loss, str) else loss
        self.name, self.criterion, self.bounded = name, LOSSES[loss if isinstance(loss, str) else "mse"], bounded
        self.low, self.high = float(spec["low"]), float(spec["high"])

    def has_label(self, y: Tensor) -> Tensor:
        """Return a mask that is False where the true value is NaN, which means missing."""
        return ~y.isnan()

    def predict(self, out: Tensor) -> Tensor:
        """Return values (B,), clipped to the range."""
        return self.low + (self.high - self.low) * self._position(out.float()).clamp(0, 1)

    def score(self, out: Tensor) -> Tensor:
        """Return values (B, 1) before clipping to the range."""
        return (self.low + (self.high - self.low) * self._position(out.float()))[:, None]

    def _unmasked_losses(self, out: Tensor, y: Tensor) -> Tensor:
        return self.criterion(*self._loss_arguments(out, y), reduction="none")

    def _loss_arguments(self, out: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return predicted and true positions (B,) in the range, whose ends are 0 and 1."""
        return self._position(out), (y - self.low) / (self.high - self.low)

    def _position(self, out: Tensor) -> Tensor:
        """Convert outputs (B, 1) to positions (B,) in the range, whose ends are 0 and 1."""
        return (4 * out[:, 0]).sigmoid() if self.bounded else out[:, 0] + 0.5
