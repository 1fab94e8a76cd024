"""Logger for Weights & Biases."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.loggers.base import Tracker, shorten
from etude.loggers.finished_run import FinishedRun
from etude.runs.folder import BEST

if TYPE_CHECKING:
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    from etude.training.lightning import Logger


log = logging.getLogger(__name__)
LONGEST_TAG, LONGEST_NAME = 64, 128  # characters of a tag or a job type, and of a run's name


class WeightsAndBiases(Tracker):
    """Tracker with one Weights & Biases run for each run folder.

    In Weights & Biases, the group of a run is its sweep, and the job type is its task.

    Args:
        folder: The run's folder.
        config: The run's config.
        options: Keyword arguments of `wandb.init`.
        mode: `online`, `offline` or `disabled`. None uses `WANDB_MODE`. If this is unset, the mode is `online` with
            an API key and `offline` without one.
        timeout: Maximum time for the upload at the end of a run, in seconds.
    """

    key, title = "wandb", "Weights & Biases"
    local = ("wandb",)
    advice = "logger.wandb.mode=offline requires no server and no key"
    inner: WandbLogger | None

    def __init__(
        self, folder: Path, config: Mapping[str, Any], options: Mapping[str, Any], mode: str | None, timeout: float
    ) -> None:
        super().__init__(folder, config)
        self.options, self.mode, self.timeout = dict(options), mode, timeout

    def start(self, run_id: str | None) -> tuple[WandbLogger, str | None]:
        """Start a run, or resume the run with this id. Both also work offline. The agent of a sweep selects the id."""
        import wandb
        from pytorch_lightning.loggers import WandbLogger

        mode = self.mode or os.environ.get("WANDB_MODE")
        mode = mode or ("online" if has_key() else "offline")
        if mode == "offline":
            log.info("Weights & Biases: offline; `wandb sync %s` uploads the run", self.folder / "wandb" / "offline-*")
        options = self.options | {"tags": self._tags()}
        run = wandb.init(
            **options, id=run_id, resume="allow" if run_id else None, mode=mode,  # type: ignore[arg-type]
            name=shorten(self.folder.name, LONGEST_NAME), dir=str(self.folder), config=dict(self.config),
            group=self.files.sweep, job_type=shorten(self._task, LONGEST_TAG), reinit="finish_previous",
            settings=wandb.Settings(silent=True, finish_timeout=self.timeout, finish_timeout_raises=True),
        )  # fmt: skip
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return WandbLogger(experiment=run, save_dir=str(self.folder)), run.id

    def log_results(self, finished: FinishedRun) -> None:
        """Log the summary with intervals, tables, figures, the report, and the input and output artifacts."""
        import wandb
        from PIL import Image

        run = self._run
        media: dict[str, Any] = {"report": wandb.Html(str(finished.files.report_path), inject=False)}
        media |= {f"figures/{k}": wandb.Image(Image.open(io.BytesIO(v))) for k, v in finished.figures.items()}
        for name, frame in finished.tables.items():
            table: Any = wandb.Table(dataframe=frame)
            if name.startswith("confusion/"):
                fields = {"Actual": "actual", "Predicted": "predicted", "nPredictions": "clips"}
                table = wandb.plot_table("wandb/confusion_matrix/v1", table, fields, {"title": name})
            media[name] = table
        run.log(media)
        model = finished.record["model"]
        monitored = {model["monitor"]: model["best_score"]} if model.get("monitor") else {}  # objective of a sweep
        run.summary.update(finished.numbers | monitored)
        self._log_lineage(finished)

    def stop(self, failed: bool) -> None:
        """Finish the run. Exit code 1 marks it as failed."""
        self._run.finish(exit_code=int(failed))

    @property
    def _run(self) -> wandb.Run:
        assert self.inner is not None
        return self.inner.experiment  # type: ignore[return-value]

    @property
    def _task(self) -> str:
        return self.config.get("choices", {}).get("task") or "+".join(self.config["task"]["targets"])

    def _tags(self) -> list[str]:
        """Return the user's tags, shortened to the maximum length. The run's config contains the complete tags."""
        tags = [str(tag) for tag in self.options.get("tags") or () if str(tag)]
        if long := [tag for tag in tags if len(tag) > LONGEST_TAG]:
            log.warning("Weights & Biases: %d tag(s) are longer than %d characters; shortened", len(long), LONGEST_TAG)
        return [shorten(tag, LONGEST_TAG) for tag in tags]

    def _log_lineage(self, finished: FinishedRun) -> None:
        """Log the pack and the initial weights as inputs, and the best checkpoint as output.

        Artifacts are identified by name and content. An input artifact is declared again with the same content, so it
        becomes the existing version in the project. The artifact of a pack is a file with the hashes of the pack. A
        checkpoint is not uploaded twice.
        """
        import wandb

        pack = finished.pack
        name = f"pack-{shorten(str(pack['name']), 100)}-{str(pack['hash'])[:8]}"
        name = re.sub(r"[^a-zA-Z0-9_.-]+", "-", name)
        frames = wandb.Artifact(name, "pack", metadata=pack)
        with frames.new_file("pack.json", encoding="utf-8") as file:
            json.dump(pack, file, indent=1, sort_keys=True)
        self._use(frames)
        if finished.source and (source := finished.source.read_trackers().get(self.key)):
            self._use(_checkpoint_artifact(source, finished.source.best_checkpoint, {}))
        metadata = {key: value for key, value in finished.record["model"].items() if value is not None}
        artifact = _checkpoint_artifact(self._run.id, finished.checkpoint, metadata)
        self._run.log_artifact(artifact, aliases=["best"])

    def _use(self, artifact: wandb.Artifact) -> None:
        """Declare an input artifact. Unlike `Run.use_artifact`, this works offline and does not wait."""
        self._run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def _checkpoint_artifact(run: str, checkpoint: Path | None, metadata: dict[str, Any]) -> wandb.Artifact:
    """Return the artifact of a run's checkpoint. The file is uploaded from its folder without a copy."""
    import wandb

    artifact = wandb.Artifact(f"model-{run}", "model", metadata=metadata)
    if checkpoint is not None:
        artifact.add_file(str(checkpoint), name=BEST, policy="immutable", skip_cache=True)
    return artifact


def has_key() -> bool:
    """Return whether an API key is configured, without prompting for one."""
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return bool(wandb.login(prompt=False, verify=False))  # type: ignore[call-arg]
    except TypeError:  # an older client without the argument verify
        return bool(wandb.api.api_key)


def wandb_logger(
    folder: Path,
    config: Mapping[str, Any],
    project: str = "etude",
    entity: str | None = None,
    mode: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    timeout: float = 600.0,
) -> Logger:
    """Return a logger for Weights & Biases. Without an API key it is offline (`wandb sync` uploads the run later).

    Args:
        folder: The run's folder. Offline data are written to its `wandb/`.
        config: The run's config.
        project: Project in Weights & Biases.
        entity: User or team of the project. None means the default entity of the API key.
        mode: `online`, `offline` or `disabled`. None uses `WANDB_MODE`. If this is unset, the mode is `online` with
            an API key and `offline` without one.
        tags: Tags of the run.
        notes: Description of the run.
        timeout: Maximum time for the upload at the end of a run, in seconds. Data that are not uploaded stay in the
            folder.
    """
    options = {"project": project, "entity": entity, "tags": list(tags), "notes": notes}
    return WeightsAndBiases(folder, config, options, mode, timeout)
