"""Functions `etude.run`, `etude.load` and `etude.embed` of the Python API."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.api.run_object import Run
from etude.config.compose import Composer, open_hydra
from etude.config.override_errors import format_errors, override_errors
from etude.errors import Refused, UserError
from etude.experiment import start
from etude.runs.folder import locate_run

if TYPE_CHECKING:
    from etude.inference.embed import Embeddings

log = logging.getLogger(__name__)
SWEEP = "several values define a sweep; start it from the command line with: python train.py -m ..."
SEVERAL_PROCESSES = "training uses several processes; start it from the command line with: python train.py ..."


def run(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> Run:
    """Train, predict, compute metrics and write the report in this process.

    Args:
        overrides: Overrides as in `python train.py`, without flags. `resume=<run folder>` is allowed.
        config_dir: A folder of additional options, as with `--config-dir`.

    Returns:
        The finished run. A trial run (`debug=find_lr`, `debug=overfit`) has no scores.

    Raises:
        UserError: Overrides, config or data are invalid. No files are left.
        RunError: A loss is not finite, memory is exhausted or the disk is full.
    """
    arguments = [overrides] if isinstance(overrides, str) else [str(override) for override in overrides]
    if flags := [argument for argument in arguments if argument.startswith("-")]:
        raise UserError(f"{flags[0]}: is a flag of the command line; from Python use overrides and config_dir=")
    start.prepare(arguments)
    result: dict[str, Any] = {}
    options = [] if config_dir is None else [f"--config-dir={config_dir}"]
    command = ["train.py", *options, *arguments]
    with open_hydra(config_dir) as composer, _command_line(command), warnings.catch_warnings():
        _check_overrides(composer, arguments, config_dir)

        def task(composed: Any) -> None:
            from hydra.core.hydra_config import HydraConfig

            result["folder"] = folder = Path(HydraConfig.get().runtime.output_dir)
            try:
                _run_task(composed, folder)
            except Exception as error:  # Hydra would print it again
                result["error"] = error

        with _logged():
            try:
                composer.run(task, arguments)
            except Refused as refusal:
                raise refusal.error from None
            finally:
                start.close_all()
    if "error" in result:
        raise result["error"]
    return Run(_relative_to_cwd(result["folder"]))


def load(path: str | Path) -> Run:
    """Load a run from its folder, a checkpoint or an exported network.

    A checkpoint in a run folder selects the network of the run. A single checkpoint or an exported network has no
    scores, but can predict.

    Raises:
        UserError: There is no run, or there are several, as in the folder of a sweep.
    """
    folder, weights = locate_run(Path(path))
    return Run(folder, weights)


def embed(
    paths: str | Path | Iterable[str | Path], backbone: str, overrides: Sequence[str] = (), **options: Any
) -> Embeddings:
    """Embed audio files by a pretrained backbone without a run.

    Embeddings are kept in the store in `outputs/packs/embeddings`, and files that are known are not decoded again.

    Args:
        paths: Audio files of any length and format, folders, and lists of paths (.csv, .txt, ...).
        backbone: Name of the backbone, as in `backbone=<name>`.
        overrides: Overrides for the backbone, such as `backbone.weights=weights.pt`.
        options: Further options of `Run.embed`, such as `per="window"`.

    Returns:
        Paths and embeddings (N, D), with times, the description of the network, and the files that were skipped.

    Raises:
        UserError: The backbone has no pretrained weights, a file is missing, or none can be embedded.
    """
    from etude.api.run_object import embed_paths
    from etude.inference.model import Pretrained  # heavy: torch

    return embed_paths(Pretrained(backbone, [*overrides]), paths, **options)


def _check_overrides(composer: Composer, overrides: list[str], config_dir: str | Path | None) -> None:
    """Compose the config and refuse invalid overrides and sweeps.

    Raises:
        UserError: An override is invalid, or the overrides define a sweep.
    """
    from hydra.types import RunMode

    try:
        composed = composer.compose(overrides)
    except Exception as error:
        if errors := override_errors(overrides, folder=config_dir, error=error, sweep_only=SWEEP):
            raise UserError(format_errors(errors)) from None
        raise
    if composed.hydra.mode == RunMode.MULTIRUN or composed.hydra.runtime.choices.get("sweep"):
        sweeping = [override for override in overrides if override.startswith(("sweep=", "hydra.mode="))]
        raise UserError(f"{' '.join(sweeping or overrides)}: {SWEEP}")


def _run_task(composed: Any, folder: Path) -> None:
    """Run a composed config. Its log is printed and stored in the folder, including an error that ends the run."""
    try:
        config, resume = start.resolve_config(composed, folder)
        trainer = config["trainer"]
        if trainer.get("strategy", "auto") != "auto" or trainer.get("devices", 1) not in (1, "auto", [0]):
            if not resume:
                start.discard(folder)
            raise UserError(f"trainer: {SEVERAL_PROCESSES}")
        if start.run_in_folder(config, folder, resume):
            from etude.reports.comparison.text import log_next_steps  # heavy: numpy

            log_next_steps(folder)
    except BaseException as error:
        for handler in list(logging.getLogger().handlers):
            if isinstance(handler, ConsoleHandler):
                logging.getLogger().removeHandler(handler)  # the error is raised to the caller
        if isinstance(error, UserError) and composed.get("resume"):
            start.remove_log_handlers(folder)  # the log of the existing run should not contain this error
        elif isinstance(error, KeyboardInterrupt):
            log.warning("interrupted%s", start.resume_advice(folder))
        elif isinstance(error, Exception):
            log.error("%s", error)
        raise


class ConsoleHandler(logging.StreamHandler):
    """Handler that prints the log during a run."""


@contextmanager
def _logged() -> Iterator[None]:
    """Print the log during a run, and restore handlers and levels afterwards."""
    root = logging.getLogger()
    changed = [logging.getLogger(name) for name in ("", "pytorch_lightning", "lightning_fabric")]
    handlers, levels = list(root.handlers), [logger.level for logger in changed]
    # with the NullHandler the logging module prints no messages itself
    root.handlers[:] = [*handlers, ConsoleHandler(sys.stdout), logging.NullHandler()]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        for logger, level in zip(changed, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """Set sys.argv to the equivalent command, which the record and the trackers store."""
    original, sys.argv = sys.argv, arguments
    try:
        yield
    finally:
        sys.argv = original


def _relative_to_cwd(folder: Path) -> Path:
    """Return a folder as a relative path if it is below the current directory."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
