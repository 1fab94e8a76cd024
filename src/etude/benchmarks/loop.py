"""What a step of a run costs over a bare loop that does the same arithmetic with the same batches."""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.benchmarks.timing import Bar, Section, Timing
from etude.config.compose import conf_dir
from etude.data import datamodule
from etude.training.build import build_learner, build_trainer

if TYPE_CHECKING:
    from etude.data.datamodule import MusicData
    from etude.training.learner import Learner


ROUNDS = 7
RUN, BARE = "Lightning, as in a run", "bare loop"


def run() -> list[Section]:
    """Time epochs of a small network on scikit-learn's digits, one thread."""
    import pytorch_lightning  # noqa: F401 (it sets the levels of its own loggers)
    import torch

    warnings.simplefilter("ignore")
    for noisy in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        config, data = small(Path(folder))
        seconds = []
        for place in range(ROUNDS + 1):
            alone, within = build_learner(config, data), build_learner(config, data)
            seconds.append([bare(alone, config, data), lightning(within, config, data, Path(folder) / str(place))])
    times = Timing([BARE, RUN], np.array(seconds[1:]))  # the first round imports and allocates
    section = Section(f"A step of {data.batch_size} digits through the ConvNet; one thread", "ms")
    section.rows = [(name, 1e3 * times.median(name), times.ratio(BARE, name)) for name in times.names]
    section.bars = [Bar(f"{RUN}, against the {BARE}", times.ratio(RUN, BARE), 1.35, False)]
    section.notes = ["a step is from batch to batch within an epoch: reading, clipping and the schedule are in both"]
    return [section]


def small(folder: Path) -> tuple[dict[str, Any], MusicData]:
    """A run's config, as the command line would have it but without progress, and its data."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    words = ["experiment=reproduction/step7/digits", "trainer=cpu", "trainer.max_epochs=1", "~callbacks.progress"]
    words += ["+trainer.enable_progress_bar=false", f"data.packs={folder / 'packs'}", "choices=null"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", overrides=words), resolve=True)
    data = datamodule.build_datamodule(config)
    data.prepare_data()
    data.setup()
    return config, data


def lightning(learner: Learner, config: dict[str, Any], data: MusicData, folder: Path) -> float:
    """Train for an epoch as a run does; median seconds from one step to the next."""
    from pytorch_lightning import Callback

    class Clock(Callback):
        """When each step began."""

        def __init__(self) -> None:
            self.begun: list[float] = []

        def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
            """Look at the clock."""
            self.begun.append(time.perf_counter())

    folder.mkdir()
    clock, trainer = Clock(), build_trainer(config, folder)
    trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    trainer.fit(learner, data)
    return float(np.median(np.diff(clock.begun)))


def bare(learner: Learner, config: dict[str, Any], data: MusicData) -> float:
    """Train for an epoch without Lightning; median seconds from one step to the next."""
    from torch.nn.utils import clip_grad_norm_

    learner.train()
    batches = data.loader("train", train=True)
    made = learner.optimiser.configure(learner, len(batches))
    optimiser, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    begun = []
    for batch in batches:
        begun.append(time.perf_counter())
        z = learner.backbone(learner.standardiser(batch.x, batch.lengths), batch.lengths)
        loss, _ = learner.task.loss(learner.task(z), batch.y)
        optimiser.zero_grad()
        loss.backward()
        clip_grad_norm_(learner.parameters(), config["trainer"]["gradient_clip_val"])
        optimiser.step()
        schedule.step()
    return float(np.median(np.diff(begun)))
