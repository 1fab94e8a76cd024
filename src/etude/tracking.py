"""Where curves go while a run lasts: a CSV file always, Weights & Biases or TensorBoard when asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import UserError

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger

log = logging.getLogger(__name__)


def csv(folder: Path, config: Mapping[str, Any]) -> Logger:
    """curves.csv in the run's folder: a row per logged step, kept through a resume."""
    from etude.curves import Curves

    return Curves(folder / "curves.csv")


def wandb(folder: Path, config: Mapping[str, Any], project: str = "etude", mode: str | None = None) -> WandbLogger:
    """A run in Weights & Biases; offline when this machine has no key (`wandb sync` uploads it later).

    Args:
        folder: The run's folder; offline data goes into its `wandb/`.
        config: Shown as the run's config.
        project: Project in Weights & Biases.
        mode: `online`, `offline` or `disabled`; none chooses.
    """
    import wandb as client
    from pytorch_lightning.loggers import WandbLogger

    if mode is None:
        mode = "online" if os.environ.get("WANDB_API_KEY") or client.api.api_key else "offline"
        mode = os.environ.get("WANDB_MODE", mode)
    if mode == "offline":
        log.info("Weights & Biases: offline; `wandb sync %s` uploads the run", folder / "wandb")
    run = client.init(
        project=project, name=folder.name, dir=str(folder), config=dict(config), mode=mode,  # type: ignore[arg-type]
         reinit="finish_previous",
        job_type="+".join(config["task"]["targets"]), settings=client.Settings(silent=True),
    )  # fmt: skip
    return WandbLogger(experiment=run, save_dir=str(folder))


def tensorboard(folder: Path, config: Mapping[str, Any]) -> TensorBoardLogger:
    """Event files in the run's folder, for `tensorboard --logdir outputs`."""
    try:
        from pytorch_lightning.loggers import TensorBoardLogger

        return TensorBoardLogger(folder, name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise UserError(
            "logger=tensorboard needs the extra etude[tensorboard]: pip install 'etude[tensorboard]'"
        ) from error
