"""The public object of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import UserError
from etude.reports import notebook
from etude.reports.comparison.compare import show
from etude.reports.notebook import Picture
from etude.runs.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

    from etude.inference.model import Model
    from etude.inference.tables import Predictions
    from etude.training.learner import Learner


UNFINISHED = "the run is not finished; go on with: python train.py resume="


class Run:
    """A run; in a notebook it shows its scores beside the baselines.

    Args:
        folder: The run's folder.
        checkpoint: Whose weights predict; none takes those that predicted in the run.
    """

    def __init__(self, folder: str | Path, checkpoint: str | Path | None = None) -> None:
        self._files = RunFolder(folder)
        self._checkpoint = Path(checkpoint) if checkpoint else None
        self._models: dict[str, Model] = {}

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._files.path

    @property
    def config(self) -> dict[str, Any]:
        """Every value, resolved, as config.yaml has them."""
        self._require(self._files.config_path)
        return self._files.config

    @property
    def record(self) -> dict[str, Any]:
        """Command, commit, versions, seed, machine, data and split, as record.json has them."""
        self._require(self._files.record_path)
        return self._files.record

    @property
    def metrics(self) -> dict[str, Any]:
        """Every score with its interval, per class, beside the baselines, as metrics.json has them."""
        self._require(self._files.metrics_path)
        return self._files.metrics

    @property
    def predictions(self) -> pd.DataFrame:
        """A row per clip of validation and test: truth, prediction, scores, baselines, embedding."""
        self._require(self._files.predictions_path)
        return self._files.predictions

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Losses, scores and learning rate by epoch."""
        self._require(self._files.curves_path)
        return self._files.read_curves(strict=True)

    def scores(self) -> pd.DataFrame:
        """All scores, a row each.

        Returns:
            Columns `target`, `split` (test, val), `metric`, `value`, `low` and `high` of its 95 % interval, `n` clips
            in `groups` groups, and what the baselines `constant` and `linear` reach; NaN for what is undefined.
        """
        return notebook.scores(self.metrics)

    def confusion(self, target: str | None = None, split: str = "test") -> pd.DataFrame:
        """Counts of clips, truth in rows and prediction in columns.

        Args:
            target: A label; the run's only one when it is left out.
            split: test or val.
        """
        import pandas as pd

        targets = self.metrics["targets"]
        labels = [name for name, about in targets.items() if about["kind"] == "label"]
        name = target or (labels[0] if len(labels) == 1 else "")
        if name not in labels:
            raise UserError(f"confusion: of which label? this run has {', '.join(labels) or 'none'}")
        classes, counts = targets[name]["classes"], targets[name]["splits"][split].get("confusion") or None
        frame = pd.DataFrame(counts, index=classes, columns=classes)
        return frame.rename_axis(index="true", columns="predicted")

    def figures(self) -> dict[str, Picture]:
        """Drawings by name: `scores`, and of each target `reliability/<label>`, `scatter/<scalar>`."""
        return notebook.figures(self.metrics, self.predictions)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that was named; else the one that predicted: best.ckpt, else last.ckpt."""
        return self._checkpoint or self._files.checkpoint

    @property
    def alone(self) -> Path | None:
        """The checkpoint, where there is nothing but that."""
        marks = (self._files.config_path, self._files.record_path)
        return None if any(path.is_file() for path in marks) else self._checkpoint

    def network(self) -> Learner:
        """The trained network; nothing in its file is run."""
        from etude.training.build import load_learner  # heavy: torch

        return load_learner(self.checkpoint)

    def predict(
        self,
        paths: str | Path | Iterable[str | Path],
        window: float | None = None,
        overlap: float = 0.5,
        batch: int = 32,
        workers: int | None = 1,
        device: str = "auto",
    ) -> Predictions:
        """What the network says of sounds that it has not seen.

        Args:
            paths: Sound files of any length and format, folders of them, and lists (.csv, .txt, ... of paths).
            window: Seconds of a window; none takes the length of the clips that it was judged on.
            overlap: Share of a window that the next one has again.
            batch: Windows that are judged at a time.
            workers: Processes that decode; None means one per core, for many files. They do not import the script that
                called, which therefore needs no `if __name__ == "__main__":`.
            device: auto, cpu or cuda.

        Returns:
            Its tables `files` and `windows`; a file that cannot be heard is a row that says why.
        """
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in training; OpenMP reads it as torch is imported
        from etude.inference.model import Model  # heavy: torch
        from etude.inference.tables import predicted  # heavy: torch

        if device not in self._models:  # a loop over files reads it once
            self._models[device] = Model(self.checkpoint, device)
        return predicted(self._models[device], paths, window, overlap, batch, workers)

    @property
    def report(self) -> Path:
        """report.html."""
        return self._require(self._files.report_path)

    def show(self) -> None:
        """Print the scores of the test part beside the baselines."""
        if self.alone:
            self._require(self._files.metrics_path)
        show([self.folder])

    def _repr_html_(self) -> str:
        files, alone = self._files, self.alone
        finished = not alone and files.metrics_path.is_file()
        return notebook.summary(
            self.metrics if finished else None,
            self.record if finished else {},
            name=(alone or self.folder).resolve().name,
            folder=alone.parent if alone else self.folder,
            link=files.report_path.resolve().as_uri() if finished and files.report_path.is_file() else "",
            alone=bool(alone),
        )

    def __repr__(self) -> str:
        return f"etude.load({str(self._checkpoint or self.folder)!r})"

    def _require(self, path: Path) -> Path:
        """Return the path of a file of the run.

        Raises:
            UserError: The run is not finished, or there is nothing but a checkpoint.
        """
        if self.alone:
            what = "a checkpoint alone" if self.alone.suffix == ".ckpt" else "an exported network"
            raise UserError(f"{self.alone}: {what} has no {path.name}, which is in the folder of its run")
        if not path.is_file():
            raise UserError(f"{self.folder}: has no {path.name}; {UNFINISHED}{self.folder}")
        return path
