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

from pytorch_lightning.loggers import Logger

from etude.loggers.base import Tracker, shortened
from etude.loggers.finished_run import FinishedRun
from etude.runs.folder import BEST

if TYPE_CHECKING:
    import wandb
    from pytorch_lightning.loggers import WandbLogger


log = logging.getLogger(__name__)
LONGEST_TAG, LONGEST_NAME = 64, 128  # characters of a tag or a job type, and of a run's name


class WeightsAndBiases(Tracker):
    """One run there for one folder here; a sweep's runs are a group, a run's task is its job type.

    Args:
        folder: The run's folder.
        config: The run's config.
        options: Words of `wandb.init`.
        mode: `online`, `offline`, `disabled`; none takes `WANDB_MODE`, and without it chooses by the key.
        timeout: Seconds that the end of a run waits for its upload.
    """

    key, title = "wandb", "Weights & Biases"
    local = ("wandb",)
    advice = "logger.wandb.mode=offline needs no server and no key"
    inner: WandbLogger | None

    def __init__(
        self, folder: Path, config: Mapping[str, Any], options: Mapping[str, Any], mode: str | None, timeout: float
    ) -> None:
        super().__init__(folder, config)
        self.options, self.mode, self.timeout = dict(options), mode, timeout

    def start(self, known: str | None) -> tuple[WandbLogger, str | None]:
        """Begin a run, or go on with the one of this id, offline as well. An agent of a sweep has chosen the id."""
        import wandb
        from pytorch_lightning.loggers import WandbLogger

        mode = self.mode or os.environ.get("WANDB_MODE")
        mode = mode or ("online" if has_key() else "offline")
        if mode == "offline":
            log.info("Weights & Biases: offline; `wandb sync %s` uploads the run", self.folder / "wandb" / "offline-*")
        options = self.options | {"tags": self._tags()}
        run = wandb.init(
            **options, id=known, resume="allow" if known else None, mode=mode,  # type: ignore[arg-type]
            name=shortened(self.folder.name, LONGEST_NAME), dir=str(self.folder), config=dict(self.config),
            group=self.files.sweep, job_type=shortened(self._task, LONGEST_TAG), reinit="finish_previous",
            settings=wandb.Settings(silent=True, finish_timeout=self.timeout, finish_timeout_raises=True),
        )  # fmt: skip
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return WandbLogger(experiment=run, save_dir=str(self.folder)), run.id

    def receive(self, finished: FinishedRun) -> None:
        """Summary with intervals, tables, figures, the page, and the artifacts that a run has and comes from."""
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
        chosen_by = {model["monitor"]: model["best_score"]} if model.get("monitor") else {}  # what a sweep looks at
        run.summary.update(finished.numbers | chosen_by)
        self._lineage(finished)

    def stop(self, failed: bool) -> None:
        """Exit code 1 marks a run as failed."""
        self._run.finish(exit_code=int(failed))

    @property
    def _run(self) -> wandb.Run:
        assert self.inner is not None
        return self.inner.experiment  # type: ignore[return-value]

    @property
    def _task(self) -> str:
        return self.config.get("choices", {}).get("task") or "+".join(self.config["task"]["targets"])

    def _tags(self) -> list[str]:
        """Return the user's tags, none longer than Weights & Biases takes; the run's config has them in full."""
        tags = [str(tag) for tag in self.options.get("tags") or () if str(tag)]
        if long := [tag for tag in tags if len(tag) > LONGEST_TAG]:
            log.warning("Weights & Biases: %d tag(s) are longer than %d characters and are cut", len(long), LONGEST_TAG)
        return [shortened(tag, LONGEST_TAG) for tag in tags]

    def _lineage(self, finished: FinishedRun) -> None:
        """From a pack to a run, to its best checkpoint, to the runs that begin from it.

        An artifact is known by its name and content. What this run used is named and described again, and is that very
        version of the project's: of a pack there is a card with its hashes, of a checkpoint nothing is sent twice.
        """
        import wandb

        pack = finished.pack
        name = f"pack-{shortened(str(pack['name']), 100)}-{str(pack['hash'])[:8]}"
        name = re.sub(r"[^a-zA-Z0-9_.-]+", "-", name)
        frames = wandb.Artifact(name, "pack", metadata=pack)
        with frames.new_file("pack.json", encoding="utf-8") as file:
            json.dump(pack, file, indent=1, sort_keys=True)
        self._use(frames)
        if finished.source and (source := finished.source.read_trackers().get(self.key)):
            self._use(_weights(source, finished.source.best_checkpoint, {}))
        about = {key: value for key, value in finished.record["model"].items() if value is not None}
        self._run.log_artifact(_weights(self._run.id, finished.checkpoint, about), aliases=["best"])

    def _use(self, artifact: wandb.Artifact) -> None:
        """As `Run.use_artifact`, which refuses to work offline and waits for an answer online."""
        self._run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def _weights(run: str, checkpoint: Path | None, about: dict[str, Any]) -> wandb.Artifact:
    """A run's checkpoint; the file stays where it is until it is uploaded."""
    import wandb

    artifact = wandb.Artifact(f"model-{run}", "model", metadata=about)
    if checkpoint is not None:
        artifact.add_file(str(checkpoint), name=BEST, policy="immutable", skip_cache=True)
    return artifact


def has_key() -> bool:
    """Whether this machine knows a key, without asking anybody for one."""
    import wandb

    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return bool(wandb.login(prompt=False, verify=False))  # type: ignore[call-arg]
    except TypeError:  # an older client, which has no such word
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
    options = {"project": project, "entity": entity, "tags": list(tags), "notes": notes}
    return WeightsAndBiases(folder, config, options, mode, timeout)
