"""Stages of one experiment from fit to report."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.config.instantiate import make, resolve
from etude.data.collection import check_targets
from etude.data.datamodule import MusicData, build_datamodule
from etude.embeddings.cache import build_frozen_cache
from etude.errors import RunError, UserError
from etude.evaluation.means import check_functions
from etude.evaluation.predictions import assemble_predictions
from etude.experiment import baselines, provenance
from etude.experiment.earlier_training import check_earlier_training, read_earlier_training, training_record
from etude.files import atomic
from etude.files.os_errors import explain_memory_errors, is_memory_error
from etude.loggers.base import tracked
from etude.loggers.finished_run import FinishedRun
from etude.reports import overfit, run_report, worst_errors
from etude.runs.folder import RunFolder, write_metrics, write_predictions, write_record, write_split
from etude.system import signals
from etude.system.distributed import is_rank_zero
from etude.system.machine import usable_cores
from etude.training.build import (
    LightningData,
    build_learner,
    build_loggers,
    build_trainer,
    check_strategy,
    compile_backbone,
)
from etude.training.callbacks import OverfitPredictions, remedies
from etude.training.checkpointing import explain_restore_errors
from etude.training.learner import Learner
from etude.training.lightning import Trainer, ignore_warnings, seed_everything

if TYPE_CHECKING:
    import pandas as pd


log = logging.getLogger(__name__)


def run_experiment(config: Mapping[str, Any], folder: Path, resume: bool = False) -> dict[str, Any]:
    """Train, predict with the best checkpoint, compute metrics and write the report.

    Args:
        config: The resolved config, plain values.
        folder: The run's folder. All outputs are written to it.
        resume: Whether to resume from the folder's last checkpoint.

    Returns:
        The content of metrics.json; empty on all processes except the first.

    Raises:
        UserError: The config, the data and the task are not compatible. The training has not started.
        RunError: A loss is not finite, memory is exhausted or the disk is full.
    """
    import torch

    ignore_warnings()
    start_time = datetime.now().astimezone()
    files = RunFolder(folder)
    last = files.last_path
    if resume and not files.is_resumable:
        name = last.relative_to(folder).as_posix()
        raise UserError(f"resume={folder}: there is no {name} to resume from; start a new run")
    if resume and is_rank_zero():
        atomic.remove_drafts(files.checkpoints_path)
    if resume and has_predictions(files):
        return complete_run(config, files) if is_rank_zero() else {}
    torch.set_float32_matmul_precision("high")
    if "OMP_NUM_THREADS" not in os.environ:  # torch counts cores by affinity and ignores the quota of a container
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    seed_everything(config["seed"], workers=True, verbose=False)
    data = build_datamodule(config)
    data.fitted_splits = getattr(make(config["optim"]), "fitted_splits", data.fitted_splits)
    check_targets(data.source, config["task"]["targets"])
    check_functions(config["task"]["targets"], data.targets)
    if not resume:
        resolve(config["backbone"]["_target_"]).check_weights(config["backbone"])
    earlier = read_earlier_training(config, files if resume else None)
    data.prepare_data()
    data.setup()
    earlier_training = check_earlier_training(config, data, earlier)
    check_labels(config, data)
    if not data.overfit:
        baselines.prepare_packs(data, bool(config.get("shortcut_baseline")))
    # gradients of a deep LSTM become denormal over hundreds of frames, and each step then takes ten times as long on a
    # CPU; torch's threads inherit this setting if they start after it
    torch.set_flush_denormal(True)
    try:
        learner = build_learner(config, data, resume)
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        raise UserError("backbone: the network does not fit in memory; make it smaller") from error
    learner.recipe["training_record"] = training_record(config, data, earlier, files if resume else None)
    learner.use_cache(build_frozen_cache(learner, data, folder, config))
    if data.overfit:
        learner.disable_dropout()
    if config.get("compile"):
        compile_backbone(learner)
    check_strategy(config, learner.task.weighting)
    trainer = build_trainer(config, folder, resume)
    log_summary(data, learner)
    with tracked(trainer.loggers) as trackers:
        result = fit_and_measure(
            config, folder, trainer, learner, data, start_time, last if resume else None, earlier_training
        )
        if result:  # all results are in the folder
            finished = FinishedRun(RunFolder(folder))  # without cached contents
            for tracker in trackers:
                tracker.log_finished_run(finished)
    return result


def fit_and_measure(
    config: Mapping[str, Any],
    folder: Path,
    trainer: Trainer,
    learner: Learner,
    data: MusicData,
    start_time: datetime,
    last: Path | None,
    earlier_training: dict[str, Any],
) -> dict[str, Any]:
    """Fit the network, predict with the best checkpoint, compute metrics and write the report.

    Args:
        config: The resolved config.
        folder: The run's folder.
        trainer: Trainer of the run.
        learner: Network of the run.
        data: Data of the run.
        start_time: Start time of the run.
        last: The checkpoint from which to resume, or None.
        earlier_training: Earlier training of the initial weights, for the record.

    Returns:
        The content of metrics.json; empty for a run without a test, and on all processes except the first.
    """
    fit_start = time.monotonic()
    with explain_restore_errors(folder), interruptible(), explain_memory_errors(config, folder, trainer, learner):
        batches = LightningData(data, learner.fitted_splits)
        trainer.fit(learner, batches, ckpt_path=str(last) if last else None, weights_only=True)
    if any(getattr(callback, "ends_after_fit", False) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        return {}
    fit_end = time.monotonic()
    model = provenance.summarise_training(trainer, learner)
    if data.overfit:
        if trainer.is_global_zero:
            kept = next(callback for callback in trainer.callbacks if isinstance(callback, OverfitPredictions))  # type: ignore[attr-defined]
            ids = data.pack.index["id"].astype(str).tolist()
            log.info("%s", overfit.write_overfit(RunFolder(folder), kept.describe(ids, data.targets)))
        return {}
    with explain_restore_errors(folder), interruptible(), explain_memory_errors(config, folder, trainer, learner):
        shortcuts = bool(config.get("shortcut_baseline"))
        predicted = predict_splits(trainer, learner, data, fit_end - fit_start, shortcuts)
        learner.use_cache(None)
        if predicted is None:
            return {}
        table, fitted = predicted
        targets = provenance.describe_targets(data, config["task"]["targets"])
        targets = {name: target | {"baselines": fitted[name]} for name, target in targets.items()}
        total = (datetime.now().astimezone() - start_time).total_seconds()
        return write_results(folder, table, data, targets, config, {
            "started": start_time.isoformat(timespec="seconds"),
            "seconds": {"train": round(fit_end - fit_start, 1), "total": round(total, 1)},
            "model": model,
            "earlier_training": earlier_training,
        })  # fmt: skip


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise the original interruption if Lightning replaces it by SystemExit.

    Raises:
        KeyboardInterrupt: Ctrl-C ended training or testing. Another signal raises its subclass Terminated.
    """
    try:
        yield
    except SystemExit as stop:
        raise signals.original_interruption(stop) from stop


def check_labels(config: Mapping[str, Any], data: MusicData) -> None:
    """Check that the train and val splits have labels of all targets.

    Raises:
        UserError: A target has fewer than two clips in one of the splits.
    """
    for name in config["task"]["targets"]:
        for split in ("train", "val"):
            labelled = int(data.pack.index[name][data.splits == split].notna().sum())
            if labelled < 2:
                raise UserError(
                    f"the {split} split has {labelled} clips with a {name}; at least 2 are needed: change data.split, "
                    "such as data.split.kind=random"
                )


def log_summary(data: MusicData, learner: Learner) -> None:
    """Log the data, the size of the splits and the network in one line."""
    sizes = ", ".join(f"{(data.splits == split).sum()} {split}" for split in ("train", "val", "test"))
    backbone, weights = type(learner.backbone).__name__, sum(p.numel() for p in learner.parameters() if p.requires_grad)
    log.info("%s: %s clips; %s, %s trainable weights", data.source.name, sizes, backbone, f"{weights:,}")


def predict_splits(
    trainer: Trainer, learner: Learner, data: MusicData, train_seconds: float, shortcuts: bool = False
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]] | None:
    """Predict validation and test with the best checkpoint and with the baselines.

    Args:
        trainer: Trainer of the run.
        learner: Network of the run.
        data: Data of the run.
        train_seconds: Duration of the training, which limits the time for fitting the baselines.
        shortcuts: Whether there is also a baseline on level, bandwidth, length and silence.

    Returns:
        The table of predictions, and the descriptions of the baselines by target; None on all processes except the
        first.

    Raises:
        RunError: A prediction is not finite.
    """
    import numpy as np

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
    for name, values in predicted.items():  # the guard callback may be disabled
        if invalid := int((~np.isfinite(values)).reshape(len(rows), -1).any(1).sum()):
            raise RunError(
                f"training diverged: the network's outputs for {name} are not finite for {invalid} of {len(rows)} "
                f"clips; {remedies(trainer, learner)[0]}"
            )
    specs = {name: data.targets[name] for name in predicted}
    others, fitted = baselines.fit_baselines(data, rows, specs, train_seconds, shortcuts)
    joined = np.isin(rows, getattr(learner, "joined_rows", []))
    clips, split_of_clip, fitted_splits = data.pack.index, data.splits, data.fitted_splits
    arguments = (clips, split_of_clip, rows, predicted, embedding, specs, others, joined, fitted_splits)
    return assemble_predictions(*arguments), fitted


def write_results(
    folder: Path,
    table: pd.DataFrame,
    data: MusicData,
    targets: dict[str, Any],
    config: Mapping[str, Any],
    record: dict[str, Any],
) -> dict[str, Any]:
    """Write the split, the predictions, the record, the worst errors, metrics.json and report.html.

    Args:
        folder: The run's folder.
        table: Table of predictions.
        data: Data of the run.
        targets: Kind and classes or range of each target.
        config: The resolved config.
        record: Start time, duration and model. The function adds the remaining fields of the record.

    Returns:
        The content of metrics.json.
    """
    import pandas as pd

    run = RunFolder(folder)
    choices = config.get("choices") or {}
    record["model"] = {key: choices.get(key, "") for key in ("backbone", "head", "task", "feature")} | record["model"]
    if data.feature.front.sync == "beat":
        record["model"]["feature"] = f"beat-{record['model']['feature']}"
    record |= {"name": config["name"], "trial": choices.get("debug"), "seed": config["seed"]}
    record |= provenance.describe_environment()
    record |= {"data": provenance.describe_data(data, record["earlier_training"]), "targets": targets}
    left_out = data.assignment.left_out
    split = pd.DataFrame({"id": data.pack.index["id"], "split": data.splits})
    write_split(run, split.assign(reason=split["id"].map(left_out)) if left_out else split)
    write_predictions(run, table)
    write_record(run, record)
    if not record["trial"]:
        try:
            worst_errors.save_worst_errors(run, table, data, targets)
        except Exception as error:  # a finished run must not fail because of images
            log.warning("%s/ was not written: %s", run.errors_path.name, error)
    return write_metrics_and_report(run)


def has_predictions(run: RunFolder) -> bool:
    """Return whether a run has all files that require its network and its data.

    If so, at most the metrics and the report are missing, and the record contains the times and the command of the
    training.
    """
    if run.metrics_path.is_file():  # written after the other files
        return True
    if not run.errors_index_path.is_file():
        return False
    try:
        _ = run.record, run.predictions
    except (UserError, OSError):
        return False
    return run.split_path.is_file()


def write_metrics_and_report(run: RunFolder) -> dict[str, Any]:
    """Write metrics.json and report.html from the table of predictions, and return the content of metrics.json."""
    write_metrics(run)
    run_report.write_report(run)
    return run.metrics


def complete_run(config: Mapping[str, Any], run: RunFolder) -> dict[str, Any]:
    """Compute metrics, write the report and log to the trackers for a run whose predictions are on disk."""
    result = write_metrics_and_report(run)
    with tracked(build_loggers(config, run.path)) as trackers:
        for tracker in trackers:
            tracker.log_finished_run(FinishedRun(run))
    return result
