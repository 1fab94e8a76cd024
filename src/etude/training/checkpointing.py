"""Atomic checkpoint writing and the state of random number generators in a checkpoint."""

from __future__ import annotations

import logging
import os
import random
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from etude.errors import RunError, UserError
from etude.files import atomic, ownership
from etude.files.safe_read import RESTORE, verify_checkpoint
from etude.runs.folder import RunFolder
from etude.system import signals
from etude.training.lightning import Callback, LightningModule, TorchCheckpointIO, Trainer

log = logging.getLogger(__name__)
CONNECTOR = "checkpoint_connector.py"  # Lightning's module that restores a run
PATHS = ("best_model_path", "last_model_path", "kth_best_model_path")  # of the state of a ModelCheckpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint plugin that writes a draft in the target folder, syncs it to disk, and renames it atomically.

    Lightning writes into the machine's temporary folder and moves the file from there. If that folder is on another
    disk, as on most clusters, the move is a copy over the old file. If the disk is full or the process is killed during
    the copy, both the old and the new checkpoint are lost.

    Args:
        folders: Folders below which checkpoints are written and removed. These are the run's folder and the folders
            in the config. Other paths, which a stored checkpoint may contain, are refused.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        super().__init__()
        self.folders = [Path(os.path.abspath(folder)) for folder in folders]  # noqa: PTH100  # links stay as they are

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: Tensors and plain values.
            path: Path of the checkpoint.
            storage_options: Not used.

        Raises:
            UserError: The path is outside the run's checkpoint folders, or is a file that the run did not write.
            OSError: The file cannot be written. An existing file is unchanged.
            KeyboardInterrupt: Ctrl-C was pressed during writing. An existing file is unchanged.
        """
        path = Path(path)
        if not self._is_inside(path):
            raise UserError(f"{path}: is outside the run's checkpoint folders, so no checkpoint is written there")
        self._create_folder(path.parent)
        try:
            with atomic.replacing(path, sync=True) as draft, draft.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError, KeyboardInterrupt) as error:
            # torch's writer replaces the error of the disk or of Ctrl-C by its own message ("unexpected pos")
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError | KeyboardInterrupt):
                cause = cause.__context__
            if cause is None:
                raise
            if isinstance(cause, KeyboardInterrupt):
                raise signals.original_interruption(cause) from error
            raise OSError(cause.errno, cause.strerror, str(path)) from error

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint and recompute its stored paths for the current location of its folder."""
        if not Path(path).is_file():
            raise UserError(f"{path}: there is no such checkpoint; {RESTORE}")
        verify_checkpoint(Path(path))
        try:
            checkpoint = super().load_checkpoint(path, *args, **kwargs)
        except Exception as error:  # an invalid byte can make the unpickler raise any exception
            raise UserError(f"{path}: cannot be read as a checkpoint; {RESTORE}") from error
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("callbacks", {}), dict):
            raise UserError(f"{path}: is a checkpoint of another program; {RESTORE}")
        relocate_paths(checkpoint, Path(path).parent)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint that a better one replaces. Other files and folders are not removed."""
        path = Path(path)
        if not self._is_inside(path) or (os.path.lexists(path) and not atomic.remove(path)):
            log.warning("%s: was not written by this run and is not removed", path)

    def _is_inside(self, path: Path) -> bool:
        """Return whether a path is below one of the folders."""
        full = Path(os.path.abspath(path))  # noqa: PTH100
        return any(full.is_relative_to(folder) for folder in self.folders)

    def _create_folder(self, folder: Path) -> None:
        """Create the folder of a checkpoint and its parents up to the run's folder."""
        full = Path(os.path.abspath(folder))  # noqa: PTH100
        root = next(parent for parent in self.folders if full.is_relative_to(parent))
        if not root.is_dir():
            ownership.open_folder(root)
        for parent in [*reversed(full.parents), full]:
            if parent.is_relative_to(root) and parent != root:
                ownership.subfolder(parent)


@contextmanager
def explain_restore_errors(folder: Path) -> Iterator[None]:
    """Raise one clear error for all errors that Lightning raises while it restores a run.

    Values of unexpected types, or tensors of another network than the configured one, cause many kinds of errors.
    Errors from other code are not changed.

    Args:
        folder: The run's folder.

    Raises:
        UserError: The state in a checkpoint does not match the run.
    """
    try:
        yield
    except (UserError, RunError, OSError):
        raise
    except Exception as error:
        frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
        if not any(code.co_filename.endswith(CONNECTOR) and "dump" not in code.co_name for code in frames):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        run = RunFolder(folder)
        raise UserError(
            f"{os.path.relpath(run.checkpoints_path)}: does not fit the run's {run.config_path.name} and code "
            f"({reason}); {RESTORE}"
        ) from error


def relocate_paths(checkpoint: dict[str, Any], folder: Path) -> None:
    """Recompute the paths that callbacks stored in a checkpoint, in place.

    A run folder may have been moved or may come from another user, so a stored path can lead to any location. Only the
    components below the stored folder of checkpoints are kept.

    Args:
        checkpoint: Checkpoint as written by Lightning.
        folder: Current folder of the checkpoint.
    """
    for state in checkpoint.get("callbacks", {}).values():
        if not isinstance(state, dict) or not {"dirpath", *PATHS} & set(state):
            continue
        stored = str(state.get("dirpath") or "")

        def new_path(path: Any, stored: str = stored) -> str:
            if not isinstance(path, str) or not path:
                return ""
            inner = PurePosixPath(path)
            inner = inner.relative_to(stored) if stored and inner.is_relative_to(stored) else PurePosixPath(inner.name)
            return str(folder / inner) if ".." not in inner.parts else ""

        for key in PATHS:
            if key in state:
                state[key] = new_path(state[key])
        if isinstance(state.get("best_k_models"), dict):
            state["best_k_models"] = {new_path(path): score for path, score in state["best_k_models"].items()}
        if "dirpath" in state:
            state["dirpath"] = str(folder)


def random_state() -> dict[str, Any]:
    """Return the state of every global random number generator, as tensors and plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002  # other libraries may use it
    version, internal, following = random.getstate()
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": [version, list(internal), following]}
    state["numpy"] = [kind, [int(key) for key in keys], position, has_gauss, gauss]
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set every global random number generator to a state that `random_state` returned."""
    torch.set_rng_state(state["torch"].cpu())
    version, internal, following = state["python"]
    random.setstate((version, tuple(internal), following))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


class FinishedTraining(Callback):
    """Callback that prevents further epochs of a resumed run if early stopping had already ended it."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once if the patience was already exceeded, as in a run interrupted during its evaluation."""
        for callback in trainer.early_stopping_callbacks:
            if callback.wait_count >= callback.patience:
                trainer.should_stop = True
