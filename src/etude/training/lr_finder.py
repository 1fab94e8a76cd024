"""Learning-rate range test."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer

from etude.files.atomic import replacing, write_text
from etude.runs.folder import RunFolder

log = logging.getLogger(__name__)
SMOOTH = 0.8  # weight of the past in the running mean of the loss


class LearningRateFinder(Callback):
    """Learning-rate range test: every step at a higher rate than the one before, until the loss runs away.

    Smith, 2017, "Cyclical learning rates for training neural networks". Lightning's `lr_find` puts one rate into all
    groups of weights and asks for an attribute `lr`; here each group keeps its share, as a transfer gives it. The
    suggestion is a tenth of the rate at which the smoothed loss was lowest.

    Args:
        steps: Steps from the lowest rate to the highest.
        low: First rate.
        high: Last rate.
        stop: Stop when the smoothed loss is this many times its lowest.

    Attributes:
        ends_after_fit: A run with such a callback ends after the fit, without predictions.
    """

    ends_after_fit = True  # the last rates ruin the weights

    def __init__(self, steps: int = 100, low: float = 1e-6, high: float = 1.0, stop: float = 4.0) -> None:
        if not 0 < low < high or steps < 10:
            raise ValueError(
                f"a ramp takes at least 10 steps from low to a higher rate, got {steps}, {low:g}, {high:g}"
            )
        self.rates, self.stop = np.geomspace(low, high, steps), stop
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set this step's rate; the schedule's own has just been set."""
        rate = self.rates[trainer.global_step]
        highest = trainer.optimizers[0].param_groups[0]["lr"] or 1.0  # of what learns most; a frozen group has 0
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate * group["lr"] / highest

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss, and see whether it has run away."""
        if trainer.global_step == len(self.losses):
            return  # batches are still being accumulated to a step
        loss = pl_module.losses[0].clone()  # type: ignore[index]
        self.losses.append(float(trainer.strategy.reduce(loss, reduce_op="mean")))
        smoothed = smooth(self.losses)
        away = not math.isfinite(self.losses[-1]) or smoothed[-1] > self.stop * abs(smoothed.min())
        if (away and len(self.losses) > 10) or len(self.losses) == len(self.rates):
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table and the picture, and say the suggestion."""
        if trainer.is_global_zero:
            write(Path(trainer.default_root_dir), self.rates[: len(self.losses)], self.losses)


def smooth(losses: list[float]) -> np.ndarray:
    """Running mean of losses (n,), looking back and ahead alike, so that it lags behind nothing."""
    back, ahead = _running(losses), _running(losses[::-1])[::-1]
    return np.where(np.isinf(back), ahead, np.where(np.isinf(ahead), back, (back + ahead) / 2))


def _running(losses: list[float]) -> np.ndarray:
    """Mean of what has been so far, the last ones most; a loss that is not finite is left out."""
    mean, weight, result = 0.0, 0.0, []
    for loss in losses:
        if math.isfinite(loss):
            mean, weight = SMOOTH * mean + (1 - SMOOTH) * loss, SMOOTH * weight + (1 - SMOOTH)
        result.append(mean / weight if weight else math.inf)
    return np.array(result)


def suggestion(rates: np.ndarray, losses: list[float]) -> float | None:
    """A tenth of the rate at which the smoothed loss was lowest; none where it did not fall.

    Howard & Gugger, 2020, "Deep learning for coders". The steepest point, which others take, is often the last before
    the loss runs away.

    Args:
        rates: Rate of each step (n,), rising by a constant factor.
        losses: Loss of each step (n,).
    """
    lowest = int(smooth(losses).argmin())
    return float(rates[lowest]) / 10 if lowest else None


def write(folder: Path, rates: np.ndarray, losses: list[float]) -> None:
    """lr.csv and lr.png of a ramp, and one line in the log."""
    import pandas as pd
    from matplotlib.figure import Figure

    run = RunFolder(folder)
    smoothed, found = smooth(losses), suggestion(rates, losses)
    table = pd.DataFrame({"lr": rates, "loss": losses, "smoothed": smoothed})
    write_text(run.lr_table_path, table.to_csv(index=False))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(rates, losses, color="0.8", label="loss of a step")
    axes.semilogx(rates, smoothed, color="C0", label="smoothed")
    low, high = float(smoothed.min()), float(smoothed[0])
    axes.set_ylim(low - 0.2 * (high - low) - 1e-3, high + 0.6 * (high - low) + 1e-3)
    if found is not None:
        axes.axvline(found, color="C1", linestyle="--", label=f"optim.lr={found:.1e}")
    axes.set(xlabel="learning rate", ylabel="training loss")
    axes.legend(frameon=False)
    with replacing(run.lr_plot_path) as draft:
        figure.savefig(draft, format="png", dpi=120)
    said = f"optim.lr={found:.1e}, a tenth of where the loss was lowest" if found else "the loss never fell"
    log.info("%s; the picture: %s", said, os.path.relpath(run.lr_plot_path))
