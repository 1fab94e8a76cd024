"""Record of the command, versions, machine, data and earlier training of a run."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.config.compose import program_name
from etude.data.training_record import TrainingRecord, stored_record
from etude.errors import UserError
from etude.evaluation.score_summary import SPLIT_NAMES
from etude.files.safe_read import read_checkpoint
from etude.runs.folder import RunFolder
from etude.system.machine import usable_cores

if TYPE_CHECKING:
    from etude.data.datamodule import MusicData


log = logging.getLogger(__name__)
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
    """Return the command line that repeats the run. For a job, the options of the sweep are excluded."""
    arguments = sys.argv[1:]
    if ERROR_FILE in os.environ:
        excluded = ("--run", "hydra.", "hydra/", "sweep=", "sweep.")
        arguments = [argument for argument in arguments if not argument.startswith(excluded)]
    return f"{program_name()} {shlex.join(arguments)}".rstrip()


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
        earlier_training: Result of `check_earlier_training`. If a scored clip or its group was in an earlier training,
            training and test are not disjoint.
    """
    from etude.data.splits import SPLITS, UNUSED, group_codes, split_hash  # heavy: numpy

    index, source, front = data.pack.index, data.source, data.feature.front
    groups, used = group_codes(index), data.splits != UNUSED
    earlier_splits = (earlier_training or {}).get("splits", {}).values()
    earlier_overlap = any(row["trained"] + row["same_group"] > row["left_out"] for row in earlier_splits)
    return {
        "name": source.name,
        "title": source.title,
        "card": source.card,
        "note": source.note,
        "hash": data.pack.manifest["sha256"],
        "labels": hashlib.sha256(index[["id", "group", *data.targets]].to_csv(index=False).encode()).hexdigest(),
        "clips": len(index),
        "seconds": None if front.sync == "beat" else round(int(index["frames"].sum()) / front.frames_per_second, 1),
        "licences": source.extra.get("licences", {}),
        "splits": {
            split: {"clips": int((data.splits == split).sum()), "groups": len(set(groups[data.splits == split]))}
            for split in SPLITS
        },
        "disjoint": not earlier_overlap
        and len(set(zip(groups[used], data.splits[used], strict=True))) == len(set(groups[used])),
        "fold": data.split.fold,
        "folds": data.split.folds if data.split.fold is not None else None,
        "split_hash": split_hash(index["id"].to_numpy(), data.splits),
    }


MOST_LISTED = 20  # clips in a message


def read_earlier_training(config: Mapping[str, Any], run: RunFolder | None = None) -> TrainingRecord:
    """Return the record of all training of the initial weights.

    Args:
        config: The resolved config.
        run: The run's folder if it is resumed. The record is then read from its last checkpoint, because the source
            run may be gone.

    Raises:
        UserError: A source cannot be read.
    """
    if run is not None:
        stored = read_checkpoint(run.last_path)["etude"].get("training_record") or {}
        return TrainingRecord.from_plain(stored["earlier"], run.last_path.name) if stored else TrainingRecord()
    record = TrainingRecord()
    if weights := (config.get("backbone") or {}).get("weights"):
        record = TrainingRecord(unknown=(f"backbone.weights={Path(str(weights)).name}",))
    source = (config.get("transfer") or {}).get("init_from")
    return record if source is None else record.merged(read_record(Path(source), "transfer.init_from"))


def check_earlier_training(config: Mapping[str, Any], data: MusicData, earlier: TrainingRecord) -> dict[str, Any]:
    """Refuse, leave out or count scored clips on which the initial weights were trained.

    Groups count like clips, unless the run's own splits have groups in common.

    Args:
        config: The resolved config.
        data: Data of the run after `setup`. Clips that are left out are removed from its splits.
        earlier: Record of all training of the initial weights.

    Returns:
        Numbers for the record of the run: `runs` and `unknown` as in the training record, `overlap`, and for each
        scored split the numbers of clips that are `trained`, `same_group`, `validated` or `left_out`. Empty without
        earlier training.

    Raises:
        UserError: The config does not allow an overlap, or no clips are left.
    """
    mode = (config.get("transfer") or {}).get("overlap", "refuse")
    result: dict[str, Any] = {}
    if data.leave_out:
        result = _check_overlap(data, read_record(Path(data.leave_out), "data.leave_out"), "drop", "data.leave_out")
        result |= {"runs": [], "unknown": [], "left_out_of": result["runs"]}
    if earlier:
        left_out = {split: numbers["left_out"] for split, numbers in result.get("splits", {}).items()}
        result |= _check_overlap(data, earlier, mode, "transfer.init_from")
        for split, count in left_out.items():
            result["splits"][split]["left_out"] += count
    return result


def training_record(config: Mapping[str, Any], data: MusicData, earlier: TrainingRecord) -> dict[str, Any]:
    """Return the records of the clips of this run (`own`) and of `earlier` runs as plain values, for checkpoints."""
    own = TrainingRecord.of_run(data.clip_keys, data.splits, str(config["name"]), data.source.name)
    return {"own": own.to_plain(), "earlier": earlier.to_plain()}


def read_record(path: Path, key: str) -> TrainingRecord:
    """Return the record of all training of a run or a checkpoint.

    Args:
        path: A run folder or a checkpoint.
        key: Config key of the path, for messages.

    Raises:
        UserError: There is no checkpoint, or it cannot be read.
    """
    if not path.exists():
        raise UserError(f"{key}: {path} does not exist; name the folder of a finished run or a checkpoint file")
    checkpoint = RunFolder(path).best_checkpoint if path.is_dir() else path
    if checkpoint is None or not checkpoint.is_file():
        raise UserError(f"{key}: {path} has no checkpoint; name the folder of a finished run or a checkpoint file")
    return stored_record(read_checkpoint(checkpoint)["etude"], str(path))


def _check_overlap(data: MusicData, earlier: TrainingRecord, mode: str, key: str) -> dict[str, Any]:
    """Refuse, leave out or count the scored clips of an earlier training. See `check_earlier_training`."""
    from etude.data.splits import group_codes  # heavy: numpy

    overlap, index = earlier.find(data.clip_keys), data.pack.index
    groups = group_codes(index)
    own_groups = set(groups[data.splits == "train"].tolist())
    scored = {split: data.splits == split for split in ("test", "val")}
    shared = any(own_groups & set(groups[rows].tolist()) for rows in scored.values())
    unfit = overlap.trained if shared else overlap.trained | overlap.same_group
    splits = {
        split: {
            "trained": int((overlap.trained & rows).sum()),
            "same_group": int((overlap.same_group & rows).sum()),
            "validated": int((overlap.validated & rows).sum()),
            "left_out": int((unfit & rows).sum()) if mode == "drop" else 0,
        }
        for split, rows in scored.items()
    }
    unfit &= scored["test"] | scored["val"]
    runs = ", ".join(dict.fromkeys(run["name"] for run in earlier.runs))
    if unfit.any():
        counts = " and ".join(
            f"{(unfit & rows).sum()} of {rows.sum()} {SPLIT_NAMES[split]} clips"
            for split, rows in scored.items()
            if (unfit & rows).any()
        )
        if overlap.same_group[unfit].any():
            counts += f" ({overlap.same_group[unfit].sum()} only by other clips of their groups)"
        ids = list(map(str, index["id"][unfit]))
        more = f" and {len(ids) - MOST_LISTED} more" if len(ids) > MOST_LISTED else ""
        listed = ", ".join(ids[:MOST_LISTED]) + more
        if mode == "refuse":
            raise UserError(
                f"{key}: {counts} were used to train {runs}: {listed}; use the same data.split as that run, leave them "
                "out with transfer.overlap=drop, or accept optimistic scores with transfer.overlap=allow"
            )
        log.warning("%s: %s were used to train %s: %s", key, counts, runs, listed)
    if mode == "drop" and unfit.any():
        data.drop_clips(unfit, f"used to train {runs}")
        log.warning("%s: these clips are left out; split.csv lists all of them", key)
    if earlier.unknown:
        log.warning(
            "the training clips of %s are not recorded, so it cannot be checked whether they are in the test split",
            ", ".join(earlier.unknown),
        )
    return {"overlap": mode, "runs": list(earlier.runs), "unknown": list(earlier.unknown), "splits": splits}
