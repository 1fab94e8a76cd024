"""Stages of one experiment: fit, predict, measure, report."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.data.datamodule import MusicData, build_datamodule
from etude.errors import RunError, UserError
from etude.files import atomic
from etude.runs.folder import RunFolder
from etude.runs.results import write_metrics, write_predictions, write_record, write_split
from etude.system import signals
from etude.system.distributed import first
from etude.system.machine import usable_cores
from etude.training.build import (
    build_learner,
    build_loggers,
    build_trainer,
    check_strategy,
    compile_backbone,
)
from etude.training.checkpointing import explain_restore_errors
from etude.training.frozen_features import build_frozen_cache
from etude.training.memory_errors import explain_memory_errors, is_memory_error

if TYPE_CHECKING:
    import pandas as pd
    from pytorch_lightning import Trainer

    from etude.training.learner import Learner


log = logging.getLogger(__name__)


def run(config: Mapping[str, Any], folder: Path, resume: bool = False) -> dict[str, Any]:
    """Train, predict with the checkpoint that was kept, measure, report.

    Args:
        config: The resolved config, plain values.
        folder: The run's folder; everything that the run leaves is in it.
        resume: Go on from the folder's last checkpoint.

    Returns:
        The content of metrics.json; empty on all processes but the first.

    Raises:
        UserError: The config, the data and the task do not fit one another; nothing was trained yet.
        RunError: Training came to a loss that is not finite, or to the end of memory or of a disk.
    """
    import warnings

    import torch
    from pytorch_lightning import seed_everything

    from etude.loggers.base import tracked
    from etude.loggers.finished_run import FinishedRun

    warnings.filterwarnings(
        "ignore",
        message=".*(does not have many workers|in eval mode at the start|Checkpoint directory|LeafSpec|isinstance).*",
    )
    # what is logged of an evaluation is already of all devices, and the rate is the same on each
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    # batch norm over all devices needs its gradient, which the functional collectives do not promise yet
    warnings.filterwarnings("ignore", message=".*nn.functional.all_reduce is deprecated.*")
    for noisy in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    begun = datetime.now().astimezone()
    files = RunFolder(folder)
    last = files.last_path
    if resume and not files.is_resumable:
        where = last.relative_to(folder).as_posix()
        raise UserError(f"resume={folder}: there is no {where} to go on from; start the run anew")
    if resume and first():
        atomic.clean(files.checkpoints_path)
    if resume and predicted(files):
        return complete(config, files) if first() else {}
    torch.set_float32_matmul_precision("high")
    if "OMP_NUM_THREADS" not in os.environ:  # torch counts cores by affinity and knows no quota of a container
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    seed_everything(config["seed"], workers=True, verbose=False)
    data = build_datamodule(config)
    data.prepare_data()
    data.setup()
    check(config, data)
    try:
        learner = build_learner(config, data, resume)
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        raise UserError("backbone: the network does not fit into memory; make it smaller") from error
    learner.use_cache(build_frozen_cache(learner, data, folder))
    if data.overfit:
        learner.disable_dropout()
    if config.get("compile"):
        compile_backbone(learner)
    check_strategy(config, learner.task.weighting)
    trainer = build_trainer(config, folder, resume)
    say(data, learner)
    with tracked(trainer.loggers) as trackers:
        result = fit_and_measure(config, folder, trainer, learner, data, begun, last if resume else None)
        if result:  # all of it is in the folder
            finished = FinishedRun(RunFolder(folder))  # read anew
            for tracker in trackers:
                tracker.hand_over(finished)
    return result


def fit_and_measure(
    config: Mapping[str, Any],
    folder: Path,
    trainer: Trainer,
    learner: Learner,
    data: MusicData,
    begun: datetime,
    last: Path | None,
) -> dict[str, Any]:
    """Fit, predict with the checkpoint that was kept, measure, report: from what is built to what is on disk.

    Args:
        config: The resolved config.
        folder: The run's folder.
        trainer: Its trainer.
        learner: The network.
        data: Its clips.
        begun: When the run began.
        last: The checkpoint to go on from.

    Returns:
        The content of metrics.json; empty where there is no test, and on all processes but the first.
    """
    fitting = time.monotonic()
    with explain_restore_errors(folder), interruptible(), explain_memory_errors(config, folder, trainer, learner):
        trainer.fit(learner, data, ckpt_path=str(last) if last else None, weights_only=True)
    if any(getattr(callback, "ends_after_fit", False) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        return {}
    trained = time.monotonic()
    about = outcome(trainer, learner)
    if data.overfit:
        log.info(
            "%d clips learned by heart: loss %.4f after %d epochs; no report, because this is no test",
            data.overfit,
            trainer.callback_metrics["val/loss"],
            trainer.current_epoch,
        )
        return {}
    with explain_restore_errors(folder), interruptible(), explain_memory_errors(config, folder, trainer, learner):
        table = predict(trainer, learner, data)
        learner.use_cache(None)
        if table is None:
            return {}
        names = list(config["task"]["targets"])
        total = (datetime.now().astimezone() - begun).total_seconds()
        return finish(folder, table, data, {name: data.targets[name] for name in names}, config, {
            "started": begun.isoformat(timespec="seconds"),
            "seconds": {"train": round(trained - fitting, 1), "total": round(total, 1)},
            "model": about,
        })  # fmt: skip


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise the interruption itself where Lightning answers it with SystemExit.

    Raises:
        KeyboardInterrupt: Ctrl-C or, as Terminated, another signal ended training or testing.
    """
    try:
        yield
    except SystemExit as stop:
        raise signals.again(stop) from stop


def check(config: Mapping[str, Any], data: MusicData) -> None:
    """Refuse a task whose labels the split does not give to every part."""
    for name in config["task"]["targets"]:
        if name not in data.targets:
            raise UserError(f"task: {data.source.name} has no target {name}; it has {', '.join(data.targets)}")
        for part in ("train", "val"):
            known = int(data.pack.index[name][data.parts == part].notna().sum())
            if known < 2:
                raise UserError(
                    f"the {part} part has {known} clips with a {name}; at least 2 are needed: change data.split, "
                    "such as data.split.kind=random"
                )


def say(data: MusicData, learner: Learner) -> None:
    """One line about what will be trained on what."""
    sizes = ", ".join(f"{(data.parts == part).sum()} {part}" for part in ("train", "val", "test"))
    weights = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    log.info(
        "%s: %s clips; %s, %s trainable weights",
        data.source.name,
        sizes,
        type(learner.backbone).__name__,
        f"{weights:,}",
    )


def outcome(trainer: Trainer, learner: Learner) -> dict[str, Any]:
    """How training went: the epoch whose weights were kept, its score where one chose it, epochs run."""
    from etude.files.safe_read import read_checkpoint

    checkpoint: Any = trainer.checkpoint_callback
    epoch, path = None, getattr(checkpoint, "best_model_path", "")
    if path and Path(path).is_file():
        epoch = int(read_checkpoint(Path(path))["epoch"]) + 1
    score = getattr(checkpoint, "best_model_score", None)
    return {
        "parameters": sum(p.numel() for p in learner.parameters()),
        "epochs": trainer.current_epoch,
        "best_epoch": epoch,
        "best_score": None if score is None else float(score),
        "monitor": getattr(checkpoint, "monitor", None),
    }


def predict(trainer: Trainer, learner: Learner, data: MusicData) -> pd.DataFrame | None:
    """The table of predictions of validation and test by what was kept; None on all processes but the first."""
    import numpy as np

    from etude.evaluation.baselines import mel_statistics
    from etude.evaluation.predictions import assemble_predictions

    best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
    trainer.test(learner, dataloaders=data.test_dataloader(), ckpt_path=best, weights_only=True, verbose=False)
    if not trainer.is_global_zero:
        return None
    tables = [learner.tables[i] for i in sorted(learner.tables)]
    rows = np.concatenate([table["row"].numpy() for table in tables])
    embedding = np.concatenate([table["z"].numpy() for table in tables])
    predicted = {
        name: np.concatenate([target.predict(table[f"out.{name}"]).numpy() for table in tables])
        for name, target in learner.task.targets.items()
    }
    for name, values in predicted.items():  # the callback that guards training may have been left out
        if lost := int((~np.isfinite(values)).reshape(len(rows), -1).any(1).sum()):
            raise RunError(
                f"training diverged: the network's outputs for {name} are not finite for {lost} of {len(rows)} clips; "
                f"lower optim.lr (now {learner.optimiser.lr:g})"
            )
    mels = data.feature.front.n_mels
    statistics = np.stack([mel_statistics(data.pack.clip(row)[:, :mels]) for row in range(len(data.pack.index))])
    specs = {name: data.targets[name] for name in predicted}
    return assemble_predictions(data.pack.index, data.parts, rows, predicted, embedding, statistics, specs)


def finish(
    folder: Path,
    table: pd.DataFrame,
    data: MusicData,
    targets: dict[str, Any],
    config: Mapping[str, Any],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Write the table, the record, the split, what was got most wrong, metrics.json and report.html."""
    import pandas as pd

    from etude.experiment import provenance
    from etude.reports import worst_errors

    run = RunFolder(folder)
    choices = config.get("choices") or {}
    about["model"] = {key: choices.get(key, "") for key in ("backbone", "head", "task", "feature")} | about["model"]
    if data.feature.front.sync == "beat":
        about["model"]["feature"] = f"beat-{about['model']['feature']}"
    about |= {"name": config["name"], "trial": choices.get("debug"), "seed": config["seed"], **provenance.environment()}
    about |= {"data": provenance.dataset(data), "targets": targets}
    write_split(run, pd.DataFrame({"id": data.pack.index["id"], "split": data.parts}))
    write_predictions(run, table)
    write_record(run, about)
    if not about["trial"]:
        try:
            worst_errors.save_worst_errors(run, table, data, targets)
        except Exception as error:  # pictures are no reason for a run that has ended to fail
            log.warning("%s/ was left out: %s", run.errors_path.name, error)
    return measured(run)


def predicted(run: RunFolder) -> bool:
    """Return whether a run has all files that need its network and its data: only metrics and report may be missing.

    The record then keeps the times and the command of the training.
    """
    if run.metrics_path.is_file():  # written after all of them
        return True
    if not run.errors_index_path.is_file():
        return False
    try:
        _ = run.record, run.predictions
    except (UserError, OSError):
        return False
    return run.split_path.is_file()


def measured(run: RunFolder) -> dict[str, Any]:
    """Write metrics.json and report.html from the table of predictions; returns the content of metrics.json."""
    from etude.reports import run_report

    write_metrics(run)
    run_report.write_report(run)
    return run.metrics


def complete(config: Mapping[str, Any], run: RunFolder) -> dict[str, Any]:
    """Finish a run whose predictions are on disk: measure, report, and hand the results to the trackers."""
    from etude.loggers.base import tracked
    from etude.loggers.finished_run import FinishedRun

    result = measured(run)
    with tracked(build_loggers(config, run.path)) as trackers:
        for tracker in trackers:
            tracker.hand_over(FinishedRun(run))
    return result
