"""Python API: `etude.run` and `etude.load`."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etude.api.run_object import Run
from etude.config.compose import Composer, open_hydra
from etude.config.override_errors import error_text, override_errors
from etude.errors import UserError
from etude.experiment import start
from etude.runs.folder import RunFolder, locate_run

log = logging.getLogger(__name__)
SWEEP = "several values make a sweep, which the command line runs: python train.py -m ..."
ALONE = "trains in several processes, which the command line starts: python train.py ..."


def run(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> Run:
    """Train, predict, measure and report in this process.

    Args:
        overrides: The words that would follow `python train.py`, without flags; `resume=<run folder>` too.
        config_dir: A folder of further options, as by `--config-dir`.

    Returns:
        The finished run; one that was only a trial (`debug=find_lr`, `debug=overfit`) has no scores.

    Raises:
        UserError: Words, config or data have to be mended; nothing is left.
        RunError: Training came to a loss that is not finite, or to the end of memory or of a disk.
    """
    from etude.experiment.output_check import Refused  # heavy: hydra, which `load` does without

    words = [overrides] if isinstance(overrides, str) else [str(word) for word in overrides]
    if flags := [word for word in words if word.startswith("-")]:
        raise UserError(f"{flags[0]}: is a flag of the command line; from Python a run has overrides and config_dir=")
    start.prepare(words)
    ended: dict[str, Any] = {}
    shown = [] if config_dir is None else [f"--config-dir={config_dir}"]
    with open_hydra(config_dir) as composer, _called(["train.py", *shown, *words]), warnings.catch_warnings():
        _look(composer, words, config_dir)

        def task(composed: Any) -> None:
            from hydra.core.hydra_config import HydraConfig

            ended["folder"] = folder = Path(HydraConfig.get().runtime.output_dir)
            try:
                _one(composed, folder)
            except Exception as error:  # Hydra would say it once more, with its own words
                ended["error"] = error

        with _logged():
            try:
                composer.run(task, words)
            except Refused as refusal:
                raise refusal.error from None
            finally:
                start.close_all()
    if "error" in ended:
        raise ended["error"]
    return Run(_near(ended["folder"]))


def load(path: str | Path) -> Run:
    """A run from its folder; from a checkpoint, which then is its network; or one alone or exported, which can predict.

    Raises:
        UserError: There is no run, or there are several, as in the folder of a sweep.
    """
    folder, weights = locate_run(Path(path))
    return Run(folder, weights)


def _look(composer: Composer, words: list[str], config_dir: str | Path | None) -> None:
    """Compose once to refuse what cannot be a run of this process."""
    from hydra.types import RunMode

    try:
        composed = composer.compose(words)
    except Exception as error:
        if found := override_errors(words, folder=config_dir, error=error, several=SWEEP):
            raise UserError(error_text(found)) from error
        raise
    if composed.hydra.mode == RunMode.MULTIRUN or composed.hydra.runtime.choices.get("sweep"):
        said = [word for word in words if word.startswith(("sweep=", "hydra.mode="))]
        raise UserError(f"{' '.join(said or words)}: {SWEEP}")


def _one(composed: Any, folder: Path) -> None:
    """The run itself; its log is kept in the folder and printed, and what went wrong ends it."""
    try:
        config, resume = start.checked(composed, folder)
        trainer = config["trainer"]
        if trainer.get("strategy", "auto") != "auto" or trainer.get("devices", 1) not in (1, "auto", [0]):
            if not resume:
                start.discard(folder)
            raise UserError(f"trainer: {ALONE}")
        if start.run_in_folder(config, folder, resume):
            log.info("report: %s", os.path.relpath(RunFolder(folder).report_path))
    except BaseException as error:
        for handler in list(logging.getLogger().handlers):
            if isinstance(handler, Screen):
                logging.getLogger().removeHandler(handler)  # the caller gets the error
        if isinstance(error, UserError) and composed.get("resume"):
            start.silence(folder)  # the run's own log is about the run
        elif isinstance(error, KeyboardInterrupt):
            log.warning("interrupted%s", start.advice(folder))
        elif isinstance(error, Exception):
            log.error("%s", error)
        raise


class Screen(logging.StreamHandler):
    """Handler that prints the log of a run while it lasts."""


@contextmanager
def _logged() -> Iterator[None]:
    """Show the log for as long as a run takes."""
    root, noisy = (
        logging.getLogger(),
        [logging.getLogger(name) for name in ("", "pytorch_lightning", "lightning_fabric")],
    )
    kept, levels = list(root.handlers), [logger.level for logger in noisy]
    root.handlers[:] = [
        *kept,
        Screen(sys.stdout),
        logging.NullHandler(),
    ]  # the last, so that logging prints none itself
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = kept
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _called(words: list[str]) -> Iterator[None]:
    """The command that the record and the trackers read is the line that would do the same."""
    kept, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = kept


def _near(folder: Path) -> Path:
    """A folder as a path from here, where it is below."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
