"""Disk cache of the output of frozen layers.

A clip goes through the frozen layers alone, when it is met first, in training or in evaluation. So nothing of what is
kept depends on batch-mates, and no part of the data has to wait for another. The file has no name: it is gone with the
process, however that ends, and can never be taken for that of other weights. A run that is resumed begins a new one;
of several processes each has its own, for the clips that it meets.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from etude.backbones.base import Backbone


class EmbeddingCache:
    """Whole clips half-way through a backbone.

    Args:
        backbone: Whose layers before the cut stay as they are.
        place: Before which of its steps it is cut.
        folder: On whose disk the file is.
    """

    def __init__(self, backbone: Backbone, place: int, folder: Path) -> None:
        self.backbone, self.place = backbone, place
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed with its last user
        self.end = 0  # bytes
        self.found: dict[int, tuple[int, torch.Size, torch.dtype, int]] = {}

    def __deepcopy__(self, memo: object) -> EmbeddingCache:
        """A copy of a network, as a running mean of its weights keeps one, has the same frozen layers."""
        return self

    def embed(self, x: Tensor, lengths: Tensor, row: Tensor) -> Tensor:
        """Embed a batch of whole clips.

        Args:
            x: Frames (B, T, F) as the backbone takes them.
            lengths: Valid frames (B,), int64.
            row: What each clip is known by (B,), int64.

        Returns:
            Embedding (B, D).
        """
        rows = row.tolist()
        for i, clip in enumerate(rows):
            if clip not in self.found:
                n = int(lengths[i])
                self._write(clip, *forward_to_split(self.backbone, self.place, x[i : i + 1, :n]))
        values, counts = zip(*(self._read(clip) for clip in rows), strict=True)
        return forward_from_split(
            self.backbone, self.place, [v.to(x.device) for v in values], lengths.new_tensor(counts)
        )

    def _write(self, clip: int, values: Tensor, count: int) -> None:
        """Put the values of a clip (1, ...) behind all others, as the bytes that they are."""
        self.file.seek(self.end)
        self.file.write(values.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        self.found[clip] = (self.end, values.shape, values.dtype, count)
        self.end += values.nbytes

    def _read(self, clip: int) -> tuple[Tensor, int]:
        start, shape, dtype, count = self.found[clip]
        values = torch.empty(shape, dtype=dtype)
        self.file.seek(start)
        self.file.readinto(values.flatten().view(torch.uint8).numpy().data)
        return values, count


def forward_to_split(backbone: Backbone, place: int, x: Tensor) -> tuple[Tensor, int]:
    """One clip (1, T, F) to the values of its state before a step, (1, ...), and how much time it has there.

    A network that is whole goes through to its embedding, wherever the cut.
    """
    lengths = torch.tensor([x.shape[1]], device=x.device)
    # not without gradients: an LSTM then takes another way on CPU, to sums in another order. What is frozen has none
    if backbone.whole:
        return backbone(x, lengths).detach(), 1
    values, lengths, *_ = backbone.before(place, x, lengths)
    return values.detach(), int(lengths)


def forward_from_split(backbone: Backbone, place: int, values: Sequence[Tensor], counts: Tensor) -> Tensor:
    """What `halfway` gave of each clip, values (1, ...) and times (B,), to embeddings (B, D)."""
    if backbone.whole:
        return torch.cat([*values])
    return backbone.after(place, backbone.together(values, counts))
