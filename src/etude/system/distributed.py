"""Ranks, process counts and the common run folder of a distributed run."""

from __future__ import annotations

import hashlib
import os
import secrets
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from etude.errors import UserError

INTERACTIVE_JOBS = ("bash", "interactive")  # names of Slurm jobs in which Lightning ignores Slurm's tasks
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
MAX_NAME_BYTES = 180  # of the 255 bytes of a folder name; the rest is for date, number and drafts


def is_rank_zero() -> bool:
    """Return whether this process has global rank 0. Only this process logs and writes files.

    torchrun, srun or Lightning sets the ranks. A process without a launcher has rank 0.
    """
    if not _is_launched():  # the variables have no meaning without a launcher
        return True
    if "RANK" in os.environ:  # torchrun's global rank, which takes precedence over srun's
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def refuse_stray_ranks() -> None:
    """Refuse environment variables of a distributed run if no launcher started this process.

    Such variables remain in the shell of a Slurm allocation, or are set by accident. Lightning uses them, so that the
    process would wait for other processes, or train without writing files.

    Raises:
        UserError: Such variables are set.
    """
    variables = os.environ
    if _is_launched():
        return
    if _slurm_tasks() > 1:
        raise UserError(
            f"SLURM_NTASKS={variables['SLURM_NTASKS']}: this is the shell of a Slurm allocation and not one of its "
            "tasks; start the command with srun, or with env -u SLURM_NTASKS for a single process"
        )
    strays = [name for name in RANK_VARIABLES if variables.get(name, "0") != "0"]
    strays += [name for name in ("WORLD_SIZE",) if variables.get(name, "1") != "1"]
    if strays:
        shown = " ".join(f"{name}={variables[name]}" for name in strays)
        raise UserError(
            f"{shown}: these environment variables are for training with several processes, but this "
            f"process was not started by torchrun or srun; to run one process, unset {' '.join(strays)}"
        )


def refuse_process_count(trainer: Mapping[str, Any]) -> None:
    """Refuse a trainer that requires more or fewer processes than torchrun or srun has started.

    Args:
        trainer: The trainer of the config.

    Raises:
        UserError: The numbers differ. With torchrun or srun, only the error of rank 0 has a message.
    """
    variables, required = os.environ, process_count(trainer)
    if not _is_launched():
        if "LOCAL_RANK" in variables and required != 1:
            raise UserError(
                "LOCAL_RANK is set, so the trainer would wait for other processes, but no launcher started them; "
                "unset LOCAL_RANK"
            )
        return
    if "TORCHELASTIC_RUN_ID" in variables:
        started, launcher = int(variables.get("WORLD_SIZE", "1")), "torchrun"
    elif _slurm_tasks() > 1:
        started, launcher = _slurm_tasks(), "srun"
    else:
        started, launcher = int(variables.get("WORLD_SIZE", "1")), "the environment (WORLD_SIZE)"
    message = ""
    if required is not None and required != started:
        message = (
            f"trainer: {launcher} has started {started} process{'es' if started > 1 else ''}, but "
            f"trainer.devices={trainer.get('devices', 1)} with trainer.num_nodes={trainer.get('num_nodes', 1)} "
            f"requires {required}; start {required}, or use trainer=ddp and set trainer.devices and trainer.num_nodes"
        )
    elif launcher == "srun" and "SLURM_NTASKS_PER_NODE" not in variables:
        message = f"SLURM_NTASKS={started}: Lightning requires --ntasks-per-node; use it instead of --ntasks"
    if message:
        raise UserError(message if is_rank_zero() or launcher not in ("torchrun", "srun") else "")


def refuse_several_processes(trainer: Mapping[str, Any]) -> None:
    """Refuse a trainer with several processes in a job of a sweep, unless Slurm has started them.

    Lightning would start the second process with the command of the complete sweep, and each process would train
    another config.

    Args:
        trainer: The trainer of the config.

    Raises:
        UserError: The trainer has several processes.
    """
    devices = trainer.get("devices", 1)
    single = devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)
    if single and trainer.get("strategy", "auto") == "auto":
        return
    if "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_NTASKS", "1") != "1":
        return
    raise UserError(
        "trainer: needs several processes, but this launcher starts one process for each job of a sweep; remove "
        "hydra/launcher, or use "
        "hydra/launcher=submitit_slurm on a cluster"
    )


def process_count(trainer: Mapping[str, Any]) -> int | None:
    """Return the number of processes of a trainer over all nodes, or None if it depends on the machine.

    Args:
        trainer: The trainer of the config.
    """
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    if isinstance(devices, str) and "," in devices:
        devices = [device for device in devices.split(",") if device.strip()]
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        devices = len(devices)
    if devices == "auto" and trainer.get("accelerator") == "cpu":
        devices = 1
    try:
        devices, nodes = int(devices), int(nodes)
    except (TypeError, ValueError):
        return None
    return devices * nodes if devices > 0 else None


def _is_launched() -> bool:
    """Return whether torchrun, srun, Lightning or a launcher with the same variables started this process."""
    variables = os.environ
    return (
        "TORCHELASTIC_RUN_ID" in variables
        or (_slurm_tasks() > 1 and "SLURM_STEP_ID" in variables)
        or all(name in variables for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"))
    )


def _slurm_tasks() -> int:
    """Return the number of tasks of the Slurm job, or 1 if Lightning ignores them."""
    count = os.environ.get("SLURM_NTASKS", "1")
    interactive = os.environ.get("SLURM_JOB_NAME") in INTERACTIVE_JOBS
    return int(count) if count.isdecimal() and not interactive else 1


def folder_name(name: str) -> str:
    """Return a unique folder name for the name of a run.

    Letters and digits of any script, the characters `-_.=+,@`, and spaces inside the name are kept. Any other
    character, such as a slash, is replaced with `-`. If the name was changed, a hash of it is appended, so that
    different names have different folders.

    Args:
        name: Name of the run as given by the user.
    """
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" or c in "-_.=+,@ " else "-" for c in name)
    short = kept.strip(" ").encode("utf-8", "replace")[:MAX_NAME_BYTES].decode("utf-8", "ignore")
    if short == name and name.strip("."):
        return name
    return f"{short.strip('. ')}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def experiment_name(experiment: str | None, default: str) -> str:
    """Return the name of an experiment without its inner folders, or `default` if there is no experiment.

    Args:
        experiment: Option of the config group `experiment`, such as `reproduction/step7/ast`, which becomes
            `reproduction_ast`.
        default: Name of runs without an experiment.
    """
    first, _, rest = (experiment or default).partition("/")
    return f"{first}_{rest.rpartition('/')[2]}" if rest else first


def data_name(choice: str, data: Any) -> str:
    """Return the name of the data of a run, for the name of its folder.

    Args:
        choice: Option of the config group `data`.
        data: Composed config of the data. A table, folder or pack of the user gives its own name.
    """
    from omegaconf import OmegaConf

    if choice not in ("folder", "table", "pack"):
        return choice
    name, path, table = (OmegaConf.select(data, f"source.{key}") for key in ("name", "path", "table"))
    if name:
        return str(name)
    return Path(str(table)).stem if table else Path(str(path or choice)).resolve().name or choice


def dated_folders(outputs: str, name: str) -> Iterator[Path]:
    """Yield paths `<date>_<name>_<suffix>` for a new folder.

    Each path has another random suffix, so that folders of several machines can be copied into one folder.

    Args:
        outputs: Folder that contains the new folder.
        name: Name of the run.

    Raises:
        UserError: `outputs` is not text, such as a list or null.
    """
    if not isinstance(outputs, str | int | float):  # Hydra parses outputs=2024 as a number
        raise UserError(f"outputs={outputs}: must be the name of a folder")
    stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{folder_name(str(name))}"
    while True:
        yield Path(str(outputs)) / f"{stem}_{secrets.token_hex(2)}"


def common_folder_name(create: Callable[[], str], name: str) -> str:
    """Return the name of the run folder, which is equal in all processes of a launch.

    Processes that start separately would create different folders, because each process uses its own time, and the name
    of a folder has a random suffix. With torchrun, rank 0 shares the name in torchrun's store. With srun, no store
    exists yet, and the name is derived from the ids of job and step. Lightning passes the folder to the processes that
    it starts.

    Args:
        create: Function that creates a new folder and returns its name.
        name: Name of the run, which is appended to Slurm's ids.
    """
    variables = os.environ
    if variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        store = TCPStore(variables["MASTER_ADDR"], int(variables["MASTER_PORT"]), is_master=False)
        key = f"etude/{variables.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        if is_rank_zero():
            store.set(key, create())
        return store.get(key).decode()
    if "SLURM_STEP_ID" in variables and _slurm_tasks() > 1:
        names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        ids = [variables[key] for key in names if key in variables]
        return f"slurm-{'-'.join(ids)}_{folder_name(str(name))}"
    return create()
