"""Atomic checkpoint writing, and the state of random numbers that a checkpoint holds."""

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
from lightning_fabric.plugins.io import TorchCheckpointIO

from etude.errors import RunError, UserError
from etude.files import atomic, ownership
from etude.files.safe_read import COPY, verify_checkpoint
from etude.runs.folder import RunFolder
from etude.system import signals

log = logging.getLogger(__name__)
CONNECTOR = "checkpoint_connector.py"  # Lightning's module that restores a run
PATHS = ("best_model_path", "last_model_path", "kth_best_model_path")  # of the state of a ModelCheckpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a draft beside the file, has the disk confirm it, and gives it the file's name in one step.

    Lightning writes into the machine's temporary folder and moves the file from there; where that is another disk, as
    it mostly is on a cluster, a move is a copy over the old file, and a full disk or a kill in the midst of it leaves
    neither the old checkpoint nor the new one.

    Args:
        folders: The folders below which checkpoints are written and removed: that of the run, and those that the
            command line named. A path outside of them, as a stored checkpoint may hold, is refused.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        super().__init__()
        self.folders = [Path(os.path.abspath(folder)) for folder in folders]  # noqa: PTH100  # links stay as they are

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: Tensors and plain values.
            path: The file.
            storage_options: Not used.

        Raises:
            UserError: The path is not below the run's folders, or holds a file of somebody else.
            OSError: The disk did not take it; the file is as it was.
            KeyboardInterrupt: Ctrl-C came meanwhile; the same.
        """
        path = Path(path)
        if not self._inside(path):
            raise UserError(f"{path}: is not below the folder of the run, and no checkpoint is written there")
        self._open(path.parent)
        try:
            with atomic.replacing(path, sync=True) as draft, draft.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError, KeyboardInterrupt) as error:
            # torch's writer puts its own words ("unexpected pos") in the place of what the disk, or Ctrl-C, said
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError | KeyboardInterrupt):
                cause = cause.__context__
            if cause is None:
                raise
            if isinstance(cause, KeyboardInterrupt):
                raise signals.again(cause) from error
            raise OSError(cause.errno, cause.strerror, str(path)) from error

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint, with the paths in it recomputed from where its folder lies now."""
        if not Path(path).is_file():
            raise UserError(f"{path}: there is no such checkpoint; {COPY}")
        verify_checkpoint(Path(path))
        try:
            checkpoint = super().load_checkpoint(path, *args, **kwargs)
        except Exception as error:  # the unpickler raises whatever a strange byte leads to
            raise UserError(f"{path}: cannot be read as a checkpoint; {COPY}") from error
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("callbacks", {}), dict):
            raise UserError(f"{path}: is a checkpoint of something else; {COPY}")
        relocate(checkpoint, Path(path).parent)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint that a better one replaces; any other file or folder stays."""
        path = Path(path)
        if not self._inside(path) or (os.path.lexists(path) and not atomic.remove(path)):
            log.warning("%s: was not written by this run and is not removed", path)

    def _inside(self, path: Path) -> bool:
        full = Path(os.path.abspath(path))  # noqa: PTH100
        return any(full.is_relative_to(folder) for folder in self.folders)

    def _open(self, folder: Path) -> None:
        """Create the folder of a checkpoint, and those above it up to the run's."""
        full = Path(os.path.abspath(folder))  # noqa: PTH100
        root = next(one for one in self.folders if full.is_relative_to(one))
        if not root.is_dir():
            ownership.open_folder(root)
        for parent in [*reversed(full.parents), full]:
            if parent.is_relative_to(root) and parent != root:
                ownership.subfolder(parent)


@contextmanager
def restoring(folder: Path) -> Iterator[None]:
    """Turn what Lightning raises while it restores a run from a checkpoint into one sentence.

    Values of other types than Lightning's, or tensors of another network than the config describes, lead to errors of
    many kinds. Errors from anywhere else pass.

    Args:
        folder: The run's folder.

    Raises:
        UserError: The state in a checkpoint does not fit the run.
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
            f"({reason}); {COPY}"
        ) from error


def relocate(checkpoint: dict[str, Any], folder: Path) -> None:
    """Recompute the paths that callbacks stored in a checkpoint, in place.

    A run folder may have been moved or may come from somebody else, so that a stored path leads anywhere. Of each path
    only the part below the stored folder of checkpoints is kept.

    Args:
        checkpoint: As Lightning wrote it.
        folder: The folder in which it lies now.
    """
    for state in checkpoint.get("callbacks", {}).values():
        if not isinstance(state, dict) or not {"dirpath", *PATHS} & set(state):
            continue
        stored = str(state.get("dirpath") or "")

        def moved(path: Any, stored: str = stored) -> str:
            if not isinstance(path, str) or not path:
                return ""
            inner = PurePosixPath(path)
            inner = inner.relative_to(stored) if stored and inner.is_relative_to(stored) else PurePosixPath(inner.name)
            return str(folder / inner) if ".." not in inner.parts else ""

        for key in PATHS:
            if key in state:
                state[key] = moved(state[key])
        if isinstance(state.get("best_k_models"), dict):
            state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items()}
        if "dirpath" in state:
            state["dirpath"] = str(folder)


def random_state() -> dict[str, Any]:
    """Return the state of every global generator of random numbers, as tensors and plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002  # what others may draw from
    version, internal, following = random.getstate()
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": [version, list(internal), following]}
    state["numpy"] = [kind, [int(key) for key in keys], position, has_gauss, gauss]
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set every global generator to a state that `random_state` returned."""
    torch.set_rng_state(state["torch"].cpu())
    version, internal, following = state["python"]
    random.setstate((version, tuple(internal), following))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
