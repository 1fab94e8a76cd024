"""Public object of a run, with its scores and figures for notebooks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.config.compose import program_name
from etude.errors import UserError
from etude.evaluation.formatting import NAMES, format_interval, format_number
from etude.evaluation.means import targets_and_mean
from etude.evaluation.score_summary import count_known_groups
from etude.reports import figures
from etude.reports.comparison.compare import show
from etude.reports.html import load_template
from etude.reports.svg import page_colours
from etude.runs.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

    from etude.inference.embed import Embeddings
    from etude.inference.model import Model, Pretrained
    from etude.inference.tables import Predictions
    from etude.training.learner import Learner


COLUMNS = ("target", "split", "metric", "value", "low", "high", "n", "groups", "constant", "statistics")


class NotebookFigure(str):
    """SVG code of a figure, which a notebook displays on a light background."""

    def _repr_html_(self) -> str:
        style = "".join(f"--{role}: {colour}; " for role, colour in page_colours().items())
        style += "background: var(--paper); color: var(--ink); font-family: sans-serif; max-width: 40em"
        return f'<div style="{style}">{self}</div>'

    def __repr__(self) -> str:
        return f"NotebookFigure of {len(self):,} characters"


class Run:
    """Run with its results. A notebook displays its scores and the baselines.

    Args:
        folder: The run's folder.
        checkpoint: Checkpoint for predictions. None selects the checkpoint that made the predictions of the run.
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
        """Content of config.yaml, with all values resolved."""
        self._require(self._files.config_path)
        return self._files.config

    @property
    def record(self) -> dict[str, Any]:
        """Content of record.json with command, commit, versions, seed, hardware, data and split."""
        self._require(self._files.record_path)
        return self._files.record

    @property
    def metrics(self) -> dict[str, Any]:
        """Content of metrics.json with scores, intervals, scores per class and baselines."""
        self._require(self._files.metrics_path)
        return self._files.metrics

    @property
    def predictions(self) -> pd.DataFrame:
        """Table of predictions with a row per clip of validation and test.

        It contains true values, predictions, probabilities, baselines and embeddings.
        """
        self._require(self._files.predictions_path)
        return self._files.predictions

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Losses, scores and learning rate by epoch."""
        self._require(self._files.curves_path)
        return self._files.read_curves(strict=True)

    def scores(self) -> pd.DataFrame:
        """Return all scores, one per row.

        Returns:
            Table with these columns. Undefined values are NaN.

            - `target` (`mean` for the mean over several scalars), `split` (test or val), `metric`
            - `value`, `low`, `high`: score and ends of its 95 % interval
            - `n`, `groups`: numbers of clips and of groups; `groups` is missing if they are unknown
            - `constant`, `statistics`: scores of the baselines. Other baselines of a run have further columns, such as
              `shortcuts`, or `linear` in runs of version 0.1
        """
        return _score_table(self.metrics)

    def confusion(self, target: str | None = None, split: str = "test") -> pd.DataFrame:
        """Return the confusion matrix with true classes in rows and predicted classes in columns.

        Args:
            target: Name of a label. None is allowed if the run has one label.
            split: test or val.

        Raises:
            UserError: The run has no such label, or has several and none is given.
        """
        import pandas as pd

        targets = self.metrics["targets"]
        labels = [name for name, spec in targets.items() if spec["kind"] == "label"]
        name = target or (labels[0] if len(labels) == 1 else "")
        if name not in labels:
            raise UserError(f"confusion: target must be a label of this run, which has {', '.join(labels) or 'none'}")
        classes, counts = targets[name]["classes"], targets[name]["splits"][split].get("confusion") or None
        frame = pd.DataFrame(counts, index=classes, columns=classes)
        return frame.rename_axis(index="true", columns="predicted")

    def figures(self) -> dict[str, NotebookFigure]:
        """Return the figures by name.

        The names are `scores`, and `reliability/<label>` or `scatter/<scalar>` for each target.
        """
        return _run_figures(self.metrics, self.predictions)

    @property
    def checkpoint(self) -> Path:
        """Checkpoint given to the constructor, else best.ckpt, else last.ckpt."""
        return self._checkpoint or self._files.checkpoint

    @property
    def single_checkpoint(self) -> Path | None:
        """Checkpoint or exported network without a run folder, or None."""
        paths = (self._files.config_path, self._files.record_path)
        return None if any(path.is_file() for path in paths) else self._checkpoint

    def network(self) -> Learner:
        """Load the trained network without executing code from its file."""
        from etude.training.build import load_learner  # heavy: torch

        return load_learner(self.checkpoint)

    def predict(
        self,
        paths: str | Path | Iterable[str | Path],
        window: float | None = None,
        overlap: float = 0.5,
        batch_size: int = 32,
        workers: int | None = 1,
        device: str = "auto",
    ) -> Predictions:
        """Predict audio files, or arrays of frames for a run on ready frames.

        Args:
            paths: Audio files of any length and format, arrays (.npy, .npy.gz), folders, and lists of paths (.csv,
                .txt, ...).
            window: Length of a window of audio, in seconds. None uses the length of the clips in the run's evaluation.
            overlap: Overlap of successive windows as a fraction of the window.
            batch_size: Number of windows in a batch.
            workers: Number of processes that decode files and, on a CPU, run the network. None means one per core if
                there are many files. These processes do not import the calling script, so the script needs no
                `if __name__ == "__main__":`.
            device: auto, cpu or cuda.

        Returns:
            Tables `files` and `windows`. A file that cannot be read is a row with the reason.
        """
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in training; OpenMP reads it when torch is imported
        from etude.inference.model import Model  # heavy: torch
        from etude.inference.tables import predict_tables  # heavy: torch

        if device not in self._models:  # loaded once for several calls
            self._models[device] = Model(self.checkpoint, device)
        return predict_tables(self._models[device], paths, window, overlap, batch_size, workers)

    def embed(self, paths: str | Path | Iterable[str | Path], **options: Any) -> Embeddings:
        """Embed audio files, or arrays of frames for a run on ready frames, by the network of the run.

        Args:
            paths: Audio files, arrays, folders and lists, as in `predict`.
            options: `per` (`clip` or `window`), `window`, `overlap`, `batch_size`, `workers` (default 1), `device`, and
                `packs`, the folder with the store of embeddings (default outputs/packs).

        Returns:
            Paths and embeddings (N, D), with times, the description of the network, and the files that were skipped.
        """
        return embed_paths(self.checkpoint, paths, **options)

    @property
    def report(self) -> Path:
        """Path of report.html."""
        return self._require(self._files.report_path)

    def show(self) -> None:
        """Print the scores of the test split and the baselines."""
        if self.single_checkpoint:
            self._require(self._files.metrics_path)
        show([self.folder])

    def _repr_html_(self) -> str:
        files, single = self._files, self.single_checkpoint
        finished = not single and files.metrics_path.is_file()
        return _summary_html(
            self.metrics if finished else None,
            self.record if finished else {},
            name=(single or self.folder).resolve().name,
            folder=single.parent if single else self.folder,
            link=files.report_path.resolve().as_uri() if finished and files.report_path.is_file() else "",
            checkpoint_only=bool(single),
        )

    def __repr__(self) -> str:
        return f"etude.load({str(self._checkpoint or self.folder)!r})"

    def _require(self, path: Path) -> Path:
        """Return the path of a file of the run.

        Raises:
            UserError: The run is not finished, or there is no run folder.
        """
        if checkpoint := self.single_checkpoint:
            kind = "a checkpoint" if checkpoint.suffix == ".ckpt" else "an exported network"
            raise UserError(f"{checkpoint}: {kind} has no {path.name}; load the folder of its run")
        if not path.is_file():
            raise UserError(
                f"{self.folder}: has no {path.name}; the run is not finished; resume with: {program_name()} "
                f"resume={self.folder}"
            )
        return path


def embed_paths(
    source: Path | Pretrained, paths: str | Path | Iterable[str | Path], workers: int | None = 1, **options: Any
) -> Embeddings:
    """Embed audio files by the network of a checkpoint or by a pretrained backbone. For options see `Run.embed`."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from etude.inference.embed import EmbedOptions, embed_files  # heavy: torch

    given = [paths] if isinstance(paths, str | Path) else [*paths]
    if unknown := sorted(set(options) - {item.name for item in fields(EmbedOptions)}):
        raise UserError(f"embed: has no option {unknown[0]}")
    return embed_files(source, EmbedOptions(given, workers=workers, **options))


def _score_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """Return the scores, calibration and agreement of metrics.json, one value per row, with the columns `COLUMNS`.

    The last rows are the means over the scalars, with the target `mean`, if there are several. Each other baseline of
    the run has a further column.
    """
    import pandas as pd

    rows = []
    for name, target in targets_and_mean(metrics).items():
        for split, results in target["splits"].items():
            other = {**(results.get("calibration") or {}), **(results.get("agreement") or {})}
            scores = results["scores"] | {
                key: score for key, score in other.items() if isinstance(score, dict) and "value" in score
            }
            for metric, score in scores.items():
                row = {"target": name, "split": split, "metric": metric, "n": results["n"]}
                row["groups"] = count_known_groups(results)
                baselines = {
                    key: baseline["scores"].get(metric, {}).get("value")
                    for key, baseline in results["baselines"].items()
                }
                rows.append(row | {key: score[key] for key in ("value", "low", "high")} | baselines)
    names = list(dict.fromkeys([*COLUMNS, *(key for row in rows for key in row)]))
    table = pd.DataFrame(rows, columns=names)
    counts = {"target", "split", "metric", "n", "groups"}
    numbers = dict.fromkeys((name for name in names if name not in counts), "float64")
    return table.astype(numbers | {"groups": "Int64"})  # missing if groups are unknown


def _run_figures(metrics: dict[str, Any], table: pd.DataFrame) -> dict[str, NotebookFigure]:
    """Return the figures of a run by name. Targets without test clips have no figure.

    Args:
        metrics: Content of metrics.json.
        table: Content of predictions.parquet.
    """
    drawings = {"scores": figures.forest_plot(targets_and_mean(metrics))}
    for name, target in metrics["targets"].items():
        if target["kind"] == "label":
            calibration = target["splits"]["test"].get("calibration") or {}
            drawings[f"reliability/{name}"] = figures.reliability_diagram(name, calibration)
        else:
            drawings[f"scatter/{name}"] = figures.scatter_plot(table, name, target)
    return {name: NotebookFigure(drawing) for name, drawing in drawings.items() if drawing}


def _summary_html(
    metrics: Mapping[str, Any] | None,
    record: Mapping[str, Any],
    *,
    name: str,
    folder: Path,
    link: str = "",
    checkpoint_only: bool = False,
) -> str:
    """Return a short summary of a run as HTML with escaped text.

    Args:
        metrics: Content of metrics.json. None for a run that is not finished.
        record: Content of record.json. Empty for a run that is not finished.
        name: Name of the run. It is used if the record has no name.
        folder: Folder of the run or of the checkpoint.
        link: Address of the report. Empty if there is none.
        checkpoint_only: Whether there is only a checkpoint.
    """
    rows = []
    for target_name, target in targets_and_mean(metrics).items() if metrics else ():
        results, metric = target["splits"]["test"], target["primary"]
        score = results["scores"].get(metric)
        baselines = {role: baseline["scores"].get(metric, {}) for role, baseline in results["baselines"].items()}
        rows.append(
            {
                "target": target_name,
                "metric": NAMES[metric],
                "score": format_number(score["value"]) if score else "",
                "interval": format_interval(score) if score else "",
                "baselines": [
                    format_number(baselines[role].get("value")) if baselines.get(role) else ""
                    for role in ("statistics" if "statistics" in baselines else "linear", "constant")
                ],
                "n": results["n"],
                "groups": groups if (groups := count_known_groups(results)) is not None else "unknown",
            }
        )
    values = {"name": record.get("name") or name, "rows": rows, "folder": str(folder), "link": link}
    values |= {"checkpoint_only": checkpoint_only, "finished": metrics is not None}
    values |= {"trial": record.get("trial"), "command": record.get("command", "")}
    return load_template("run.html.j2").render(values)
