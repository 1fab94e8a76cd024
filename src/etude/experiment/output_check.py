"""Hydra callback that checks output folders before Hydra writes into them.

`run_hydra` calls it before all callbacks of the config, so that no override can disable it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

from etude.errors import RunError, UserError
from etude.experiment import start
from etude.files import os_errors, ownership
from etude.runs.folder import MULTIRUN
from etude.system.distributed import is_rank_zero

HYDRA_OUTPUTS = ("config.yaml", "hydra.yaml", "overrides.yaml")  # in hydra.output_subdir, if it is set


class Refused(SystemExit):
    """Exception with which a Hydra callback ends a command. Hydra turns any other exception into a warning.

    Args:
        error: Reason of the refusal.
    """

    def __init__(self, error: UserError | RunError) -> None:
        super().__init__(1 if isinstance(error, RunError) else 2)
        self.error = error


class OutputCheck(Callback):
    """Callback that refuses an output folder in which a file of another program would be overwritten."""

    def on_run_start(self, config: Any, **kwargs: Any) -> None:
        """Create, check and lock the folder of a run.

        Raises:
            Refused: The folder cannot be used.
        """
        folder = _resolve_folder(config, "hydra.run.dir")
        if folder is None or not is_rank_zero():
            return
        _refuse_on_error(start.lock_folder, folder, bool(config.get("resume")))
        if config.hydra.output_subdir:
            _refuse_on_error(check_third_party, folder / config.hydra.output_subdir, HYDRA_OUTPUTS)

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Create and check the folder of a sweep.

        Raises:
            Refused: The folder cannot be used.
        """
        if folder := _resolve_folder(config, "hydra.sweep.dir"):
            _refuse_on_error(check_third_party, folder, (MULTIRUN,), start.SWEEP_OUTPUTS)


def check_third_party(folder: Path, names: Sequence[str], more: Sequence[str] = ()) -> None:
    """Check files that another library will write, and record them as files of this run.

    Args:
        folder: The output folder, which is created if it is missing.
        names: Files that the library writes.
        more: Further files to check, which Étude writes later.

    Raises:
        UserError: A file exists that Étude did not write, or the folder cannot be written.
    """
    try:
        ownership.open_folder(folder)
        ownership.check_names(folder, (*names, *more))
        for name in names:
            ownership.record(folder / name)
            if not (folder / name).exists():
                ownership.mark_created(folder / name)
    except OSError as error:
        raise os_errors.explain(error, folder, os_errors.RUN_REMEDY) or error from error


def _resolve_folder(config: Any, key: str) -> Path | None:
    """Return a folder of a composed config, or None if it cannot be resolved. Hydra then reports the error."""
    HydraConfig.instance().set_config(config)  # as Hydra does next; names of runs refer to the selected options
    try:
        return Path(str(OmegaConf.select(config, key)))
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError | RunError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise Refused(cause) from error
        return None


def _refuse_on_error(function: Callable[..., None], *args: Any) -> None:
    """Call a function and raise Refused for its errors."""
    try:
        function(*args)
    except (UserError, RunError) as error:
        raise Refused(error) from error
