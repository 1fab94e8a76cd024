"""Callbacks: progress, signals, and the guard against losses that are not finite."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar
from torch import Tensor

from etude.errors import RunError
from etude.system import signals

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
            if callback.wait_count >= callback.patience:
                trainer.should_stop = True


SHOWN = 8  # clips that are named


@dataclass
class Seen:
    """What one step left to be looked at: which losses were not finite here (1 + K,) and anywhere, and of what."""

    here: Tensor
    anywhere: Tensor
    ready: Any
    rows: Tensor
    epoch: int
    step: int


class NonFiniteLossGuard(Callback):
    """Stops training at the first loss that is infinite or not a number, and names step, targets and clips.

    Early stopping looks at the validation score only, an epoch of ruined steps later, and anomaly detection makes every
    step slower. To look at a loss at once would make the host wait for the GPU at every step. So a step leaves its
    answer, agreed between devices, on its way to the host, and it is read when the step after it has been queued: the
    GPU has work all the time. Before anything is judged or kept the last answer is read, too. Gradients that overflow
    in half precision are not looked at: the scaler skips such a step, and their loss is finite.
    """

    def __init__(self) -> None:
        self.seen: Seen | None = None
        self.step = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the step that begins."""
        self.step = trainer.global_step + 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Send this step's answer on its way, and read the one before."""
        here = (~torch.isfinite(pl_module.losses)).int()  # type: ignore[union-attr, arg-type]
        anywhere = here.clone()
        if trainer.world_size > 1:  # all processes have to stop at the same step, or some would wait for ever
            dist.all_reduce(anywhere, dist.ReduceOp.MAX)
        ready = None
        if anywhere.is_cuda:
            anywhere = anywhere.to("cpu", non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        before, self.seen = self.seen, Seen(here, anywhere, ready, batch.row, trainer.current_epoch + 1, self.step)
        self.read(trainer, before)
        if ready is None:
            self.flush(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the last answer before anything is judged."""
        self.flush(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if the validation loss is not finite, before a checkpoint is chosen by it.

        Raises:
            RunError: It is not.
        """
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not torch.isfinite(torch.as_tensor(loss)) and not trainer.sanity_checking:
            stop(trainer, diverged(trainer, "the validation loss is not finite"))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the last answer before anything is kept, and look at the weights that the last step left.

        Raises:
            RunError: A weight is not finite.
        """
        self.flush(trainer)
        bad = [name for name, weight in pl_module.named_parameters() if not torch.isfinite(weight).all()]
        anywhere = torch.tensor(len(bad), device=pl_module.device)
        if trainer.world_size > 1:  # a device may hold only a part of the weights
            dist.all_reduce(anywhere, dist.ReduceOp.MAX)
        if anywhere:
            which = f"{bad[0]} and {len(bad) - 1} more" if len(bad) > 1 else bad[0] if bad else "on another device"
            stop(trainer, diverged(trainer, f"weights are not finite ({which})"))

    def flush(self, trainer: Trainer) -> None:
        """Read what has not been read."""
        seen, self.seen = self.seen, None
        self.read(trainer, seen)

    def read(self, trainer: Trainer, seen: Seen | None) -> None:
        """Stop all processes when one of them saw a loss that is not finite.

        Raises:
            RunError: One did.
        """
        if seen is None:
            return
        if seen.ready is not None:
            seen.ready.synchronize()
        if not seen.anywhere.any():
            return
        mine = seen.rows.tolist() if seen.here.any() else []
        rows: list[list[int]] = [mine]
        if trainer.world_size > 1:
            rows = [[] for _ in range(trainer.world_size)]
            dist.all_gather_object(rows, mine)
        stop(trainer, said(trainer, seen, sorted(row for some in rows for row in some)))


def stop(trainer: Trainer, message: str) -> None:
    """End training in this process; all processes come here at the same step.

    Raises:
        RunError: Always; the message is empty in all processes but the first.
    """
    if trainer.world_size > 1:
        # the others stop by themselves; Lightning would kill this process as soon as it saw the first of them gone
        getattr(trainer.strategy.launcher, "procs", []).clear()
    raise RunError(message if trainer.is_global_zero else "")


def diverged(trainer: Trainer, symptom: str) -> str:
    """Return the sentence for a training that diverged without a loss that shows it."""
    learner: Any = trainer.lightning_module
    return (
        f"training diverged at step {trainer.global_step} (epoch {trainer.current_epoch + 1}): {symptom}; "
        f"{' or '.join(_remedies(trainer, learner))}"
    )


def _remedies(trainer: Trainer, learner: Any) -> list[str]:
    """Return what to try, with the present values."""
    tries = [f"lower optim.lr (now {learner.optimiser.lr:g})"]
    if trainer.precision != "32-true":
        tries.append(f"set trainer.precision=32-true (now {trainer.precision})")
    return tries


def said(trainer: Trainer, seen: Seen, rows: list[int]) -> str:
    """The sentence: where the loss was not finite, of what, and what to try."""
    learner: Any = trainer.lightning_module
    ids = trainer.datamodule.pack.index["id"].iloc[rows].tolist()  # type: ignore[attr-defined]
    each = [name for name, bad in zip(learner.task.targets, seen.anywhere[1:].tolist(), strict=True) if bad]
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    tries = _remedies(trainer, learner)
    tries.insert(1, "look at these clips")
    return (
        f"epoch {seen.epoch}, step {seen.step}: the loss of {', '.join(each) or 'the weighting'} is not finite, on the "
        f"clips {', '.join(ids[:SHOWN])}{more}; {', '.join(tries[:-1])} or {tries[-1]}"
    )
