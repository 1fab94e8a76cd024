"""Logger for TensorBoard."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.evaluation.means import targets_and_mean
from etude.loggers.base import Tracker
from etude.loggers.finished_run import FinishedRun

if TYPE_CHECKING:
    from pytorch_lightning.loggers import TensorBoardLogger

    from etude.training.lightning import Logger


class TensorBoard(Tracker):
    """Tracker that writes event files in the run's folder. A resumed run adds a file."""

    key, title = "tensorboard", "TensorBoard"
    local = ("tensorboard",)
    advice = "disable it with logger.tensorboard=null"
    inner: TensorBoardLogger | None

    def start(self, run_id: str | None) -> tuple[TensorBoardLogger, None]:
        """Open event files. They have no id, because the folder identifies the run."""
        from pytorch_lightning.loggers import TensorBoardLogger

        return TensorBoardLogger(self.folder, name="tensorboard", version="", default_hp_metric=False), None

    def log_results(self, finished: FinishedRun) -> None:
        """Log all results at the last training step."""
        from matplotlib.image import imread

        assert self.inner is not None
        writer = self.inner.experiment
        for name, value in finished.numbers.items():
            writer.add_scalar(name, value, self.step)
        for name, png in finished.figures.items():
            writer.add_image(f"figures/{name}", imread(io.BytesIO(png))[..., :3], self.step, dataformats="HWC")
        z, metadata = finished.embedding
        if len(z):
            rows = metadata.astype(str).replace(r"[\t\r\n]", " ", regex=True)  # the projector reads tab-separated lines
            writer.add_embedding(z, rows.to_numpy().tolist(), tag="test", metadata_header=list(rows.columns))
        primary: dict[str, Any] = {}
        for name, target in targets_and_mean(finished.metrics).items():
            key = f"test/{name}/{target['primary']}"
            primary |= {key: finished.numbers[key]} if key in finished.numbers else {}
        self.inner.log_hyperparams(dict(self.config), primary)

    def stop(self, failed: bool) -> None:
        """Write the remaining events and close the file."""
        assert self.inner is not None
        self.inner.experiment.close()


def tensorboard_logger(folder: Path, config: Mapping[str, Any]) -> Logger:
    """Return a logger that writes event files in the run's folder, for `tensorboard --logdir outputs`."""
    return TensorBoard(folder, config)
