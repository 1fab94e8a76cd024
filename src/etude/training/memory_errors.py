"""Error messages for exhausted memory and full disks."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import RunError

if TYPE_CHECKING:
    from etude.training.learner import Learner
    from etude.training.lightning import Trainer


# texts of memory errors for which torch has no exception class: CPU allocator, C++, cuBLAS and CUDA runtime
MESSAGES = (
    "DefaultCPUAllocator",
    "not enough memory",
    "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "out of memory",
)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def explain_memory_errors(
    config: Mapping[str, Any], folder: Path, trainer: Trainer, learner: Learner
) -> Iterator[None]:
    """Replace errors of exhausted memory or of a full disk with one message.

    Args:
        config: The run's config.
        folder: The run's folder.
        trainer: Trainer. Its other processes are killed, because they would wait for the first one.
        learner: The network. Its mode, training or evaluation, selects the options that the message names.

    Raises:
        RunError: Memory is exhausted, or the disk is full.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        message = memory_message(error, config, folder, learner.training)
        if message is None:
            raise
        launcher = trainer.strategy.launcher
        if launcher is not None and hasattr(launcher, "procs"):
            from signal import SIGKILL  # waiting processes do not handle other signals

            launcher.kill(SIGKILL)
        raise RunError(message) from error


def memory_message(error: BaseException, config: Mapping[str, Any], folder: Path, training: bool) -> str | None:
    """Return the message for an error of memory or of the disk, or None for other errors."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        parent = Path(error.filename).parent if isinstance(error.filename, str | Path) else folder
        return f"{os.path.relpath(parent)}: the disk is full or a quota is exceeded ({error.strerror}); free some space"
    if is_memory_error(error):
        return out_of_memory_message(config, training)
    return None


def out_of_memory_message(config: Mapping[str, Any], training: bool) -> str:
    """Return the message for exhausted memory, with the options that reduce the memory usage."""
    data, trainer = config["data"], config["trainer"]
    if not training:
        options = [f"data.eval_batch_size (now {data['eval_batch_size']})"]
        if data.get("crop"):
            remedy = "evaluate a few crops of each clip" if not data.get("eval_crops") else "evaluate fewer crops"
            options.append(f"data.eval_crops (now {_format_value(data.get('eval_crops'))}: {remedy})")
        return f"out of memory in evaluation; lower {' or '.join(options)}"
    steps = trainer.get("accumulate_grad_batches", 1)
    options = [
        f"data.batch_size (now {data['batch_size']}; if you halve it, set trainer.accumulate_grad_batches={2 * steps})"
    ]
    options.append(f"data.crop (now {_format_value(data.get('crop'))})")
    options.append(f"trainer.precision (now {trainer.get('precision', '32-true')}; bf16-mixed needs less on a GPU)")
    if "drop_time" in config["backbone"]:
        drop_time = f"raise backbone.drop_time (now {config['backbone']['drop_time']:g})"
        return f"out of memory in training; lower {', '.join(options)}, or {drop_time}"
    return f"out of memory in training; lower {', '.join(options[:-1])} or {options[-1]}"


def is_memory_error(error: BaseException) -> bool:
    """Return whether an error means that memory is exhausted."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)


def _format_value(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item:g}" for key, item in value.items())
    return "null" if value is None else str(value)
