"""The one entry point of every experiment: `python train.py backbone=ast task=multitask`."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from etude.build import conf_dir
from etude.errors import RunError, UserError
from etude.launch import agreed, first

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Compose, check and run; with `-m`, every point of a sweep.

    Args:
        argv: Hydra overrides and options; none takes the command line's.

    Returns:
        0, also where the results are on disk and a tracker did not get them; 1 when a run failed; or 2 when the
        command, the config or the data have to be mended.
    """
    import hydra
    from omegaconf import OmegaConf

    if argv is not None:
        sys.argv = [sys.argv[0], *argv]
    # Threads that wait for one another spin by default, and beside another busy program they spin through whole time
    # slices: an epoch of the LSTM took 42 s so, and 0.9 s with waiting threads asleep. OpenMP reads this once.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if strange := [word for word in sys.argv[1:] if word.startswith("resume=") and not _is_run(word[7:])]:
        print(f"{strange[0]}: is not a run folder, it has no config.yaml", file=sys.stderr)  # noqa: T201
        return 2
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    state: dict[str, Any] = {"started": False, "status": 0, "advice": ""}

    def job(config: Any) -> float | None:
        state["started"] = True
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            return _job(config, folder)
        except KeyboardInterrupt:
            state["advice"] = _advice(folder)
            raise
        except (UserError, RunError) as error:
            state["status"] = 2 if isinstance(error, UserError) else 1
            if config.get("resume") and isinstance(error, UserError):
                _silence()  # the run's own log is about the run
            if str(error):
                log.error("%s%s", error, "" if isinstance(error, UserError) else _advice(folder))
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            return None

    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(job)()
    except KeyboardInterrupt:
        log.warning("interrupted%s", state["advice"])
        return 130
    except SystemExit as stop:
        if stop.code in (0, None):
            return 0
        return state["status"] or (1 if state["started"] else 2)
    return state["status"]


def _job(composed: Any, folder: Path) -> float | None:
    """Run one composed config in its folder; returns the score of the best epoch, for a search."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from etude.schema import problems

    missing = OmegaConf.missing_keys(composed)
    try:
        config: Any = {} if missing else OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        _discard(folder)
        raise UserError(f"the config cannot be resolved: {str(error).splitlines()[0]}") from error
    if missing := missing or OmegaConf.missing_keys(OmegaConf.create(config)):  # also what a sweep would have filled in
        _discard(folder)
        raise UserError("\n".join(f"{key}: needs a value; add {key}=... to the command" for key in sorted(missing)))
    resume = config.pop("resume", None)
    if resume:
        config = _stored(folder, list(HydraConfig.get().overrides.task))
    elif faults := problems(config):
        _discard(folder)
        raise UserError(
            "the config has "
            + ("a fault" if len(faults) == 1 else f"{len(faults)} faults")
            + ":\n  "
            + "\n  ".join(faults)
        )
    if HydraConfig.get().mode == RunMode.MULTIRUN and config["trainer"].get("strategy", "auto") != "auto":
        # Lightning would start the second process with the whole sweep's command
        raise UserError("trainer: a sweep trains each of its jobs in one process; start jobs for several by themselves")
    from etude.run import run  # heavy, and only now needed

    known = [folder / "checkpoints", folder / "trackers.json"]  # there is something, or somebody knows of it
    trained = known[0].is_dir()
    if not first():
        logging.getLogger().setLevel(logging.ERROR)
    if first() and not resume:
        OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    try:
        metrics = run(config, folder, resume=bool(resume))
    except UserError:
        if not resume and not trained and not any(path.exists() for path in known):
            _discard(folder)
        raise
    if metrics:
        _show(folder)
    return _score(folder) if metrics else None


def _stored(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The config of the run that is resumed."""
    from omegaconf import OmegaConf

    from etude.build import vet

    others = [override for override in overrides if not override.startswith("resume=")]
    if others:
        raise UserError(f"resume goes on with the run's own config; leave out {' '.join(others)}")
    if (folder / "metrics.json").is_file():
        raise UserError(f"resume={os.path.relpath(folder)}: this run is finished; its report is there")
    config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert isinstance(config, dict)
    vet(config)
    return {str(key): value for key, value in config.items()}


@lru_cache  # asked again later in the run, and the answer must not move with the clock
def _run_folder(resume: str | None, outputs: str, name: str) -> str:
    """Where a run lives: the folder that is resumed, or a new one named by date."""
    if resume:
        return str(resume)

    def propose() -> str:
        wanted = Path(outputs) / f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{name}"
        names = [wanted, *(wanted.with_name(f"{wanted.name}_{i}") for i in range(2, 1000))]
        return str(next(path.name for path in names if not path.exists()))

    return str(Path(outputs) / agreed(propose, name))


def _is_run(folder: str) -> bool:
    return folder == "null" or (Path(folder) / "config.yaml").is_file()


def _advice(folder: Path) -> str:
    """How to go on with a run that was stopped, where it left something to go on from."""
    there = (folder / "checkpoints" / "last.ckpt").is_file()
    return f"; go on with: python train.py resume={os.path.relpath(folder)}" if there else ""


def _discard(folder: Path) -> None:
    """Take away the folder of a run that never began."""
    _silence()
    if first():
        shutil.rmtree(folder, ignore_errors=True)


def _silence() -> None:
    """Write no more into the run's train.log."""
    for handler in [h for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _show(folder: Path) -> None:
    """The result table and where the report is."""
    from etude.results.compare import show

    show([folder])
    log.info("report: %s", os.path.relpath(folder / "report.html"))


def _score(folder: Path) -> float | None:
    import json

    return json.loads((folder / "record.json").read_text(encoding="utf-8"))["model"]["best_score"]


if __name__ == "__main__":
    sys.exit(main())
