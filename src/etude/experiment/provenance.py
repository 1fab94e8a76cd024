"""Record of the command, versions, machine and data of a run."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.config.compose import program_name
from etude.config.stored import PRETRAINED
from etude.files.safe_read import read_checkpoint
from etude.runs.folder import VALIDATION
from etude.system.machine import usable_cores

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from etude.data.datamodule import MusicData
    from etude.training.learner import Learner
    from etude.training.lightning import Trainer


MOST_REASONS = 5  # reasons of skipped items in a record
ERROR_FILE = "ETUDE_ERROR_FILE"
"""Environment variable with the path of the file to which a job of a sweep writes its final error."""
PACKAGES = (
    "etude",
    "torch",
    "pytorch-lightning",
    "hydra-core",
    "timm",
    "torchmetrics",
    "librosa",
    "numpy",
    "scikit-learn",
)


def describe_environment() -> dict[str, Any]:
    """Return the command, the git commit of the working directory, package versions and the hardware."""
    from importlib.metadata import version  # heavy: email

    return {
        "command": command_line(),
        "git": git_state(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "hardware": hardware(),
    }


def command_line() -> str:
    """Return the command line that repeats the run. For a job, this run alone is repeated, and not its sweep."""
    arguments = sys.argv[1:]
    if ERROR_FILE in os.environ:
        # sweep= and sweep. remain, because their options can set the transfer, the optimiser and other keys of the run
        excluded = ("--run", "hydra.", "hydra/", "sweep.resume=")
        arguments = [argument for argument in arguments if not argument.startswith(excluded)]
        if any(argument.startswith(("experiment=", "sweep=")) for argument in arguments):
            arguments.append("hydra.mode=RUN")  # otherwise a sweep is started again, or -m is required
    program = "etude" if arguments[:1] == ["ensemble"] else program_name()
    return f"{program} {shlex.join(arguments)}".rstrip()


def git_state() -> dict[str, Any]:
    """Return the commit of the working directory and whether it has changes.

    Returns:
        `commit` and `dirty`. If either is unknown, `reason` is the cause, such as a missing program or repository.
    """
    state: dict[str, Any] = {"commit": None, "dirty": None}
    try:
        state["commit"] = _run_git("rev-parse", "HEAD")
        state["dirty"] = bool(_run_git("status", "--porcelain", "--untracked-files=no"))
    except FileNotFoundError:
        state["reason"] = "git is not installed"
    except subprocess.TimeoutExpired as error:
        state["reason"] = f"git did not finish in {error.timeout:g} s"
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").strip().splitlines()
        state["reason"] = lines[0].removeprefix("fatal: ") if lines else f"git ended with status {error.returncode}"
    except OSError as error:
        state["reason"] = f"git cannot be started: {error.strerror}"
    return state


def _run_git(*arguments: str) -> str:
    """Run git with English messages and return its output."""
    return subprocess.run(
        ["git", *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
        timeout=10,
        env=os.environ | {"LC_ALL": "C"},
    ).stdout.strip()


def hardware() -> dict[str, Any]:
    """Return the processor, the number of cores, the memory and the accelerator."""
    import torch

    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        name = next(
            (line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line), name
        )
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_gb": round(pages / 2**30, 1),
        "accelerator": gpu,
    }


def describe_data(data: MusicData, earlier_training: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the description of the data for the record and the data card of a report.

    Args:
        data: Data of the run.
        earlier_training: Result of `earlier_training.check_earlier_training`. If a scored clip or its group was in an
            earlier training, training and test are not disjoint. If the groups of earlier training clips are unknown,
            it is unknown (None).
    """
    from etude.data.partition import SPLITS, UNUSED
    from etude.data.splits import group_codes, split_hash  # heavy: numpy

    index, source, front, assignment = data.pack.index, data.source, data.feature.front, data.assignment
    groups, used, has_group = group_codes(index), data.splits != UNUSED, index["group"].notna().to_numpy()
    known = "all" if has_group[used].all() else "some" if has_group[used].any() else "none"
    shared = len(assignment.shared_groups)
    copies = count_in_training(index, data.splits, "content")
    artists = count_in_training(index, data.splits, "artist")
    earlier_splits = (earlier_training or {}).get("splits", {}).values()
    earlier_overlap = any(row["trained"] + row["same_group"] > row["left_out"] for row in earlier_splits)
    checked = known == "all" and (earlier_training or {}).get("groups_checked", True)

    def count_groups(mask: np.ndarray) -> int | None:
        return None if known == "none" else len(set(groups[mask]))

    return {
        "name": source.name,
        "title": source.title,
        "card": source.card,
        "note": source.note,
        "hash": data.pack.manifest["sha256"],
        "labels": hashlib.sha256(index[["id", "group", *data.targets]].to_csv(index=False).encode()).hexdigest(),
        "clips": len(index),
        "grouped": int(has_group.sum()),
        "groups_known": known,
        "groups": int(index["group"].nunique()) or None,
        "seconds": None if front.sync == "beat" else round(int(index["frames"].sum()) / front.frames_per_second, 1),
        "licences": source.extra.get("licences", {}),
        "splits": {
            split: {"clips": int((data.splits == split).sum()), "groups": count_groups(data.splits == split)}
            for split in SPLITS
        },
        "unused": assignment.unused,
        "skipped": count_skipped(data.pack),
        "copies": copies,
        "known_artists": artists,
        "disjoint": False if shared or earlier_overlap or any(copies.values()) else True if checked else None,
        "shared_groups": shared,
        "split_kind": assignment.kind,
        "split_column": assignment.column,
        "partitions": assignment.partitions,
        "fold": assignment.fold,
        "folds": len(assignment.folds) or None,
        "fold_names": list(assignment.folds) if assignment.kind == "official" and assignment.folds else None,
        "split_hash": split_hash(index["id"].to_numpy(), data.splits),
    }


def count_in_training(index: pd.DataFrame, splits: np.ndarray, column: str) -> dict[str, int]:
    """Return, for validation and test, the number of clips whose value of a column a training clip has, too.

    Args:
        index: Table of the pack. `content` is the hash of the frames of each clip, and `artist` its artist, which may
            be known beside another group, such as an album.
        splits: Split of each clip (N,).
        column: Name of the column. Without it, the result is empty.
    """
    if column not in index:
        return {}
    trained = set(index[column][splits == "train"].dropna())
    return {split: int(index[column][splits == split].isin(trained).sum()) for split in ("val", "test")}


def count_skipped(pack: Any) -> dict[str, int]:
    """Return the number of skipped items of a pack by reason, without the details of single files.

    A damaged list has no reasons, because a finished training must not fail.
    """
    from etude.data.pack_writer import read_skipped  # heavy: pandas

    try:
        reasons = Counter(reason.partition(":")[0] for _, reason in read_skipped(pack))
    except (OSError, ValueError, KeyError):
        return {}
    counts = dict(reasons.most_common(MOST_REASONS))
    if others := reasons.total() - sum(counts.values()):
        counts["other reasons"] = others
    return counts


def describe_targets(data: MusicData, nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the specifications of targets for the record.

    Labels have the number of fitted clips by class, and targets with `metrics` in their nodes of the config have these.
    """
    targets = {}
    for name, node in nodes.items():
        targets[name] = dict(data.targets[name]) | ({"metrics": node["metrics"]} if node.get("metrics") else {})
        if name in data.class_counts:
            counts = {value: sum(row[split] for split in data.fitted_splits)
                      for value, row in data.class_counts[name].items()}  # fmt: skip
            targets[name]["train_classes"] = counts
    return targets


def summarise_training(trainer: Trainer, learner: Learner) -> dict[str, Any]:
    """Return the number of parameters and epochs, and the epoch and monitored score of the best checkpoint.

    `trainable` is the number of trained parameters, and `weights`, `embedding` and `dim` describe the embedding.
    `stopped_by` is the validation score that could end the training, which then selected the last epoch. A linear probe
    has no epochs, and `linear_probe` with a description of the fit of each target. `initial_heads` has those of probes
    with which fine-tuning began. `layer_weights` has the learned weights of the read-out's layers in the best
    checkpoint, by the number of the layer.
    """
    checkpoint: Any = trainer.checkpoint_callback
    epoch, path = None, getattr(checkpoint, "best_model_path", "")
    layer_weights: dict[str, float] = {}
    if path and Path(path).is_file():
        best = read_checkpoint(Path(path))
        epoch = int(best["epoch"]) + 1
        if learner.readout.weights is not None and "readout.weights" in best["state_dict"]:
            values = best["state_dict"]["readout.weights"].softmax(0).tolist()
            layer_weights = {
                str(layer): value for layer, value in zip(learner.readout.layers or (), values, strict=True)
            }
    score = getattr(checkpoint, "best_model_score", None)
    stopping = [callback.monitor for callback in trainer.early_stopping_callbacks if callback.monitor]
    backbone = learner.recipe["config"]["backbone"]
    weights = backbone.get("weights")
    probes = {name: fit.record for name, fit in getattr(learner, "probes", {}).items()}
    return {
        "parameters": sum(p.numel() for p in learner.parameters()),
        "trainable": sum(p.numel() for p in learner.parameters() if p.requires_grad),
        "weights": None if weights is None else str(backbone["model"] if weights == PRETRAINED else weights),
        "embedding": learner.readout.describe(),
        "dim": learner.readout.dim,
        "epochs": None if probes else trainer.current_epoch,
        "best_epoch": epoch,
        "best_score": None if score is None else float(score),
        "monitor": getattr(checkpoint, "monitor", None),
        "stopped_by": next((name for name in stopping if name.startswith(VALIDATION)), None),
        **({"linear_probe": probes} if probes else {}),
        **({"initial_heads": heads} if (heads := getattr(learner, "initial_heads", {})) else {}),
        **({"layer_weights": layer_weights} if layer_weights else {}),
    }
