"""Error messages for exhausted memory, full disks and other errors of the operating system."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etude.errors import RunError, UserError

FULL_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY_CODES = (errno.EROFS, errno.EACCES, errno.EPERM)
PATH_CODES = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
    *(errno.ENAMETOOLONG, errno.ELOOP),
)
DEVICE_CODES = (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENXIO, errno.ENODEV, errno.EROFS)

# texts of memory errors for which torch has no exception class: CPU allocator, C++, cuBLAS and CUDA runtime
MEMORY_MESSAGES = (
    "DefaultCPUAllocator",
    "not enough memory",
    "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "out of memory",
)

# remedies for a folder that cannot be written
RUN_REMEDY = "name another folder with outputs=<folder>, data.packs=<folder> or hydra.run.dir=<folder>"
FOLDER_REMEDY = "name another folder with --out <folder>"
PACKS_REMEDY = "name another folder with --packs <folder>"


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Add a path to errors of the block that writes it. The error of a full disk has no path.

    Raises:
        OSError: Error of the block, with the path as its file name.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


@contextmanager
def explain_errors(path: str | Path | None = None, remedy: str = "", subject: str = "") -> Iterator[None]:
    """Convert errors of the file system in a block by `explain`.

    Raises:
        RunError: The disk is full or has failed.
        UserError: A path cannot be written or read.
    """
    try:
        yield
    except OSError as error:
        explained = explain(error, path, remedy, subject)
        if explained is None:
            raise
        raise explained from error


def to_user_error(error: BaseException, remedy: str = "") -> UserError | RunError | None:
    """Return the error to report to the user instead of an exception, or None for a defect of the program.

    Args:
        error: The exception. A UserError or RunError is returned unchanged.
        remedy: Remedy for a path that cannot be written; see `explain`.
    """
    if isinstance(error, UserError | RunError):
        return error
    if isinstance(error, MemoryError):
        return RunError("out of memory; close other programs, or process less data at a time")
    return explain(error, remedy=remedy) if isinstance(error, OSError) else None


def explain(
    error: OSError, path: str | Path | None = None, remedy: str = "", subject: str = ""
) -> UserError | RunError | None:
    """Return the error to raise instead of an error of the file system, with path, reason and remedy.

    Args:
        error: The error.
        path: Path that was written, for an error without a path.
        remedy: Remedy for a path that cannot be written, such as `name another folder with --out <folder>`.
        subject: Option that set the path, such as `--out <folder>`. The message begins with it instead of the path.

    Returns:
        A RunError if the disk is full or has failed, a UserError if a path cannot be written or read; None for errors
        that do not concern a path.
    """
    file = Path(os.fsdecode(name)) if (name := error.filename or path) else None
    if file is not None and file.name.startswith("."):  # a draft, a lock file or a list of Étude
        file = file.parent
    shown = "the disk" if file is None else str(file)
    if file is not None and not (relative := os.path.relpath(file)).startswith(os.pardir):
        shown = relative
    if subject and (file is None or path is None or file.is_relative_to(path)):
        shown = subject
    reason = os.strerror(error.errno) if error.errno else str(error)
    hint = f"; {remedy}" if remedy else ""
    if error.errno in FULL_CODES:
        other = f", or {remedy}" if remedy else ""
        return RunError(f"{shown}: the disk is full or a quota is exceeded ({reason}); free some space{other}")
    if file is None:
        return None
    if error.errno in READ_ONLY_CODES:
        if file.exists() and not os.access(file, os.R_OK):
            return UserError(f"{shown}: cannot be read ({reason})")
        return UserError(f"{shown}: cannot be written ({reason}){hint}")
    if error.errno in PATH_CODES:
        return UserError(f"{shown}: cannot be used ({reason}){hint}")
    if error.errno in DEVICE_CODES:
        return RunError(f"{shown}: cannot be read or written ({reason})")
    return None


@contextmanager
def explain_memory_errors(config: Mapping[str, Any], folder: Path, trainer: Any, learner: Any) -> Iterator[None]:
    """Replace errors of exhausted memory or of a full disk with one message.

    Args:
        config: The run's config.
        folder: The run's folder.
        trainer: Lightning's Trainer. Its other processes are killed, because they would wait for the first one.
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
    if isinstance(error, OSError) and error.errno in FULL_CODES:
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
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MEMORY_MESSAGES)


def _format_value(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item:g}" for key, item in value.items())
    return "null" if value is None else str(value)
