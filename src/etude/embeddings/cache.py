"""Disk cache of the output of frozen layers.

The frozen layers process each clip separately, the first time that it occurs in training or evaluation. The cached
values therefore do not depend on other clips of a batch, and no separate pass over the data is needed. The file is
temporary and has no name. It is removed when the process ends for any reason, and cannot be confused with the cache of
other weights. A resumed run starts a new cache. Each of several processes has its own cache, for the clips that it
processes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from etude.backbones.base import Backbone
from etude.embeddings.readouts import Readout


class EmbeddingCache:
    """Cache of the states of complete clips at a split of the backbone.

    Args:
        backbone: Backbone whose layers before the split are frozen.
        index: Index of the step before which the backbone is split.
        folder: Folder in which the temporary file is created.
        readout: Read-out of a backbone in which all layers are frozen. If it reads hidden states, their pooled values
            are cached, without its learned weights.
    """

    def __init__(self, backbone: Backbone, index: int, folder: Path, readout: Readout | None = None) -> None:
        self.backbone, self.index, self.readout = backbone, index, readout
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
        for i, clip in enumerate(rows):
            if clip not in self.entries:
                n = int(lengths[i])
                self._write(clip, *forward_to_split(self.backbone, self.index, x[i : i + 1, :n], self.readout))
        values, counts = zip(*(self._read(clip) for clip in rows), strict=True)
        return forward_from_split(
            self.backbone, self.index, [v.to(x.device) for v in values], lengths.new_tensor(counts), self.readout
        )

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


def forward_to_split(backbone: Backbone, index: int, x: Tensor, readout: Readout | None = None) -> tuple[Tensor, int]:
    """Run the steps before `index` on one clip (1, T, F).

    A network that cannot be split is run to its embedding, for any index. A network whose hidden states are read is run
    to their pooled values.

    Returns:
        Values of the state before the step (1, ...), and their valid length along the time axis.
    """
    lengths = torch.tensor([x.shape[1]], device=x.device)
    # not under no_grad, which selects another LSTM kernel on CPU with another order of summation; frozen layers have
    # no gradients anyway
    if readout is not None and readout.layers is not None:
        return readout.pool(backbone, x, lengths).detach(), 1
    if not backbone.splittable:
        return backbone(x, lengths).detach(), 1
    values, lengths, *_ = backbone.forward_to(index, x, lengths)
    return values.detach(), int(lengths)


def forward_from_split(
    backbone: Backbone, index: int, values: Sequence[Tensor], counts: Tensor, readout: Readout | None = None
) -> Tensor:
    """Run the steps from `index` to the embeddings (B, D).

    Args:
        backbone: The backbone.
        index: Index of the step before which the backbone is split.
        values: Output of `forward_to_split` for each clip (1, ...).
        counts: Valid length of each clip along the time axis (B,).
        readout: Same as in `forward_to_split`.
    """
    if readout is not None and readout.layers is not None:
        return readout.combine(torch.cat([*values]))
    if not backbone.splittable:
        return torch.cat([*values])
    return backbone.forward_from(index, backbone.collate(values, counts))
