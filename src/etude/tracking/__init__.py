"""Where a run is told to while it lasts and when it is over: a CSV file always, and any trackers that are asked for.

What a tracker gets is made once, from the run's folder (`finished.py`), and is the same for each; a tracker only hands
it over. The folder is whole before anything of it is handed over, and a tracker that fails costs the run nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger


def csv(folder: Path, config: Mapping[str, Any]) -> Logger:
    """curves.csv in the run's folder: a row per logged step, kept through a resume."""
    from etude.curves import Curves

    return Curves(folder / "curves.csv")


def wandb(
    folder: Path,
    config: Mapping[str, Any],
    project: str = "etude",
    entity: str | None = None,
    mode: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    timeout: float = 600.0,
) -> Logger:
    """A run in Weights & Biases; offline when this machine has no key (`wandb sync` uploads it later).

    Args:
        folder: The run's folder; offline data goes into its `wandb/`.
        config: Shown as the run's config.
        project: Project in Weights & Biases.
        entity: Who the project belongs to, a user or a team; none is the key's own.
        mode: `online`, `offline` or `disabled`; none takes `WANDB_MODE`, and without it chooses by the key.
        tags: Words to find the run by.
        notes: What the run is about.
        timeout: Seconds that the end of a run waits for its upload. What is not uploaded then stays in the folder.
    """
    from etude.tracking.to_wandb import WeightsAndBiases

    options = {"project": project, "entity": entity, "tags": list(tags), "notes": notes}
    return WeightsAndBiases(folder, config, options, mode, timeout)


def tensorboard(folder: Path, config: Mapping[str, Any]) -> Logger:
    """Event files in the run's folder, for `tensorboard --logdir outputs`."""
    from etude.tracking.to_tensorboard import TensorBoard

    return TensorBoard(folder, config)


def mlflow(
    folder: Path,
    config: Mapping[str, Any],
    experiment: str = "etude",
    uri: str | None = None,
    tags: Mapping[str, str] | None = None,
    notes: str | None = None,
) -> Logger:
    """A run in MLflow: on a server, or in a file of this machine.

    Args:
        folder: The run's folder.
        config: Its values are the run's parameters.
        experiment: Experiment in MLflow.
        uri: A server (`http://host:5000`) or a database (`sqlite:///runs.db`); none takes `MLFLOW_TRACKING_URI`, and
            without it `mlflow.db` in the folder of outputs.
        tags: Names and values to find the run by.
        notes: What the run is about.
    """
    from etude.tracking.to_mlflow import MLflow

    return MLflow(folder, config, experiment, uri, dict(tags or {}), notes)
