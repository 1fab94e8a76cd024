"""Ranks and agreement of the processes of a distributed run."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from etude.errors import UserError

INTERACTIVE = ("bash", "interactive")  # names of Slurm jobs in which a command is no task, by Lightning's convention
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
NAME_BYTES = 180  # of a folder's name, which has 255; the rest is for its date, number and drafts


def first() -> bool:
    """Whether this process is the one that speaks and writes, of those that torchrun, srun or Lightning started."""
    if not _launched():  # what the variables say then has no meaning
        return True
    if "RANK" in os.environ:  # torchrun's; it counts over all machines, whatever srun says beside it
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def refuse_stray_ranks() -> None:
    """Refuse an environment that makes this process one of several although nothing has started the others.

    Such variables stay in the shell of a Slurm allocation, or are set by accident. Lightning believes them: the process
    waits for the others, or trains and writes nothing.

    Raises:
        UserError: There are such variables.
    """
    known = os.environ
    if _launched():
        return
    if _tasks() > 1:
        raise UserError(
            f"SLURM_NTASKS={known['SLURM_NTASKS']}: this is the shell of a Slurm allocation and not one of its tasks; "
            "begin the command with srun, or for a single process with: env -u SLURM_NTASKS"
        )
    strays = [name for name in RANKS if known.get(name, "0") != "0"]
    strays += [name for name in ("WORLD_SIZE",) if known.get(name, "1") != "1"]
    if strays:
        shown = " ".join(f"{name}={known[name]}" for name in strays)
        raise UserError(
            f"{shown}: the environment makes this process one of several, but neither torchrun nor srun has started "
            f"it; for a single process: unset {' '.join(strays)}"
        )


def refuse_process_count(trainer: Mapping[str, Any]) -> None:
    """Refuse a trainer that wants another number of processes than torchrun or srun has started.

    Args:
        trainer: The config's.

    Raises:
        UserError: The numbers differ. Of several that torchrun or srun started, only the first has a message.
    """
    known, wanted = os.environ, processes(trainer)
    if not _launched():
        if "LOCAL_RANK" in known and wanted != 1:
            raise UserError("LOCAL_RANK: with it the trainer waits for processes that nothing starts; unset LOCAL_RANK")
        return
    if "TORCHELASTIC_RUN_ID" in known:
        started, launcher = int(known.get("WORLD_SIZE", "1")), "torchrun"
    elif _tasks() > 1:
        started, launcher = _tasks(), "srun"
    else:
        started, launcher = int(known.get("WORLD_SIZE", "1")), "the environment (WORLD_SIZE)"
    message = ""
    if wanted is not None and wanted != started:
        message = (
            f"trainer: {launcher} has started {started} process{'es' if started > 1 else ''}, but "
            f"trainer.devices={trainer.get('devices', 1)} with trainer.num_nodes={trainer.get('num_nodes', 1)} makes "
            f"{wanted}; start {wanted}, or choose trainer=ddp and set trainer.devices and trainer.num_nodes"
        )
    elif launcher == "srun" and "SLURM_NTASKS_PER_NODE" not in known:
        message = f"SLURM_NTASKS={started}: Lightning needs --ntasks-per-node; use it in the place of --ntasks"
    if message:
        raise UserError(message if first() or launcher not in ("torchrun", "srun") else "")


def refuse_several_processes(trainer: Mapping[str, Any]) -> None:
    """Refuse a trainer of several processes in a job of a sweep, unless Slurm has started them.

    Lightning would start the second process with the whole sweep's command, and each would train another config.

    Args:
        trainer: Settings of the trainer.

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
        "trainer: in a sweep by this launcher each job has one process; leave hydra/launcher out, or take "
        "hydra/launcher=submitit_slurm on a cluster"
    )


def processes(trainer: Mapping[str, Any]) -> int | None:
    """Return how many processes a trainer wants over all nodes; None where that depends on the machine.

    Args:
        trainer: The config's.
    """
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        devices = len(devices)
    if devices == "auto" and trainer.get("accelerator") == "cpu":
        devices = 1
    try:
        devices, nodes = int(devices), int(nodes)
    except (TypeError, ValueError):
        return None
    return devices * nodes if devices > 0 else None


def _launched() -> bool:
    """Return whether a launcher has started this process: torchrun, srun, Lightning, or one that sets what they set."""
    known = os.environ
    return (
        "TORCHELASTIC_RUN_ID" in known
        or (_tasks() > 1 and "SLURM_STEP_ID" in known)
        or all(name in known for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"))
    )


def _tasks() -> int:
    """Return the number of tasks of Slurm's job, 1 where Lightning takes a command as no task."""
    count = os.environ.get("SLURM_NTASKS", "1")
    interactive = os.environ.get("SLURM_JOB_NAME") in INTERACTIVE
    return int(count) if count.isdecimal() and not interactive else 1


def folder_name(name: str) -> str:
    """Return the name of a run as that of one folder: no path, and of no other name.

    Letters and digits of any script stay, and so do `-_.=+,@` and blanks inside. Anything else, such as a slash,
    becomes `-`, and a hash of the name follows: two names never share one folder name.

    Args:
        name: As the user wrote it.
    """
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" or c in "-_.=+,@ " else "-" for c in name)
    short = kept.strip(" ").encode("utf-8", "replace")[:NAME_BYTES].decode("utf-8", "ignore")
    if short == name and name.strip("."):
        return name
    return f"{short.strip('. ')}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def dated(outputs: str, name: str) -> Iterator[Path]:
    """Names for a new folder, the first by date and name alone, the others with a number behind them.

    Raises:
        UserError: `outputs` is not text, such as a list or null.
    """
    if not isinstance(outputs, str | int | float):  # Hydra takes outputs=2024 as a number
        raise UserError(f"outputs={outputs}: must be the name of a folder")
    wanted = Path(str(outputs)) / f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{folder_name(str(name))}"
    yield wanted
    yield from (wanted.with_name(f"{wanted.name}_{i}") for i in count(2))


def agreed(propose: Callable[[], str], name: str) -> str:
    """The name of the run's folder, the same in every process of a launch.

    Processes that start apart read different clocks, and the second finds the folder of the first. Under torchrun they
    ask its store, which is there before them. Under srun there is no store yet, but the step has a number. Lightning
    hands the folder to the processes that it starts.

    Args:
        propose: Chooses a folder that is not there yet.
        name: The run's name, for a folder that Slurm's numbers make its own.
    """
    known = os.environ
    if known.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        store = TCPStore(known["MASTER_ADDR"], int(known["MASTER_PORT"]), is_master=False)
        key = f"etude/{known.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        if first():
            store.set(key, propose())
        return store.get(key).decode()
    if "SLURM_STEP_ID" in known and _tasks() > 1:
        numbers = [known[key] for key in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT") if key in known]
        return f"slurm-{'-'.join(numbers)}_{folder_name(str(name))}"
    return propose()
