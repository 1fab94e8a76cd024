"""Musicnn, a convolutional network over log-mel patches of three seconds that was trained to tag music.

Source: Pons & Serra, 2019, "musicnn: Pre-trained convolutional neural networks for music audio tagging". Filters over
many bins and few frames respond to timbre, filters over one bin and many frames to rhythm (Pons, Lidy & Serra, 2016).
The network processes each patch of a clip separately. The embedding of a clip is the mean over its patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from etude.audio.frontend_modules import MaskedBatchNorm, valid
from etude.backbones.base import Backbone, State, find_weights_file, read_tag_names
from etude.errors import UserError
from etude.files.safe_read import read_tensors

PATCH = 187  # frames, 3 s
EMBEDDINGS = ("penultimate", "mean_pool", "max_pool", "mean_max_pool")
TIMBRAL, TEMPORAL = (0.4, 0.7), (128, 64, 32)  # shares of all bins, and numbers of frames, that the filters cover
CHUNK = 2  # patches
N_TIMBRAL, N_TEMPORAL, N_MIDDLE, N_DENSE = 204, 51, 64, 200  # filters of each branch and layer, and dense units


class Musicnn(Backbone):
    """Convolutions over patches of 187 frames without overlap, pooled over time, and a dense layer.

    Frames after the last complete patch are not used, as in the authors' implementation. A clip that is shorter than a
    patch is one patch, whose padding has no influence.

    Args:
        bins: Feature bins per frame, F.
        weights: Pretrained weights, which require `feature=musicnn`: `msd` (trained on the Million Song Dataset) or
            `mtt` (trained on MagnaTagATune), which are embedded, or a file with the same tensor names. None for random
            weights and standardised frames.
        embedding: Embedding of a patch: `penultimate`, the dense layer (200); `mean_pool` or `max_pool`, the mean or
            maximum over time of all convolutions (753); or `mean_max_pool`, the mean and then the maximum (1506).

    Attributes:
        dim: Size of the embedding, D.
        tag_names: Tags of the pretrained classifier; empty if the file of the weights does not name them.
        processes_all_patches: Whether to process unused patches too, as an exported graph does.

    Raises:
        ValueError: `embedding` is unknown.
    """

    required_front_end = "etude.audio.log_mel.MusicnnFront"
    embedded_weights: Mapping[str, str] = MappingProxyType({"msd": "msd_musicnn", "mtt": "mtt_musicnn"})
    axis = 0  # of patches
    patch_frames = PATCH
    min_frames = 2 * PATCH

    def __init__(self, bins: int, weights: str | None = None, embedding: str = "penultimate") -> None:
        super().__init__()
        if embedding not in EMBEDDINGS:
            raise ValueError(f"backbone.embedding must be one of {', '.join(EMBEDDINGS)}, got {embedding!r}")
        self.weights, self.embedding, self.skips_standardisation = weights, embedding, weights is not None
        self.tag_names = read_tag_names(weights, self.embedded_weights)
        self.front = Front(bins)
        width = self.front.width
        self.middle = nn.ModuleList([Middle(width), Middle(N_MIDDLE), Middle(N_MIDDLE)])
        self.pooled_width = width + N_MIDDLE * len(self.middle)
        self.back = Back(2 * self.pooled_width) if embedding == "penultimate" else None
        self.dim = {"penultimate": N_DENSE, "mean_max_pool": 2 * self.pooled_width}.get(embedding, self.pooled_width)
        self.steps = len(self.layers())
        self.processes_all_patches = False
        self._classifier: tuple[Back, nn.Linear] | None = None  # not a submodule, because it is not trained

    def begin(self, x: Tensor, lengths: Tensor) -> State:
        """Return the used patches of frames (B, T, F), with the values from which `step` and `end` compute masks.

        Returns:
            Patches (N, 187, F), or (B, T, F) if T is less than 187; valid frames of each clip (B,) and of each patch
            (N,); and the mask of used patches (B, P).
        """
        count = max(1, x.shape[1] // PATCH)
        frames, used = self._divide(lengths, count)
        patches = x[:, None] if x.shape[1] < PATCH else x[:, : count * PATCH].unflatten(1, (count, PATCH))
        return patches.flatten(0, 1) if self.processes_all_patches else patches[used], lengths, frames, used

    def step(self, index: int, state: State) -> State:
        """Run the front end, a convolution (the last one also pools over time) or the dense layer, on each patch."""
        x, lengths, frames, used = state
        if index > len(self.middle):
            assert self.back is not None
            return self.back(x, frames), lengths, frames, used
        x = self._convolve(index, x, frames)
        return pool(x, frames) if index == len(self.middle) else x, lengths, frames, used

    def end(self, state: State) -> Tensor:
        """Return the mean over the patches of each clip, (B, D)."""
        x, _, _, used = state
        if self.embedding != "penultimate":
            maximum, mean = x.unflatten(1, (-1, 2)).unbind(2)
            x = torch.cat({"mean_pool": [mean], "max_pool": [maximum]}.get(self.embedding, [mean, maximum]), 1)
        return self._mean_of_clips(x, used)

    def collate(self, values: Sequence[Tensor], lengths: Tensor) -> State:
        """Collate the patches of clips, with short patches padded to the longest patch."""
        if (axis := {3: 1, 4: 2}.get(values[0].ndim)) is not None:  # the time axis within a patch
            longest = max(clip.shape[axis] for clip in values)
            after = (0, 0) * (values[0].ndim - 1 - axis)
            values = [F.pad(clip, (*after, 0, longest - clip.shape[axis])) for clip in values]
        return torch.cat([*values]), lengths, *self._divide(lengths, int(patch_counts(lengths).max()))

    def hidden_states(self, x: Tensor, lengths: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Compute the normalised input and the output of each layer.

        Args:
            x: Frames (B, T, F).
            lengths: Valid frames (B,).

        Returns:
            Values (B, T', D) and valid lengths (B,) of the input (D = F), the front end (561), the three convolutions
            (64 each), and the dense layer (200) over patches instead of frames, if it is part of the network.
        """
        return self._run_with_states(x, lengths)[0]

    def _run_with_states(self, x: Tensor, lengths: Tensor) -> tuple[list[tuple[Tensor, Tensor]], State]:
        values, _, frames, used = self.begin(x, lengths)
        n_used = torch.where(lengths < PATCH, lengths, lengths // PATCH * PATCH)
        states = [(self._by_clip(self.front.normalise(values, frames), used).flatten(1, 2), n_used)]
        for index in range(len(self.middle) + 1):
            values = self._convolve(index, values, frames)
            newest = values if index == 0 else values[:, -N_MIDDLE:]
            states.append((self._by_clip(newest[..., 0].transpose(1, 2), used).flatten(1, 2), n_used))
        last = pool(values, frames)
        if self.back is not None:
            last = self.back(last, frames)
            states.append((self._by_clip(last, used), patch_counts(lengths)))
        return states, (last, lengths, frames, used)

    def layers(self) -> list[nn.Module]:
        """Return the front end, the three convolutions, and the dense layer if it is part of the network."""
        return [self.front, *self.middle, *([] if self.back is None else [self.back])]

    def initialise(self) -> None:
        """Load the pretrained weights.

        Raises:
            UserError: There are no such weights, or the file contains the weights of another network.
        """
        if self.weights is None:
            return
        path = find_weights_file(self.weights, self.embedded_weights)
        used = tuple(name.partition(".")[0] + "." for name, _ in self.named_parameters())
        tensors = {name: value for name, value in read_tensors(path).items() if name.startswith(used)}
        try:
            self.load_state_dict(tensors)
        except RuntimeError as error:
            raise UserError(
                f"backbone.weights={self.weights}: the file does not fit a musicnn with {self.front.bins} bins; use "
                f"feature=musicnn and weights with the tensor names of {', '.join(self.embedded_weights)}"
            ) from error

    def for_export(self) -> Self:
        """Return a copy that processes all patches of a batch, because a graph cannot select the valid ones."""
        copy = super().for_export()
        copy.processes_all_patches, copy.front.chunk = True, None
        return copy

    def tag_probabilities(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Compute the probabilities of the tags by the pretrained classifier.

        They are meaningful while the convolutions have their pretrained weights.

        Args:
            x: Frames (B, T, F) of `MusicnnFront`.
            lengths: Valid frames (B,).

        Returns:
            Means over the patches of each clip (B, K), in the order of `tag_names`.

        Raises:
            UserError: The network has no pretrained weights, or their file has no classifier.
        """
        return self._classify(self.forward_to(len(self.middle) + 1, x, lengths))

    def forward_with_tags(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the embedding (B, D) and the probabilities of `tag_probabilities` (B, K) in one pass."""
        pooled = self.forward_to(len(self.middle) + 1, x, lengths)
        return self.forward_from(len(self.middle) + 1, pooled), self._classify(pooled)

    def _classify(self, state: State) -> Tensor:
        """Return the probabilities (B, K) of the pretrained classifier from pooled patches."""
        pooled, _, frames, used = state
        back, last = (layer.to(pooled.device) for layer in self._read_classifier())
        return self._mean_of_clips(last(back(pooled, frames)).sigmoid(), used)

    def _divide(self, lengths: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the valid frames of each processed patch (N,), and the mask of used patches (B, P)."""
        frames = (lengths[:, None] - PATCH * torch.arange(count, device=lengths.device)).clamp(1, PATCH)
        used = valid(patch_counts(lengths), count)
        return frames.flatten() if self.processes_all_patches else frames[used], used

    def _convolve(self, index: int, x: Tensor, frames: Tensor) -> Tensor:
        """Run the front end, or append the output of a convolution to the channels (N, C, T, 1) before it."""
        if index == 0:
            return self.front(x, frames)
        newest = x if index == 1 else x[:, -N_MIDDLE:]
        out = self.middle[index - 1](newest, frames)
        return torch.cat([x, out if index == 1 else out + newest], 1)

    def _by_clip(self, x: Tensor, used: Tensor) -> Tensor:
        """Return values of patches (N, ...) by clip (B, P, ...), with zeros for unused patches."""
        if self.processes_all_patches:
            return x.unflatten(0, used.shape)
        values = x.new_zeros(*used.shape, *x.shape[1:])
        values[used] = x
        return values

    def _mean_of_clips(self, x: Tensor, used: Tensor) -> Tensor:
        """Return the mean (B, D) over the used patches of each clip, from values (N, D)."""
        return (self._by_clip(x, used) * used[..., None]).sum(1) / used.sum(1, keepdim=True)

    def _read_classifier(self) -> tuple[Back, nn.Linear]:
        """Return the dense layer and the output layer of the pretrained classifier."""
        if self._classifier is None:
            if self.weights is None:
                raise UserError("backbone.weights=null: random weights have no classifier; set msd, mtt or a file")
            tensors = read_tensors(find_weights_file(self.weights, self.embedded_weights))
            back = Back(2 * self.pooled_width)
            try:
                last = nn.Linear(N_DENSE, len(tensors["tags.bias"]))
                for prefix, layer in (("back.", back), ("tags.", last)):
                    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                    layer.load_state_dict(own)
            except (KeyError, RuntimeError) as error:
                raise UserError(f"backbone.weights={self.weights}: the file has no classifier of musicnn") from error
            self._classifier = back.eval().requires_grad_(False), last.eval().requires_grad_(False)
        return self._classifier


class Front(nn.Module):
    """Front end of a normalisation, two timbral and three temporal branches, from (N, T, F) to (N, 561, T, 1).

    Args:
        bins: Number of bins, F.

    Attributes:
        chunk: Number of patches that are processed together in evaluation; None for all. The outputs of the timbral
            filters have 13 MB per patch, and allocating them for many patches at once doubles the time.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins, self.norm = bins, _norm(1)
        self.chunk: int | None = CHUNK
        sizes = [(N_TIMBRAL, 7, max(1, int(share * bins))) for share in TIMBRAL]
        sizes += [(N_TEMPORAL, frames, 1) for frames in TEMPORAL]
        self.branches = nn.ModuleList([Branch(*size) for size in sizes])
        self.width = sum(size[0] for size in sizes)

    def normalise(self, x: Tensor, frames: Tensor) -> Tensor:
        """Normalise patches (N, T, F) with `frames` (N,) valid frames, and set the others to 0."""
        return self.norm(x[:, None], frames)[:, 0] * valid(frames, x.shape[1])[..., None]

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """Compute the channels of all branches."""
        x = self.normalise(x, frames)[:, None]
        has_hooks = any(module._forward_hooks for module in self.modules())  # hooks receive all patches at once
        if self.training or has_hooks or self.chunk is None or not x.is_cpu:  # as batch norm does in training
            return self._run_branches(x, frames)
        chunks = zip(x.split(self.chunk), frames.split(self.chunk), strict=True)
        return torch.cat([self._run_branches(*chunk) for chunk in chunks])

    def _run_branches(self, x: Tensor, frames: Tensor) -> Tensor:
        """Return the channels of all branches (N, 561, T, 1) of normalised patches (N, 1, T, F)."""
        return torch.cat([branch(x, frames) for branch in self.branches], 1)


class Branch(nn.Module):
    """Convolution, ReLU, batch norm and maximum over the bins, from (N, 1, T, F) to (N, C, T, 1).

    Args:
        channels: Number of filters, C.
        frames: Length of the filters. The input is padded to keep T.
        bins: Height of the filters. The input is not padded.
    """

    def __init__(self, channels: int, frames: int, bins: int) -> None:
        super().__init__()
        self.padding = (0, 0, (frames - 1) // 2, frames // 2)  # as in TensorFlow, the larger half is behind
        self.conv, self.relu, self.norm = nn.Conv2d(1, channels, (frames, bins)), nn.ReLU(True), _norm(channels)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """Run the branch on patches with `frames` (N,) valid frames."""
        return self.norm(self.relu(self.conv(F.pad(x, self.padding))), frames).amax(3, keepdim=True)


class Middle(nn.Module):
    """Convolution over time of width 7, ReLU and batch norm, from (N, C, T, 1) to (N, 64, T, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, N_MIDDLE, (7, 1), padding=(3, 0))
        self.relu, self.norm = nn.ReLU(), _norm(N_MIDDLE)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """Run the convolution on patches with `frames` (N,) valid frames."""
        x = x * valid(frames, x.shape[2])[:, None, :, None]
        return self.norm(self.relu(self.conv(x)), frames)


class Back(nn.Module):
    """Batch norm, dense layer, ReLU and batch norm of pooled patches, from (N, C) to (N, 200)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.dense = _norm(width), nn.Linear(width, N_DENSE)
        self.relu, self.dense_norm = nn.ReLU(), _norm(N_DENSE)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        """Run the layer on pooled patches."""
        ones = torch.ones_like(frames)
        x = self.relu(self.dense(self.norm(x[..., None, None], ones).flatten(1)))
        return self.dense_norm(x[..., None, None], ones).flatten(1)


def pool(x: Tensor, frames: Tensor) -> Tensor:
    """Pool patches (N, C, T, 1) over `frames` (N,) valid frames, and return [maximum, mean] per channel (N, 2 C)."""
    x, mask = x[..., 0], valid(frames, x.shape[2])[:, None]
    maximum, mean = x.masked_fill(~mask, -torch.inf).amax(2), (x * mask).sum(2) / frames[:, None]
    return torch.stack([maximum, mean], 2).flatten(1)


def patch_counts(lengths: Tensor) -> Tensor:
    """Return the number of used patches (B,) of clips with `lengths` (B,) valid frames."""
    return (lengths // PATCH).clamp(min=1)


def _norm(channels: int) -> MaskedBatchNorm:
    """Return a batch norm with the constant of the authors."""
    return MaskedBatchNorm(channels, eps=1e-3)
