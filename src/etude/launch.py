"""One run in several processes: which of them is the first, and what all of them agree on before they can talk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import count
from pathlib import Path


def first() -> bool:
    """Whether this process is the one that speaks and writes, of those that torchrun, srun or Lightning started."""
    if "RANK" in os.environ:  # torchrun's; it counts over all machines, whatever srun says beside it
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def dated(outputs: str, name: str) -> Iterator[Path]:
    """Names for a new folder, the first by date and name alone, the others with a number behind them."""
    wanted = Path(outputs) / f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{name}"
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
    if "SLURM_STEP_ID" in known and known.get("SLURM_NTASKS", "1") != "1":
        numbers = [known[key] for key in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT") if key in known]
        return f"slurm-{'-'.join(numbers)}_{name}"
    return propose()
