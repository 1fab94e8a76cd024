"""Progress of training: Lightning's rich bars on a terminal, one plain line per epoch everywhere else."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ProgressBar

from etude import signals

log = logging.getLogger(__name__)


def progress() -> Callback:
    """The progress of a run, as suits where it is shown."""
    if sys.stdout.isatty():
        from pytorch_lightning.callbacks import RichProgressBar

        return RichProgressBar(leave=False)
    return Lines()


class Lines(ProgressBar):
    """One line per epoch: losses, scores, seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = time.monotonic()
        self.silent = False

    def disable(self) -> None:
        """Print nothing; Lightning calls this in all processes but the first."""
        self.silent = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's clock."""
        self.begun = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say the epoch."""
        if self.silent:
            return
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        shown: dict[str, Any] = {"train/loss": None, "val/loss": None}
        shown |= {key: None for key in metrics if key.startswith("val/") and not key.endswith("loss")}
        said = "  ".join(f"{key} {metrics[key]:.3f}" for key in shown if key in metrics)
        log.info(
            "epoch %d/%s  %s  (%.1f s)",
            trainer.current_epoch + 1,
            trainer.max_epochs,
            said,
            time.monotonic() - self.begun,
        )


class SignalHandlers(Callback):
    """Handlers of the command, installed again over those of Lightning.

    Lightning lets SIGTERM wait until a batch has ended, asks all processes of a run to agree on it from within the
    handler, which can block for ever, and ignores SIGINT while it shuts down.
    """

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers before the first validation."""
        signals.rearm()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers before training."""
        signals.rearm()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Raise an interruption that a library has swallowed."""
        signals.check()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers before testing."""
        signals.rearm()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Install the handlers while a run that was interrupted shuts down."""
        signals.rearm()


class FinishedTraining(Callback):
    """Callback that trains no further epoch in a resumed run that early stopping had ended."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once when the patience was spent before the run was interrupted, as in its evaluation."""
        for callback in trainer.early_stopping_callbacks:
            if isinstance(callback, EarlyStopping) and callback.wait_count >= callback.patience:
                trainer.should_stop = True
