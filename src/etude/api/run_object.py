"""The public object of a run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from etude.inference.model import Model
    from etude.inference.tables import Predictions
    from etude.reports.notebook import Picture
    from etude.training.learner import Learner


MARKS = ("config.yaml", "record.json")  # of a run's folder
UNFINISHED = "the run is not finished; go on with: python train.py resume="


class Run:
    """A run; in a notebook it shows its scores beside the baselines.

    Args:
        folder: The run's folder.
        checkpoint: Whose weights predict; none takes those that predicted in the run.
    """

    def __init__(self, folder: str | Path, checkpoint: str | Path | None = None) -> None:
        self.folder, self._checkpoint = Path(folder), Path(checkpoint) if checkpoint else None
        self._models: dict[str, Model] = {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """Every value, resolved, as config.yaml has them."""
        from etude.runs import readers

        return readers.config(self._file("config.yaml").parent)

    @cached_property
    def record(self) -> dict[str, Any]:
        """What the run says of itself: command, commit, versions, seed, machine, data and split."""
        from etude.runs import readers

        return readers.record(self._file("record.json").parent)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Every score with its interval, per class, beside the baselines, as metrics.json has them."""
        from etude.runs import readers

        return readers.metrics(self._file("metrics.json").parent)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """A row per clip of validation and test: truth, prediction, scores, baselines, embedding."""
        from etude.runs import readers

        return readers.table(self._file("predictions.parquet").parent)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Losses, scores and learning rate by epoch."""
        import pandas as pd

        path = self._file("curves.csv")
        try:
            return pd.read_csv(path)
        except (OSError, ValueError) as error:  # pandas' errors are of these
            raise UserError(f"{path}: cannot be read as a table ({' '.join(str(error).split())[:200]})") from error

    def scores(self) -> pd.DataFrame:
        """All scores, a row each.

        Returns:
            Columns `target`, `split` (test, val), `metric`, `value`, `low` and `high` of its 95 % interval, `n` clips
            in `groups` groups, and what the baselines `constant` and `linear` reach; NaN for what is undefined.
        """
        from etude.reports.notebook import scores

        return scores(self.metrics)

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
        from etude.reports.notebook import figures

        return figures(self.metrics, self.predictions)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that was named; else the one that predicted: best.ckpt, else last.ckpt."""
        from etude.loggers.finished_run import best

        if self._checkpoint:
            return self._checkpoint
        if (path := best(self.folder)) is None:
            raise UserError(f"{self.folder}: has no checkpoint in checkpoints/; a trial run keeps none")
        return path

    @property
    def alone(self) -> Path | None:
        """The checkpoint, where there is nothing but that."""
        return None if any((self.folder / mark).is_file() for mark in MARKS) else self._checkpoint

    def network(self) -> Learner:
        """The trained network; nothing in its file is run."""
        from etude.training.build import load_learner

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
        os.environ.setdefault(
            "OMP_WAIT_POLICY", "PASSIVE"
        )  # as in training; OpenMP reads it once, when torch is imported
        from etude.inference.model import Model
        from etude.inference.tables import predicted

        if device not in self._models:  # a loop over files reads it once
            self._models[device] = Model(self.checkpoint, device)
        return predicted(self._models[device], paths, window, overlap, batch, workers)

    @property
    def report(self) -> Path:
        """report.html."""
        return self._file("report.html")

    def show(self) -> None:
        """Print the scores of the test part beside the baselines."""
        from etude.reports.comparison.compare import show

        if self.alone:
            self._file("metrics.json")
        show([self.folder])

    def _repr_html_(self) -> str:
        from etude.reports.notebook import brief

        return brief(self)

    def __repr__(self) -> str:
        return f"etude.load({str(self._checkpoint or self.folder)!r})"

    def _file(self, name: str) -> Path:
        path = self.folder / name
        if self.alone:
            what = "a checkpoint alone" if self.alone.suffix == ".ckpt" else "an exported network"
            raise UserError(f"{self.alone}: {what} has no {name}, which is in the folder of its run")
        if not path.is_file():
            raise UserError(f"{self.folder}: has no {name}; {UNFINISHED}{self.folder}")
        return path
