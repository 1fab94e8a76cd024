"""Decision whether the output of frozen layers can be cached."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from etude.embeddings.cache import EmbeddingCache, forward_to_split
from etude.errors import UserError
from etude.training.transfer import levels

if TYPE_CHECKING:
    from etude.data.datamodule import MusicData
    from etude.training.learner import Learner


log = logging.getLogger(__name__)


def frozen_cache(learner: Learner, data: MusicData, folder: Path) -> EmbeddingCache | None:
    """The cache of a run; none where it is not wanted, or would change what is learned.

    Args:
        learner: Before its first step.
        data: What it will be trained on and judged on.
        folder: Of the run; the cache is on its disk.

    Raises:
        UserError: `transfer.cache` is true, and it would change what is learned, or there is no room for it.
    """
    transfer = learner.transfer
    if transfer is None or not transfer.cache or (transfer.cache == "auto" and not transfer.lasting):
        return None
    layers = levels(learner.backbone)[-1] + 1
    frozen = transfer.frozen(layers)
    place = learner.backbone.steps - (layers - frozen)
    reason = why_not_cacheable(learner, data, frozen, layers)
    if reason is None:
        size, same = trial(learner, data, place)
        free = shutil.disk_usage(folder).free
        if not same:
            reason = f"{type(learner.backbone).__name__} is random before what learns; set its dropouts to 0"
        elif size > free:
            reason = f"it takes about {size / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB left"
        else:
            clips = len(data.pack.lengths)
            log.info("transfer: what leaves the frozen layers is kept: %d clips, about %.0f MB", clips, size / 1e6)
            return EmbeddingCache(learner.backbone, place, folder)
    if transfer.cache == "auto":
        log.info("transfer: frozen layers are run anew in every epoch: %s", reason)
        return None
    raise UserError(f"transfer.cache=true: {reason}")


def why_not_cacheable(learner: Learner, data: MusicData, frozen: int, layers: int) -> str | None:
    """Why what leaves the frozen layers is not the same in every epoch, and what to change; none when it is."""
    transfer, net = learner.transfer, learner.backbone
    assert transfer is not None
    if not frozen:
        return (
            f"transfer.train={transfer.train} keeps none of the {layers} layers frozen; probe does, or a lower last_k"
        )
    if not net.splittable and frozen < layers:
        return f"{type(net).__name__} cannot be cut; what it says in the end can be kept, with transfer=probe"
    if data.overfit:
        return "data.overfit learns a few clips by heart; set it to null"
    changing = ["augment=none"] if learner.augment is not None else []
    changing += ["data.crop=null"] if data.crop is not None else []
    return f"training hears other frames in every epoch; set {' and '.join(changing)}" if changing else None


def trial(learner: Learner, data: MusicData, place: int) -> tuple[float, bool]:
    """Send one clip through the frozen layers, as if in training and as if in evaluation.

    Returns:
        Bytes that all clips will take, about; and whether both gave the same.
    """
    row = int(data.rows("train")[0])
    clip = torch.tensor(data.pack.clip(row)[:, data.feature.columns])[None]
    x = learner.standardiser(clip, torch.tensor([clip.shape[1]]))
    with torch.random.fork_rng():
        values, _ = forward_to_split(learner.train().backbone, place, x)
        judged, _ = forward_to_split(learner.eval().backbone, place, x)
    learner.train()
    share = data.pack.lengths.sum() / clip.shape[1]  # of all frames to this clip's
    return values.nbytes * float(share), torch.equal(values, judged)
