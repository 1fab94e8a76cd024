"""Decision about caching the outputs of frozen layers."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from etude.embeddings.cache import EmbeddingCache, forward_to_split
from etude.errors import UserError
from etude.training.transfer import layer_indices

if TYPE_CHECKING:
    from etude.data.datamodule import MusicData
    from etude.training.learner import Learner


log = logging.getLogger(__name__)


def build_frozen_cache(learner: Learner, data: MusicData, folder: Path) -> EmbeddingCache | None:
    """Return the cache of frozen-layer outputs, or None if it is disabled or would change the training.

    Args:
        learner: The network before its first step.
        data: Data for training and evaluation.
        folder: The run's folder. The cache is written to its disk.

    Raises:
        UserError: `transfer.cache` is true, but the cache would change the training or there is too little disk space.
    """
    transfer = learner.transfer
    if transfer is None or not transfer.cache or (transfer.cache == "auto" and not transfer.freezes_permanently):
        return None
    layers = layer_indices(learner.backbone)[-1] + 1
    frozen = transfer.frozen_layers(layers)
    split_step = learner.backbone.steps - (layers - frozen)
    reason = why_not_cacheable(learner, data, frozen, layers)
    if reason is None:
        size, same = measure_frozen_output(learner, data, split_step)
        free = shutil.disk_usage(folder).free
        if not same:
            reason = f"{type(learner.backbone).__name__} is random in its frozen layers; set its dropouts to 0"
        elif size > free:
            reason = f"it requires about {size / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB of free space"
        else:
            clips = len(data.pack.lengths)
            log.info("transfer: frozen-layer outputs are cached: %d clips, about %.0f MB", clips, size / 1e6)
            return EmbeddingCache(learner.backbone, split_step, folder, learner.readout)
    if transfer.cache == "auto":
        log.info("transfer: frozen layers are recomputed in every epoch: %s", reason)
        return None
    raise UserError(f"transfer.cache=true: {reason}")


def why_not_cacheable(learner: Learner, data: MusicData, frozen: int, layers: int) -> str | None:
    """Return why frozen-layer outputs differ between epochs, with a remedy, or None if they are equal."""
    transfer, net = learner.transfer, learner.backbone
    assert transfer is not None
    if not frozen:
        return f"transfer.train={transfer.train} keeps none of the {layers} layers frozen; use probe or a lower last_k"
    if not net.splittable and frozen < layers:
        return f"{type(net).__name__} cannot be split between layers; transfer=probe can cache its final embedding"
    if learner.readout.layers is not None and frozen < layers:
        return "a read-out of hidden states can be cached only with transfer=probe, which freezes all layers"
    if data.overfit:
        return "data.overfit memorises a few clips; set it to null"
    options = ["augment=none"] if learner.augment is not None else []
    options += ["data.crop=null"] if data.crop is not None else []
    return f"training uses different frames in every epoch; set {' and '.join(options)}" if options else None


def measure_frozen_output(learner: Learner, data: MusicData, split_step: int) -> tuple[float, bool]:
    """Run the frozen layers on one clip in training mode and in evaluation mode.

    Returns:
        Approximate size of the outputs for all clips, in bytes; and whether both modes have equal outputs.
    """
    row = int(data.rows("train")[0])
    clip = torch.tensor(data.pack.clip(row)[:, data.feature.columns])[None]
    x = learner.standardiser(clip, torch.tensor([clip.shape[1]]))
    with torch.random.fork_rng():
        train_output, _ = forward_to_split(learner.train().backbone, split_step, x, learner.readout)
        eval_output, _ = forward_to_split(learner.eval().backbone, split_step, x, learner.readout)
    learner.train()
    ratio = data.pack.lengths.sum() / clip.shape[1]  # of all frames to this clip's frames
    return train_output.nbytes * float(ratio), torch.equal(train_output, eval_output)
