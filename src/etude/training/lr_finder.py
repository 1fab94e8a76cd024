"""Learning-rate range test."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from etude.files.atomic import replacing, write_text
from etude.runs.folder import RunFolder
from etude.training.lightning import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)
SMOOTH = 0.8  # weight of the past in the running mean of the loss


class LearningRateFinder(Callback):
    """Learning-rate range test that increases the rate at each step until the loss diverges.

    Source: Smith, 2017, "Cyclical learning rates for training neural networks". Lightning's `lr_find` sets one rate for
    all parameter groups and requires an attribute `lr`. Here each group keeps its ratio to the highest rate, as set by
    the transfer. The suggested rate is a tenth of the rate at which the smoothed loss was lowest.

    Args:
        steps: Number of steps from the lowest rate to the highest.
        low: First rate.
        high: Last rate.
        stop: Stop when the smoothed loss exceeds its minimum by this factor.

    Attributes:
        ends_after_fit: Whether the run ends after the fit, without predictions.
    """

    ends_after_fit = True  # the last rates ruin the weights

    def __init__(self, steps: int = 100, low: float = 1e-6, high: float = 1.0, stop: float = 4.0) -> None:
        if not 0 < low < high or steps < 10:
            raise ValueError(
                "the learning-rate finder needs at least 10 steps and 0 < low < high, got "
                f"steps={steps}, low={low:g}, high={high:g}"
            )
        self.rates, self.stop = np.geomspace(low, high, steps), stop
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the rate of this step, which replaces the rate of the schedule."""
        rate = self.rates[trainer.global_step]
        highest = trainer.optimizers[0].param_groups[0]["lr"] or 1.0  # the first group; a frozen group has 0
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate * group["lr"] / highest

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Store the loss and stop if it diverges."""
        if trainer.global_step == len(self.losses):
            return  # the step still accumulates batches
        loss = pl_module.losses[0].clone()  # type: ignore[index]
        self.losses.append(float(trainer.strategy.reduce(loss, reduce_op="mean")))
        smoothed = smooth_losses(self.losses)
        diverged = not math.isfinite(self.losses[-1]) or smoothed[-1] > self.stop * abs(smoothed.min())
        if (diverged and len(self.losses) > 10) or len(self.losses) == len(self.rates):
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table and the plot, and log the suggested rate."""
        if trainer.is_global_zero:
            write_lr_test(Path(trainer.default_root_dir), self.rates[: len(self.losses)], self.losses)


def smooth_losses(losses: list[float]) -> np.ndarray:
    """Smooth losses (n,) with a forward and a backward running mean, and return their average, which has no lag."""
    forward, backward = _running_mean(losses), _running_mean(losses[::-1])[::-1]
    return np.where(np.isinf(forward), backward, np.where(np.isinf(backward), forward, (forward + backward) / 2))


def _running_mean(losses: list[float]) -> np.ndarray:
    """Return the exponential running mean of losses (n,). Losses that are not finite are ignored."""
    mean, weight, result = 0.0, 0.0, []
    for loss in losses:
        if math.isfinite(loss):
            mean, weight = SMOOTH * mean + (1 - SMOOTH) * loss, SMOOTH * weight + (1 - SMOOTH)
        result.append(mean / weight if weight else math.inf)
    return np.array(result)


def suggest_rate(rates: np.ndarray, losses: list[float]) -> float | None:
    """Return a tenth of the rate at which the smoothed loss was lowest, or None if the loss did not fall.

    Source: Howard & Gugger, 2020, "Deep learning for coders". The steepest point, which is another common choice, is
    often the last point before the loss diverges.

    Args:
        rates: Rate of each step (n,), increasing by a constant factor.
        losses: Loss of each step (n,).
    """
    lowest = int(smooth_losses(losses).argmin())
    return float(rates[lowest]) / 10 if lowest else None


def write_lr_test(folder: Path, rates: np.ndarray, losses: list[float]) -> None:
    """Write lr.csv and lr.png, and log the suggested rate."""
    import pandas as pd
    from matplotlib.figure import Figure

    run = RunFolder(folder)
    smoothed, suggested = smooth_losses(losses), suggest_rate(rates, losses)
    table = pd.DataFrame({"lr": rates, "loss": losses, "smoothed": smoothed})
    write_text(run.lr_table_path, table.to_csv(index=False))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.semilogx(rates, losses, color="0.8", label="loss of a step")
    axes.semilogx(rates, smoothed, color="C0", label="smoothed")
    low, high = float(smoothed.min()), float(smoothed[0])
    axes.set_ylim(low - 0.2 * (high - low) - 1e-3, high + 0.6 * (high - low) + 1e-3)
    if suggested is not None:
        axes.axvline(suggested, color="C1", linestyle="--", label=f"optim.lr={suggested:.1e}")
    axes.set(xlabel="learning rate", ylabel="training loss")
    axes.legend(frameon=False)
    with replacing(run.lr_plot_path) as draft:
        figure.savefig(draft, format="png", dpi=120)
    message = "no suggestion, because the loss did not fall"
    if suggested:
        message = f"suggested optim.lr={suggested:.1e}, a tenth of the rate with the lowest loss"
    log.info("%s; plot: %s", message, os.path.relpath(run.lr_plot_path))
