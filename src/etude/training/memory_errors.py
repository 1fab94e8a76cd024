"""Error messages for exhausted memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import RunError

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from etude.training.learner import Learner


# what torch says where it raises no class of its own: its CPU allocator, C++, cuBLAS, the CUDA runtime
MEMORY = ("DefaultCPUAllocator", "not enough memory", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def explain_memory_errors(
    config: Mapping[str, Any], folder: Path, trainer: Trainer, learner: Learner
) -> Iterator[None]:
    """Turn the end of memory or of a disk into one sentence.

    Args:
        config: The run's config.
        folder: The run's folder.
        trainer: Its processes are ended with the first one: they would wait for it.
        learner: Whether it is in training or in evaluation tells whose settings count.

    Raises:
        RunError: There was no more memory, or no more disk.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        sentence = memory_message(error, config, folder, learner.training)
        if sentence is None:
            raise
        launcher = trainer.strategy.launcher
        if launcher is not None and hasattr(launcher, "procs"):
            from signal import SIGKILL  # they hear nothing softer while they wait

            launcher.kill(SIGKILL)
        raise RunError(sentence) from error


def memory_message(error: BaseException, config: Mapping[str, Any], folder: Path, training: bool) -> str | None:
    """The sentence for an error; none for one that is neither of memory nor of the disk."""
    if isinstance(error, OSError) and error.errno in DISK:
        place = Path(error.filename).parent if isinstance(error.filename, str | Path) else folder
        return f"{os.path.relpath(place)}: the disk is full or a quota is spent ({error.strerror}); free some space"
    if of_memory(error):
        return memory(config, training)
    return None


def memory(config: Mapping[str, Any], training: bool) -> str:
    """What to turn down when there is no more memory."""
    data, trainer = config["data"], config["trainer"]
    if not training:
        tries = [f"data.eval_batch_size (now {data['eval_batch_size']})"]
        if data.get("crop"):
            how = "judge a few crops of each clip" if not data.get("eval_crops") else "judge fewer crops"
            tries.append(f"data.eval_crops (now {_said(data.get('eval_crops'))}: {how})")
        return f"out of memory in evaluation; lower {' or '.join(tries)}"
    steps = trainer.get("accumulate_grad_batches", 1)
    tries = [
        f"data.batch_size (now {data['batch_size']}; trainer.accumulate_grad_batches={2 * steps} makes up for half)"
    ]
    tries.append(f"data.crop (now {_said(data.get('crop'))})")
    tries.append(f"trainer.precision (now {trainer.get('precision', '32-true')}; bf16-mixed takes less on a GPU)")
    if "drop_time" in config["backbone"]:
        sentence = f"raise backbone.drop_time (now {config['backbone']['drop_time']:g})"
        return f"out of memory in training; lower {', '.join(tries)}, or {sentence}"
    return f"out of memory in training; lower {', '.join(tries[:-1])} or {tries[-1]}"


def of_memory(error: BaseException) -> bool:
    """Return whether an error says that there was no more memory."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY)


def _said(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item:g}" for key, item in value.items())
    return "null" if value is None else str(value)
