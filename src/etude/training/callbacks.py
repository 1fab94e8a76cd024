"""Callbacks for progress, signals, losses that are not finite, and the predictions of an overfitting run."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from etude.errors import RunError
from etude.evaluation.formatting import format_duration
from etude.system import signals
from etude.training.lightning import Callback, LightningModule, ProgressBar, Trainer

MEASURED_SECONDS = 5.0  # at the beginning of a training, for the estimate of its duration
log = logging.getLogger(__name__)


def progress() -> Callback:
    """Return a progress bar for a terminal, and a line per epoch for any other output."""
    if sys.stdout.isatty():
        from pytorch_lightning.callbacks import RichProgressBar

        return RichProgressBar(leave=False)
    return EpochLines()


class EpochLines(ProgressBar):
    """Progress as a log line per epoch with losses, scores and seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch_start = time.monotonic()
        self.silent = False

    def disable(self) -> None:
        """Disable the output. Lightning calls this in all processes except the first."""
        self.silent = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the start time of the epoch."""
        self.epoch_start = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the results of the epoch."""
        if self.silent or not pl_module.automatic_optimization:  # a linear probe logs its fits
            return
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        shown: dict[str, Any] = {"train/loss": None, "val/loss": None}
        shown |= {key: None for key in metrics if key.startswith("val/") and not key.endswith("loss")}
        values = "  ".join(f"{key} {metrics[key]:.3f}" for key in shown if key in metrics)
        log.info(
            "epoch %d/%s  %s  (%.1f s)",
            trainer.current_epoch + 1,
            trainer.max_epochs,
            values,
            time.monotonic() - self.epoch_start,
        )


class SignalHandlers(Callback):
    """Callback that reinstalls the command's signal handlers after Lightning has replaced them.

    Lightning delays SIGTERM until a batch has ended. Its handler communicates with all processes of a run, which can
    block forever. It also ignores SIGINT during shutdown.
    """

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers before the first validation."""
        signals.install_handlers()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers before training."""
        signals.install_handlers()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Raise an interruption that a library has suppressed."""
        signals.raise_received()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers before testing."""
        signals.install_handlers()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Install the handlers while a run that was interrupted shuts down."""
        signals.install_handlers()


class OverfitPredictions(Callback):
    """Callback that keeps the predictions of the first and of the last validation of a run that overfits a few clips.

    Attributes:
        first: Result of the first validation, with the keys `epoch`, `losses` and `predicted`. The epoch is 0 if the
            network was validated before its training.
        last: Result of the last validation.
        rows: Rows of the clips in the pack (n,).
        true: True values (n,) by target.
        threshold: Validation loss below which training ends early. It is 0 if there is none.
    """

    def __init__(self) -> None:
        self.threshold = 0.0
        self.first: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        self.rows = torch.empty(0, dtype=torch.int64)
        self.true: dict[str, Tensor] = {}

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the predictions and the losses of this validation."""
        learner: Any = pl_module
        table = learner.collected_table()
        scores = learner.compute_scores(table)
        self.last = {
            "epoch": 0 if trainer.sanity_checking else trainer.current_epoch + 1,
            "losses": {name: value for name, value in scores.items() if name.endswith("loss")},
            "predicted": {name: t.predict(table[f"out.{name}"]) for name, t in learner.task.targets.items()},
        }
        self.first = self.first or self.last
        stopping = [callback for callback in trainer.early_stopping_callbacks if callback.monitor == "val/loss"]
        self.threshold = max((float(callback.stopping_threshold or 0.0) for callback in stopping), default=0.0)
        self.rows, self.true = table["row"], {name: table[f"y.{name}"] for name in learner.task.targets}

    def describe(self, ids: Sequence[str], specs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return the content of overfit.json.

        Args:
            ids: Ids of all clips of the pack.
            specs: Kind of each target, with the classes of a label or the range of a scalar.

        Returns:
            `first` and `last` with `epoch` and `losses`, the `threshold`, the `targets`, and `clips`: an entry for each
            target of each clip that has a true value, with `id`, `target`, `true`, and the predictions `first` and
            `last`. Labels also have the probabilities of the true class, `first_probability` and `last_probability`.
        """
        validations = {"first": self.first, "last": self.last}
        clips: list[dict[str, Any]] = []
        for name, true in self.true.items():
            classes = specs[name].get("classes")
            for i, (row, value) in enumerate(zip(self.rows.tolist(), true.tolist(), strict=True)):
                outputs = {key: validation["predicted"][name][i] for key, validation in validations.items()}
                entry: dict[str, Any] = {"id": ids[row], "target": name}
                if classes is None and value == value:
                    clips.append(entry | {"true": value} | {key: float(output) for key, output in outputs.items()})
                elif classes is not None and value >= 0:
                    entry |= {"true": classes[value]}
                    entry |= {key: classes[int(output.argmax())] for key, output in outputs.items()}
                    clips.append(entry | {f"{k}_probability": float(output[value]) for k, output in outputs.items()})
        return {
            **{key: {k: v for k, v in kept.items() if k != "predicted"} for key, kept in validations.items()},
            **{"threshold": self.threshold, "targets": {name: dict(specs[name]) for name in self.true}, "clips": clips},
        }


class TrainingDuration(Callback):
    """Callback that logs the expected duration of a training that takes more than a minute."""

    def __init__(self) -> None:
        self.start, self.steps = 0.0, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the steps of the first seconds, without the first one, which is slower, and log their estimate."""
        if self.steps < 0 or not trainer.is_global_zero or not pl_module.automatic_optimization:
            return
        if self.steps == 0:
            self.start = time.monotonic()
        self.steps += 1
        seconds = time.monotonic() - self.start
        remaining = (trainer.estimated_stepping_batches - trainer.global_step) * trainer.accumulate_grad_batches
        if seconds > MEASURED_SECONDS and math.isfinite(remaining):
            total, self.steps = remaining * seconds / (self.steps - 1), -1
            if total > 60:
                log.info("training: about %s without validation, %d epochs", format_duration(total), trainer.max_epochs)


MAX_LISTED_CLIPS = 8  # ids in an error message


@dataclass
class LossCheck:
    """Check of the losses of one step.

    The copy of its result from the GPU to the host may still be in progress.

    Attributes:
        local_flags: Flags of non-finite losses on this device (1 + K,), int32. The first is the total loss.
        flags: Maximum of `local_flags` over devices (1 + K,).
        ready: CUDA event that is recorded after the transfer; None on the CPU.
        rows: Rows of the clips in the batch (B,).
        epoch: Epoch, from 1.
        step: Step, from 1.
    """

    local_flags: Tensor
    flags: Tensor
    ready: Any
    rows: Tensor
    epoch: int
    step: int


class NonFiniteLossGuard(Callback):
    """Callback that stops training at the first non-finite loss and reports step, targets and clips.

    Early stopping monitors the validation score, which is computed only at the end of the epoch. Anomaly detection
    slows down every step. Reading a loss immediately would make the host wait for the GPU at every step. Therefore the
    flags of a step are reduced over devices and copied to the host asynchronously. They are read after the next step
    has been queued, so the GPU is never idle. The last flags are also read before validation and before a checkpoint is
    saved. Gradients that overflow in half precision are not checked, because the scaler skips such a step and its loss
    is finite.
    """

    def __init__(self) -> None:
        self.pending: LossCheck | None = None
        self.step = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Store the number of the step."""
        self.step = trainer.global_step + 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start the check of this step and read the check of the previous step. A linear probe has no loss."""
        if pl_module.losses is None:
            return
        local_flags = (~torch.isfinite(pl_module.losses)).int()  # type: ignore[union-attr, arg-type]
        flags = local_flags.clone()
        if trainer.world_size > 1:  # all processes must stop at the same step, or some would wait forever
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        ready = None
        if flags.is_cuda:
            flags = flags.to("cpu", non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        check = LossCheck(local_flags, flags, ready, batch.row, trainer.current_epoch + 1, self.step)
        previous, self.pending = self.pending, check
        self.read_check(trainer, previous)
        if ready is None:
            self.flush(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the result of the last check of the loss before validation."""
        self.flush(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if the validation loss is not finite, before it is used to select a checkpoint.

        Raises:
            RunError: The validation loss is not finite.
        """
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not torch.isfinite(torch.as_tensor(loss)) and not trainer.sanity_checking:
            stop_training(trainer, divergence_message(trainer, "the validation loss is not finite"))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the result of the last check of the loss, and check the weights, before a checkpoint is saved.

        Raises:
            RunError: A weight is not finite.
        """
        self.flush(trainer)
        bad = [name for name, weight in pl_module.named_parameters() if not torch.isfinite(weight).all()]
        count = torch.tensor(len(bad), device=pl_module.device)
        if trainer.world_size > 1:  # a device may have only a shard of the weights
            dist.all_reduce(count, dist.ReduceOp.MAX)
        if count:
            names = f"{bad[0]} and {len(bad) - 1} more" if len(bad) > 1 else bad[0] if bad else "on another device"
            stop_training(trainer, divergence_message(trainer, f"weights are not finite ({names})"))

    def flush(self, trainer: Trainer) -> None:
        """Read the result of the last check, if it was not read yet."""
        check, self.pending = self.pending, None
        self.read_check(trainer, check)

    def read_check(self, trainer: Trainer, check: LossCheck | None) -> None:
        """Stop all processes if the loss of any of them is not finite.

        Raises:
            RunError: A loss is not finite.
        """
        if check is None:
            return
        if check.ready is not None:
            check.ready.synchronize()
        if not check.flags.any():
            return
        local_rows = check.rows.tolist() if check.local_flags.any() else []
        rows: list[list[int]] = [local_rows]
        if trainer.world_size > 1:
            rows = [[] for _ in range(trainer.world_size)]
            dist.all_gather_object(rows, local_rows)
        stop_training(trainer, loss_message(trainer, check, sorted(row for group in rows for row in group)))


def stop_training(trainer: Trainer, message: str) -> None:
    """End training in this process. All processes call this at the same step.

    Raises:
        RunError: Always. The message is empty in all processes except the first.
    """
    if trainer.world_size > 1:
        # the other processes stop on their own; Lightning would kill this process as soon as the first of them exits
        getattr(trainer.strategy.launcher, "procs", []).clear()
    raise RunError(message if trainer.is_global_zero else "")


def divergence_message(trainer: Trainer, symptom: str) -> str:
    """Return the error message for a divergence that was not detected in a training loss."""
    learner: Any = trainer.lightning_module
    return (
        f"training diverged at step {trainer.global_step} (epoch {trainer.current_epoch + 1}): {symptom}; "
        f"{' or '.join(remedies(trainer, learner))}"
    )


def list_clips(ids: list[str]) -> str:
    """Return the ids of clips for a message, of many clips the first ones and the number of the others."""
    more = f" and {len(ids) - MAX_LISTED_CLIPS} more" if len(ids) > MAX_LISTED_CLIPS else ""
    return ", ".join(ids[:MAX_LISTED_CLIPS]) + more


def remedies(trainer: Trainer, learner: Any) -> list[str]:
    """Return possible remedies with the current values."""
    rate = getattr(learner.optimiser, "lr", None)
    remedies = ["check the weights of the backbone"] if rate is None else [f"lower optim.lr (now {rate:g})"]
    if trainer.precision != "32-true":
        remedies.append(f"set trainer.precision=32-true (now {trainer.precision})")
    return remedies


def loss_message(trainer: Trainer, check: LossCheck, rows: list[int]) -> str:
    """Return the error message with the step, the targets and the clips of a non-finite loss, and remedies."""
    learner: Any = trainer.lightning_module
    ids = trainer.datamodule.data.pack.index["id"].iloc[rows].tolist()  # type: ignore[attr-defined]
    targets = [name for name, bad in zip(learner.task.targets, check.flags[1:].tolist(), strict=True) if bad]
    measures = remedies(trainer, learner)
    measures.insert(1, "check these clips")
    return (
        f"epoch {check.epoch}, step {check.step}: the loss of {', '.join(targets) or 'the weighting'} is not finite, "
        f"on the clips {list_clips(ids)}; {', '.join(measures[:-1])} or {measures[-1]}"
    )
