"""Hydra callback that checks output folders before Hydra writes into them.

`run_hydra` calls it before all callbacks of the config, so that no override can leave it out.
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
from etude.system.distributed import first

HYDRA_OUTPUTS = ("config.yaml", "hydra.yaml", "overrides.yaml")  # in hydra.output_subdir, where one is asked for


class Refused(SystemExit):
    """Ends a command from inside a Hydra callback, in which any other exception becomes a warning.

    Args:
        error: The reason.
    """

    def __init__(self, error: UserError | RunError) -> None:
        super().__init__(1 if isinstance(error, RunError) else 2)
        self.error = error


class OutputCheck(Callback):
    """Refuses an output folder in which a file of somebody else would be overwritten."""

    def on_run_start(self, config: Any, **kwargs: Any) -> None:
        """Open, check and lock the folder of a run.

        Raises:
            Refused: The folder cannot be used.
        """
        folder = _selected(config, "hydra.run.dir")
        if folder is None or not first():
            return
        _refusing(start.claim, folder, bool(config.get("resume")))
        if config.hydra.output_subdir:
            _refusing(check_third_party, folder / config.hydra.output_subdir, HYDRA_OUTPUTS)

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Open and check the folder of a sweep.

        Raises:
            Refused: The folder cannot be used.
        """
        if folder := _selected(config, "hydra.sweep.dir"):
            _refusing(check_third_party, folder, (MULTIRUN,), start.SWEEP_OUTPUTS)


def check_third_party(folder: Path, names: Sequence[str], more: Sequence[str] = ()) -> None:
    """Check files that another library is about to write, and record them as files of ours.

    Args:
        folder: The output folder; created where it is missing.
        names: Files that the library writes.
        more: Further files to check, which Étude writes later.

    Raises:
        UserError: A file belongs to somebody else, or the folder cannot be written.
    """
    try:
        ownership.open_folder(folder)
        ownership.check_names(folder, (*names, *more))
        for name in names:
            ownership.record(folder / name)
            if not (folder / name).exists():
                ownership.mark_created(folder / name)
    except OSError as error:
        raise os_errors.explain(error, folder, os_errors.OTHER_RUN) or error from error


def _selected(config: Any, key: str) -> Path | None:
    """Return a folder of a composed config; None where it cannot be resolved, which Hydra reports itself."""
    HydraConfig.instance().set_config(config)  # as Hydra does next; names of runs refer to the chosen options
    try:
        return Path(str(OmegaConf.select(config, key)))
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError | RunError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise Refused(cause) from error
        return None


def _refusing(function: Callable[..., None], *args: Any) -> None:
    try:
        function(*args)
    except (UserError, RunError) as error:
        raise Refused(error) from error
