"""Disk cache of the output of frozen layers, and the decision whether a training uses it.

The frozen layers process each clip separately, the first time that it occurs in training or evaluation. The cached
values therefore do not depend on other clips of a batch, and no separate pass over the data is needed. The file is
temporary and has no name. It is removed when the process ends, and cannot be confused with that of other weights. A
resumed run starts a new cache. Each of several processes has its own cache, for the clips that it processes.

If all layers are frozen, the outputs are embeddings. They are also kept in the store that runs and `etude embed` share.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from etude.backbones.base import Backbone, layer_indices
from etude.data.datamodule import MusicData
from etude.embeddings.encoders import SharedEmbeddings, encoder_identity, encoder_name
from etude.embeddings.readouts import N_STATISTICS, Readout, hidden_widths, layer_statistics
from etude.embeddings.store import FOLDER, LIMIT
from etude.errors import UserError

log = logging.getLogger(__name__)


class PartlyFrozen(Protocol):
    """Network with frozen layers, such as `etude.training.learner.Learner`.

    Attributes:
        backbone: Network with the frozen layers.
        standardiser: Standardisation of its frames.
        transfer: Choice of the trained layers, such as `etude.training.transfer.Transfer`. None trains all layers.
        augment: Augmentation of training frames, or None.
        readout: Read-out of the backbone.
    """

    @property
    def backbone(self) -> Backbone: ...  # noqa: D102

    @property
    def standardiser(self) -> nn.Module: ...  # noqa: D102

    @property
    def transfer(self) -> Any: ...  # noqa: D102

    @property
    def augment(self) -> nn.Module | None: ...  # noqa: D102

    @property
    def readout(self) -> Readout: ...  # noqa: D102

    def train(self) -> Any: ...  # noqa: D102

    def eval(self) -> Any: ...  # noqa: D102

    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102


class EmbeddingCache:
    """Cache of the states of complete clips at a split of the backbone.

    Args:
        backbone: Backbone whose layers before the split are frozen.
        index: Index of the step before which the backbone is split. None caches embeddings.
        folder: Folder in which the temporary file is created.
        readout: Read-out of a backbone in which all layers are frozen. If it reads hidden states, their pooled values
            are cached, without its learned weights.
        shared: Embeddings that runs share, if the cached values are embeddings. None uses the temporary file alone.
    """

    def __init__(
        self,
        backbone: Backbone,
        index: int | None,
        folder: Path,
        readout: Readout | None = None,
        shared: SharedEmbeddings | None = None,
    ) -> None:
        self.backbone, self.index, self.readout, self.shared = backbone, index, readout, shared
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed when the cache is garbage-collected
        self.end = 0  # bytes
        self.entries: dict[int, tuple[int, torch.Size, torch.dtype, int]] = {}

    def __deepcopy__(self, memo: object) -> EmbeddingCache:
        """Return the cache itself, because copies of the network (such as weight averages) share the frozen layers."""
        return self

    def embed(self, x: Tensor, lengths: Tensor, row: Tensor) -> Tensor:
        """Embed a batch of complete clips.

        Args:
            x: Frames (B, T, F), the input of the backbone.
            lengths: Valid frames (B,), int64.
            row: Identifier of each clip in the cache (B,), int64.

        Returns:
            Embedding (B, D).
        """
        rows = row.tolist()
        missing = {clip: i for i, clip in enumerate(rows) if clip not in self.entries}
        if missing and self.shared is not None:
            for clip, z in self.shared.read([*missing], x.device).items():
                self._write(clip, z, 1)
                del missing[clip]
        computed: dict[int, Tensor] = {}
        statistics: dict[int, Tensor] = {}
        for clip, i in missing.items():
            frames, count = x[i : i + 1, : int(lengths[i])], 1
            if self.shared is not None and self.shared.select is not None:
                statistics[clip] = layer_statistics(self.backbone, frames, lengths[i : i + 1]).detach()
                computed[clip] = self.shared.select(statistics[clip])
            else:
                computed[clip], count = forward_to_split(self.backbone, self.index, frames, self.readout)
            self._write(clip, computed[clip], count)
        if computed and self.shared is not None:
            self.shared.write(computed, statistics)
        values, counts = zip(*(self._read(clip) for clip in rows), strict=True)
        return forward_from_split(
            self.backbone, self.index, [v.to(x.device) for v in values], lengths.new_tensor(counts), self.readout
        )

    def close(self) -> None:
        """Close the file, and the embeddings that runs share."""
        self.file.close()
        if self.shared is not None:
            self.shared.close()

    def _write(self, clip: int, values: Tensor, count: int) -> None:
        """Append the values of a clip (1, ...) to the file as raw bytes."""
        self.file.seek(self.end)
        self.file.write(values.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        self.entries[clip] = (self.end, values.shape, values.dtype, count)
        self.end += values.nbytes

    def _read(self, clip: int) -> tuple[Tensor, int]:
        """Return the values of a clip (1, ...) and their length along the time axis."""
        start, shape, dtype, count = self.entries[clip]
        values = torch.empty(shape, dtype=dtype)
        self.file.seek(start)
        self.file.readinto(values.flatten().view(torch.uint8).numpy().data)
        return values, count


def forward_to_split(
    backbone: Backbone, index: int | None, x: Tensor, readout: Readout | None = None
) -> tuple[Tensor, int]:
    """Run the steps before `index` on one clip (1, T, F).

    If the index is None, or the network cannot be split, it is run to its embedding. A network whose hidden states are
    read is run to their pooled values.

    Returns:
        Values of the state before the step (1, ...), and their valid length along the time axis.
    """
    lengths = torch.tensor([x.shape[1]], device=x.device)
    # not under no_grad, which selects another LSTM kernel on CPU with another order of summation; frozen layers have
    # no gradients anyway
    if readout is not None and readout.layers is not None:
        return readout.pool(backbone, x, lengths).detach(), 1
    if index is None or not backbone.splittable:
        return backbone(x, lengths).detach(), 1
    values, lengths, *_ = backbone.forward_to(index, x, lengths)
    return values.detach(), int(lengths)


def forward_from_split(
    backbone: Backbone, index: int | None, values: Sequence[Tensor], counts: Tensor, readout: Readout | None = None
) -> Tensor:
    """Run the steps from `index` to the embeddings (B, D).

    Args:
        backbone: The backbone.
        index: Same as in `forward_to_split`.
        values: Output of `forward_to_split` for each clip (1, ...).
        counts: Valid length of each clip along the time axis (B,).
        readout: Same as in `forward_to_split`.
    """
    if readout is not None and readout.layers is not None:
        return readout.combine(torch.cat([*values]))
    if index is None or not backbone.splittable:
        return torch.cat([*values])
    return backbone.forward_from(index, backbone.collate(values, counts))


def build_frozen_cache(
    learner: PartlyFrozen, data: MusicData, folder: Path, config: Mapping[str, Any] | None = None
) -> EmbeddingCache | None:
    """Return the cache of frozen-layer outputs, or None if it is disabled or would change the training.

    Args:
        learner: The network before its first step.
        data: Data for training and evaluation.
        folder: The run's folder. The cache is written to its disk.
        config: The resolved config of a run whose embeddings are shared with other runs. None shares none.

    Raises:
        UserError: `transfer.cache` is true, but the cache would change the training or there is too little disk space;
            or the outputs are not finite.
    """
    transfer = learner.transfer
    if transfer is None or not transfer.cache or (transfer.cache == "auto" and not transfer.freezes_permanently):
        return None
    layers = layer_indices(learner.backbone)[-1] + 1
    frozen = transfer.frozen_layers(layers)
    split_step: int | None = None if frozen == layers else learner.backbone.steps - (layers - frozen)
    reason = why_not_cacheable(learner, data, frozen, layers)
    if reason is None:
        size, same = measure_frozen_output(learner, data, split_step)
        if split_step is None and not same:  # such as a dropout of the embedding, which is not in a frozen layer
            split_step = learner.backbone.steps
            size, same = measure_frozen_output(learner, data, split_step)
        free = shutil.disk_usage(folder).free
        if not same:
            reason = f"{type(learner.backbone).__name__} is random in its frozen layers; set its dropouts to 0"
        elif size > free:
            reason = f"it requires about {size / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB of free space"
        else:
            clips = len(data.pack.lengths)
            log.info("transfer: frozen-layer outputs are cached: %d clips, about %.0f MB", clips, size / 1e6)
            shared = share_embeddings(learner, data, config) if config is not None and split_step is None else None
            return EmbeddingCache(learner.backbone, split_step, folder, learner.readout, shared)
    if transfer.cache == "auto":
        log.info("transfer: frozen layers are recomputed in every epoch: %s", reason)
        return None
    raise UserError(f"transfer.cache=true: {reason}")


def share_embeddings(learner: PartlyFrozen, data: MusicData, config: Mapping[str, Any]) -> SharedEmbeddings | None:
    """Return the embeddings that runs share. None if the pack is read-only, or if the read-out has learned weights.

    Runs with other read-outs of the same network share its pass as well, unless the statistics of all layers would take
    more than half of the stores.

    Args:
        learner: The network.
        data: Its data.
        config: The resolved config of the run.
    """
    options, precision = data.pack_options, str((config.get("trainer") or {}).get("precision", "32-true"))
    if options.read_only or learner.readout.weights is not None:
        return None
    columns = (data.feature.columns.start, data.feature.columns.stop)
    readout = config.get("readout") if learner.readout.layers is not None else None

    def identity(device: torch.device) -> dict[str, Any]:
        tensors = learner.state_dict()
        return encoder_identity(
            data.feature.front, columns, learner.backbone, tensors, device, config["backbone"], readout, precision
        )

    backbone = (config.get("choices") or {}).get("backbone") or type(learner.backbone).__name__
    name = encoder_name(backbone, config["backbone"], (config.get("transfer") or {}).get("init_from"))
    contents = data.pack.index["content"].tolist()
    shares_layers = (
        learner.backbone.splittable
        and precision.startswith("32")
        and (len(contents) * statistics_size(learner.backbone, data.feature.bins) <= LIMIT / 2)
    )
    select = learner.readout.select if shares_layers else None
    return SharedEmbeddings(options.packs / FOLDER, contents, name, identity, select)


def statistics_size(backbone: Backbone, bins: int) -> int:
    """Return the size of the output of `layer_statistics` for one clip, in bytes."""
    return 4 * (backbone.dim + N_STATISTICS * sum(hidden_widths(backbone, bins)))


def why_not_cacheable(learner: PartlyFrozen, data: MusicData, frozen: int, layers: int) -> str | None:
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


def measure_frozen_output(learner: PartlyFrozen, data: MusicData, split_step: int | None) -> tuple[float, bool]:
    """Run the frozen layers on one clip in training mode and in evaluation mode.

    Returns:
        Approximate size of the outputs for all clips, in bytes; and whether both modes have equal outputs.

    Raises:
        UserError: The outputs are not finite.
    """
    row = int(data.rows("train")[0])
    clip = torch.tensor(data.pack.clip(row)[:, data.feature.columns])[None]
    x = learner.standardiser(clip, torch.tensor([clip.shape[1]]))
    with torch.random.fork_rng():
        train_output, _ = forward_to_split(learner.train().backbone, split_step, x, learner.readout)
        eval_output, _ = forward_to_split(learner.eval().backbone, split_step, x, learner.readout)
    learner.train()
    if not eval_output.isfinite().all():
        clip_id = data.pack.index["id"].iloc[row]
        raise UserError(f"backbone: its frozen layers have no finite output for the clip {clip_id}; check this clip")
    # embeddings have the same size for each clip, and states between two layers grow with the frames
    ratio = len(data.pack.lengths) if split_step is None else data.pack.lengths.sum() / clip.shape[1]
    return train_output.nbytes * float(ratio), torch.equal(train_output, eval_output)
