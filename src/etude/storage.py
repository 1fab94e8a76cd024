"""A checkpoint is written whole or not at all: whatever happens meanwhile, the one before it is still there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.io import TorchCheckpointIO

DRAFT = ".part"


class Storage(TorchCheckpointIO):
    """Writes a draft beside the file, has the disk confirm it, and gives it the file's name in one step.

    Lightning writes into the machine's temporary folder and moves the file from there; where that is another disk, as
    it mostly is on a cluster, a move is a copy over the old file, and a full disk or a kill in the midst of it leaves
    neither the old checkpoint nor the new one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: Tensors and plain values.
            path: The file.
            storage_options: Not used.

        Raises:
            OSError: The disk did not take it; the file is as it was.
            KeyboardInterrupt: Ctrl-C came meanwhile; the same.
        """
        import torch

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}{DRAFT}")
        try:
            with draft.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException as error:
            draft.unlink(missing_ok=True)
            # torch's writer puts its own words ("unexpected pos") in the place of what the disk, or Ctrl-C, said
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError | KeyboardInterrupt):
                cause = cause.__context__
            if cause is None:
                raise
            if isinstance(cause, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        _sync(path.parent)


def clean(folder: Path) -> None:
    """Remove what a process that was killed has left of its drafts."""
    for draft in folder.glob(f".*{DRAFT}"):
        draft.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Have the disk keep the names of a folder, where that can be asked for."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
