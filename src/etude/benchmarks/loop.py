"""Benchmark of a training step in a run against a minimal loop with the same batches and operations."""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.benchmarks.timing import Requirement, Section, Timing
from etude.config.compose import conf_dir
from etude.data import datamodule
from etude.training.build import LightningData, build_learner, build_trainer
from etude.training.lightning import Callback

if TYPE_CHECKING:
    from etude.data.datamodule import MusicData
    from etude.training.learner import Learner


ROUNDS = 7
RUN, MINIMAL = "Lightning, as in a run", "minimal loop"


def benchmark_loop() -> list[Section]:
    """Measure the training steps of a small network on scikit-learn's digits, in one thread."""
    import torch

    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        config, data = small_run(Path(folder))
        seconds = []
        for i in range(ROUNDS + 1):
            first, second = build_learner(config, data), build_learner(config, data)
            minimal = train_minimal(first, config, data)
            seconds.append([minimal, train_with_lightning(second, config, data, Path(folder) / str(i))])
    times = Timing([MINIMAL, RUN], np.array(seconds[1:]))  # the first round imports and allocates
    section = Section(f"Training step of the ConvNet with {data.batch_size} digits; one thread", "ms")
    section.rows = [(name, 1e3 * times.median(name), times.ratio(MINIMAL, name)) for name in times.names]
    section.requirements = [Requirement(f"duration: {RUN} / {MINIMAL}", times.ratio(RUN, MINIMAL), 1.35, False)]
    section.notes = [
        "a step is the time from one batch to the next within an epoch; both include reading, clipping and the schedule"
    ]
    return [section]


def small_run(folder: Path) -> tuple[dict[str, Any], MusicData]:
    """Return the config of a small run without progress bars, and its data."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    overrides = ["experiment=reproduction/step7/digits", "trainer=cpu", "trainer.max_epochs=1", "~callbacks.progress"]
    overrides += ["+trainer.enable_progress_bar=false", f"data.packs={folder / 'packs'}", "choices=null"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", overrides=overrides), resolve=True)
    data = datamodule.build_datamodule(config)
    data.prepare_data()
    data.setup()
    return config, data


def train_with_lightning(learner: Learner, config: dict[str, Any], data: MusicData, folder: Path) -> float:
    """Train for an epoch like a run, and return the median duration of a step in seconds."""

    class StepClock(Callback):
        """Callback that records the start of each step."""

        def __init__(self) -> None:
            self.start_times: list[float] = []

        def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
            """Record the time."""
            self.start_times.append(time.perf_counter())

    folder.mkdir()
    clock, trainer = StepClock(), build_trainer(config, folder)
    trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    trainer.fit(learner, LightningData(data))
    return float(np.median(np.diff(clock.start_times)))


def train_minimal(learner: Learner, config: dict[str, Any], data: MusicData) -> float:
    """Train for an epoch without Lightning, and return the median duration of a step in seconds."""
    from torch.nn.utils import clip_grad_norm_

    learner.train()
    batches = data.loader("train", train=True)
    optimisers = learner.optimiser.configure(learner, len(batches))
    optimiser, schedule = optimisers["optimizer"], optimisers["lr_scheduler"]["scheduler"]
    start_times = []
    for batch in batches:
        start_times.append(time.perf_counter())
        z = learner.backbone(learner.standardiser(batch.x, batch.lengths), batch.lengths)
        loss, _ = learner.task.loss(learner.task(z), batch.y)
        optimiser.zero_grad()
        loss.backward()
        clip_grad_norm_(learner.parameters(), config["trainer"]["gradient_clip_val"])
        optimiser.step()
        schedule.step()
    return float(np.median(np.diff(start_times)))
