"""Construction of the learner and the trainer from a config."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from etude.config.instantiate import make, make_nested
from etude.config.stored import RECIPE_GROUPS, weights_override
from etude.data.batches import Batch
from etude.data.datamodule import MusicData
from etude.errors import UserError
from etude.runs.folder import RunFolder
from etude.system import machine
from etude.tasks.loss_weighting import LossWeighting
from etude.training.callbacks import OverfitPredictions, SignalHandlers, TrainingDuration
from etude.training.checkpointing import AtomicCheckpointIO, FinishedTraining
from etude.training.learner import Learner
from etude.training.lightning import (
    Callback,
    Checkpoint,
    CPUAccelerator,
    LightningDataModule,
    Logger,
    MisconfigurationException,
    Trainer,
)
from etude.training.linear_probe import ProbeLearner, ProbeStartLearner
from etude.training.network import Network, build_modules, load_weights, without_functions
from etude.training.optimiser import LinearProbe
from etude.training.transfer import Transfer

log = logging.getLogger(__name__)


def build_from_recipe(recipe: Mapping[str, Any], transfer: Transfer | None = None) -> Learner:
    """Build the untrained learner of a recipe.

    Args:
        recipe: Recipe as for `build_network`.
        transfer: Learning rates of the layers.

    Raises:
        UserError: The task has a target that is missing from the data, or is of another kind there.
    """
    standardiser, backbone, readout, task = build_modules(recipe)
    config = recipe["config"]
    augment = make(config["augment"]) if config.get("augment") else None
    decibel = torch.tensor(make(recipe["front"]).decibel[slice(*recipe["columns"])]) if "front" in recipe else None
    optimiser = make(config["optim"])
    learner_class: type[Learner] = ProbeLearner if isinstance(optimiser, LinearProbe) else Learner
    if learner_class is Learner and transfer is not None and transfer.head_init == "linear_probe":
        learner_class = ProbeStartLearner
    return learner_class(standardiser, backbone, task, optimiser, augment, dict(recipe), decibel, transfer, readout)


def build_learner(config: Mapping[str, Any], source: MusicData, resume: bool = False) -> Learner:
    """Build the network of a config with its initial weights. Sizes and standardisation come from the data.

    Args:
        config: The complete config.
        source: Data module with the sizes and statistics.
        resume: Whether the run is resumed. Its weights then come from its own checkpoint, and no other weights are
            read.

    Raises:
        UserError: Pretrained weights cannot be read, are not finite, or were trained on other frames.
    """
    names = list(config["task"]["targets"])
    counts = source.counts()
    specs = {name: dict(spec) | counts.get(name, {}) for name, spec in source.targets.items()}
    front = source.feature.front.to_dict()
    recipe = {
        "config": {k: config.get(k) for k in RECIPE_GROUPS},
        "targets": {name: spec for name, spec in specs.items() if name in names} or specs,
        "bins": source.feature.bins,
        "columns": [source.feature.columns.start, source.feature.columns.stop],
        "front": front,
        "evaluation": source.evaluation(),
    }
    transfer: Transfer | None = make(config["transfer"]) if config.get("transfer") else None
    learner = build_from_recipe(recipe, transfer)
    learner.recipe["config"] = without_functions({k: config.get(k) for k in RECIPE_GROUPS})
    if not learner.backbone.skips_standardisation:
        learner.standardiser.mean.copy_(source.mean)
        learner.standardiser.std.copy_(source.std)
    elif (required := learner.backbone.required_front_end) not in (None, front["_target_"]):
        raise UserError(
            f"backbone.weights: the weights were trained on the frames of {required}; select a feature with this front "
            "end"
        )
    warn_of_bottleneck(learner)
    if not resume:
        learner.backbone.initialise()
    if transfer is not None:
        transfer.apply(learner.backbone, learner.standardiser, front, copy=not resume)
        learner.train()  # layers that it freezes stay in evaluation mode
    check_initial_weights(learner)
    freeze_unused(learner)
    return learner


def check_initial_weights(learner: Learner) -> None:
    """Check that the initial weights of the backbone are finite.

    Raises:
        UserError: A weight or a buffer is infinite or NaN.
    """
    tensors = learner.backbone.state_dict().items()
    bad = [name for name, value in tensors if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        source = learner.transfer.init_from if learner.transfer is not None else None
        key = f"transfer.init_from={source}" if source else weights_override(learner.recipe["config"]["backbone"])
        more = f" and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        raise UserError(f"{key or 'backbone'}: {bad[0]}{more} of the backbone are not finite; use other weights")


def freeze_unused(learner: Learner) -> None:
    """Freeze parameters of the backbone that are after all layers of the read-out, because DDP refuses them."""
    trainable = {name: p for name, p in learner.backbone.named_parameters() if p.requires_grad}
    if learner.readout.layers is None or not trainable:
        return
    lengths = torch.tensor([max(1, learner.backbone.min_frames)])
    training, x = learner.training, torch.zeros(1, int(lengths), len(learner.standardiser.mean), requires_grad=True)
    z = learner.eval().readout(learner.backbone, x, lengths)
    learner.train(training)
    gradients = torch.autograd.grad(z.sum(), [x, *trainable.values()], allow_unused=True)[1:]
    unused = [name for name, gradient in zip(trainable, gradients, strict=True) if gradient is None]
    for name in unused:
        trainable[name].requires_grad_(False)
    if unused:
        log.info("readout: %d tensors of the backbone are after the layers that are read, and are not trained: %s",
                 len(unused), ", ".join(unused[:4]))  # fmt: skip


def warn_of_bottleneck(network: Network) -> None:
    """Log a warning if the embedding has fewer values than the heads have outputs.

    The outputs are then dependent on each other, such as three scalars that are functions of one number.
    """
    outputs = {name: target.size for name, target in network.task.targets.items()}
    if network.readout.dim < (total := sum(outputs.values())):
        sizes = ", ".join(f"{name} {size}" for name, size in outputs.items())
        log.warning(
            "backbone: its embedding has only %d values for %d outputs (%s), so the outputs are not independent; "
            "use a wider backbone",
            network.readout.dim, total, sizes,
        )  # fmt: skip


def compile_backbone(learner: Learner) -> None:
    """Compile the backbone with torch.compile, in place. Its weights keep their names.

    Raises:
        UserError: There is no C++ compiler. torch.compile needs one on every device.
    """
    compiler = os.environ.get("CXX", "g++")
    if not any(map(shutil.which, (compiler, "clang++"))):
        raise UserError(f"compile=true: needs a C++ compiler, and {compiler} was not found; install it or set CXX")
    # dynamic, otherwise the network is compiled again for each length of clips
    if learner.readout.layers is None:
        learner.backbone.compile(dynamic=True)
    else:  # it runs the backbone's layers without its forward
        learner.readout.compile(dynamic=True)


def load_learner(checkpoint: Path) -> Learner:
    """Load a trained network with the code that trains it. For errors see `load_network`, which starts faster."""
    return load_weights(checkpoint, build_from_recipe)


class LightningData(LightningDataModule):
    """LightningDataModule with the batches of a run for the Trainer.

    The data itself does not import Lightning, because commands that train nothing read it too.

    Args:
        data: Data of the run.
        fitted_splits: Splits whose complete clips are fitted, each clip once, as by linear probes. None trains on
            random crops of the training split.
    """

    def __init__(self, data: MusicData, fitted_splits: Sequence[str] | None = None) -> None:
        super().__init__()
        self.data, self.fitted_splits = data, fitted_splits

    def prepare_data(self) -> None:
        """Prepare the pack if it is missing or outdated."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Open the pack, and divide the batches between the devices of the Trainer."""
        self.data.setup()
        if self.trainer is not None:
            self.data.rank, self.data.world = self.trainer.global_rank, self.trainer.world_size

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled random crops of the training split, or the complete clips of the fitted splits."""
        return self.data.loader(self.fitted_splits) if self.fitted_splits else self.data.train_dataloader()

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return complete clips of the validation split."""
        return self.data.val_dataloader()

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """Return complete clips of the validation and test splits."""
        return self.data.test_dataloader()


def build_loggers(config: Mapping[str, Any], folder: Path) -> list[Logger]:
    """Build the loggers of a config, which write into the run's folder."""
    return [make(node, folder=folder, config=config) for node in (config.get("logger") or {}).values() if node]


def check_strategy(config: Mapping[str, Any], weighting: LossWeighting) -> None:
    """Refuse a strategy that shards the weights if the loss weighting or the initial heads need all of them.

    Args:
        config: The complete config.
        weighting: Weighting of the losses.

    Raises:
        UserError: The strategy cannot be combined with the weighting or the initial heads.
    """
    sharded = "fsdp" in str(config["trainer"].get("strategy")).lower()
    if sharded and (config.get("transfer") or {}).get("head_init") == "linear_probe":
        raise UserError("transfer.head_init=linear_probe: cannot set sharded heads; use trainer=ddp")
    if weighting.needs_full_gradients and sharded:
        raise UserError(
            "weighting=pcgrad: needs the whole gradient on each device; with trainer=fsdp choose another weighting"
        )


def build_trainer(config: Mapping[str, Any], folder: Path, resume: bool = False) -> Trainer:
    """Build the Trainer of a config. Its callbacks and loggers write into the run's folder.

    Args:
        config: The complete config.
        folder: The run's folder.
        resume: Whether a run is resumed with its stored config. Output paths in the config are then replaced by paths
            below the folder, because another user may have written the stored config.

    Raises:
        UserError: The trainer does not accept these values.
    """
    callbacks: list[Callback] = [SignalHandlers(), FinishedTraining(), TrainingDuration()]
    callbacks += [OverfitPredictions()] if (config.get("data") or {}).get("overfit") else []
    callbacks += [make(node) for node in (config.get("callbacks") or {}).values() if node]
    for callback in callbacks:
        if resume and getattr(callback, "dirpath", None) is not None:
            callback.dirpath = None  # type: ignore[attr-defined]
        if hasattr(callback, "dirpath") and callback.dirpath is None:
            callback.dirpath = str(RunFolder(folder).checkpoints_path)
        if getattr(callback, "save_last", None) == "link":
            raise UserError("callbacks: save_last=link is not supported, because a run folder must not contain links")
    node = dict(config["trainer"])
    for callback in () if resume else callbacks:
        _refuse_used_checkpoint(callback, folder)
    checkpoint_folders = [Path(path) for callback in callbacks if (path := getattr(callback, "dirpath", None))]
    elsewhere = [path for path in checkpoint_folders if not path.absolute().is_relative_to(folder.absolute())]
    plugins = [*make_nested(node.pop("plugins", None) or []), AtomicCheckpointIO([folder, *elsewhere])]
    arguments = {"callbacks": callbacks, "logger": build_loggers(config, folder) or False, "plugins": plugins}
    if node.get("enable_checkpointing", True) and not any(isinstance(callback, Checkpoint) for callback in callbacks):
        node["enable_checkpointing"] = False  # otherwise Lightning adds a callback that writes to its own folder
        log.warning("no checkpoint is kept, so the run cannot be resumed and its weights are lost when it ends")
    try:
        trainer = make(node, default_root_dir=str(folder), **arguments)
    except (MisconfigurationException, ValueError, RuntimeError, ImportError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"trainer: {error}") from error
    if (
        isinstance(trainer.accelerator, CPUAccelerator)
        and "bf16" in str(trainer.precision)
        and machine.has_bfloat16() is False
    ):
        log.warning(
            "trainer.precision=%s: this processor has no instructions for bfloat16, so training is many times slower "
            "than with trainer.precision=32-true",
            node["precision"],
        )
    return trainer


def _refuse_used_checkpoint(callback: Callback, folder: Path) -> None:
    """Refuse to overwrite an existing checkpoint in a folder outside of the run.

    Args:
        callback: Any callback. It can be refused only if its `dirpath` was set in the config.
        folder: The run's folder.

    Raises:
        UserError: A file of that name exists, from another user or another run.
    """
    dirpath, name = getattr(callback, "dirpath", None), getattr(callback, "filename", None)
    if not dirpath or not name or Path(dirpath).absolute().is_relative_to(folder.absolute()):
        return
    path = Path(dirpath) / f"{name}{getattr(callback, 'FILE_EXTENSION', '.ckpt')}"
    if os.path.lexists(path):
        raise UserError(f"{path}: exists, and this run would replace it; move the file or set another dirpath")
