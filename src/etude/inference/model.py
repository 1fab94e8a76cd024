"""Network of a run or of a pretrained backbone for audio files, and the columns of its tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.config import instantiate
from etude.data.audio_files import array_mismatch
from etude.embeddings.encoders import check_encoder, encoder_identity, encoder_name, encoder_recipe
from etude.errors import UserError
from etude.files.journal import file_hash
from etude.inference.windows import Window, WindowPlan
from etude.runs.folder import CHECKPOINTS, find_weights
from etude.training.network import Network, build_network, load_network

if TYPE_CHECKING:
    from torch import Tensor


DEVICES = ("auto", "cpu", "cuda")
MAX_FRAMES = 1 << 17  # frames in a step of the network, with padding; 32 clips of 30 s at 100 frames per second
# The same on a CPU, where convolutional networks are faster in small steps. In one thread, EfficientAT took 14 ms for a
# clip of 10 s in steps of 2 clips and 37 ms in steps of 32, and a CNN 19 ms and 40 ms; an LSTM took 1.3 ms and 1.1 ms.
MAX_CPU_FRAMES = 1 << 11
TAGS, TOP_TAGS = "tags", 3  # target of a pretrained classifier, and number of tags in its prediction
PredictionRow = dict[str, Any]
WindowOutput = tuple[np.ndarray, dict[str, np.ndarray]]  # the embedding (D,), and outputs (K,) by target


@dataclass(frozen=True)
class PredictionColumns:
    """Columns with the predictions of a network for its targets.

    Args:
        targets: Specification by name: `kind`, and `classes` of a label or of tags, or `low` and `high` of a scalar.
            The probabilities of a label have the sum 1, and those of tags are independent of each other.
    """

    targets: dict[str, dict[str, Any]]

    @classmethod
    def from_specs(cls, specs: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> PredictionColumns:
        """Return the columns of a network.

        Args:
            specs: Specifications in the network's checkpoint, by name.
            names: Names of the network's targets.
        """
        kept = ("kind", "classes", "low", "high")
        return cls({name: {key: specs[name][key] for key in kept if key in specs[name]} for name in names})

    @property
    def sizes(self) -> dict[str, int]:
        """Number of values of each target."""
        return {name: len(spec.get("classes", "1")) for name, spec in self.targets.items()}

    def split_by_target(self, values: Sequence[float]) -> dict[str, Sequence[float]]:
        """Return the values of each target from the concatenated values of all targets."""
        by_target, start = {}, 0
        for name, size in self.sizes.items():
            by_target[name] = values[start : start + size]
            start += size
        return by_target

    def row(self, values: Sequence[float] | None) -> PredictionRow:
        """Return a row of a table with `<target>.pred`, and `<target>.score.<class>` for a label and for tags.

        The prediction for tags is the names of the most probable ones, separated by semicolons. Without values, the
        cells are None.

        Args:
            values: Concatenated values of all targets.
        """
        by_target = self.split_by_target(values) if values else {}
        row: PredictionRow = {}
        for name, spec in self.targets.items():
            scores = by_target.get(name)
            if spec["kind"] == "scalar":
                row[f"{name}.pred"] = scores[0] if scores else None
                continue
            classes = spec["classes"]
            top = rank_classes(scores, TOP_TAGS if spec["kind"] == "tags" else 1) if scores else []
            row[f"{name}.pred"] = "; ".join(classes[i] for i in top) if scores else None
            row |= {f"{name}.score.{label}": scores[i] if scores else None for i, label in enumerate(classes)}
        return row

    @property
    def types(self) -> dict[str, type]:
        """Type of each cell of `row`."""
        return {
            name: str if name.endswith(".pred") and self.targets[name[:-5]]["kind"] != "scalar" else float
            for name in self.row(None)
        }


def rank_classes(scores: Sequence[float], count: int) -> list[int]:
    """Return the indices of the largest scores in descending order. Equal scores keep their order."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])[:count]


@dataclass(frozen=True)
class Pretrained:
    """Pretrained backbone without a run.

    Args:
        name: Option of the config group `backbone`.
        overrides: Overrides of the config, such as `backbone.weights=weights.pt`.
    """

    name: str
    overrides: Sequence[str] = ()


class Model:
    """Network that predicts windows.

    Args:
        source: A run folder, a checkpoint, or a pretrained backbone.
        device: `auto` uses a GPU if there is one.
        images: Whether a network for images is accepted.
        tags: Whether the outputs of a pretrained backbone's own classifier are predicted.

    Attributes:
        checkpoint: Path of the checkpoint; None for a pretrained backbone.
        name: Name of the run, of a checkpoint without a run, or of the backbone.
        network: Network in evaluation mode.
        front: Front end that computes its frames.
        columns: Columns of its tables.

    Raises:
        UserError: The checkpoint cannot be read, the backbone has no pretrained weights or no tags, the network does
            not take audio, or the device is missing.
    """

    def __init__(
        self, source: Path | Pretrained, device: str = "auto", images: bool = False, tags: bool = False
    ) -> None:
        import torch

        if device not in DEVICES:
            raise UserError(f"device {device}: must be one of {', '.join(DEVICES)}")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("device cuda: torch cannot use a GPU on this machine; use auto or cpu")
        self.source, self.checkpoint = source, None if isinstance(source, Pretrained) else find_weights(source)
        if isinstance(source, Pretrained):
            self.name, self.network = source.name, _load_pretrained(source)
        else:
            assert self.checkpoint is not None
            self.name, self.network = _run_name(self.checkpoint), load_network(self.checkpoint)
        self.front: FrontEnd = instantiate.make(self.network.recipe["front"])
        if not images and not self.front.reads_sound:
            raise UserError(
                f"{self.checkpoint or self.name}: takes images, not audio; choose a network that was trained on audio"
            )
        self.device = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
        self.network.to(self.device)
        self.columns = PredictionColumns.from_specs(self.network.recipe["targets"], list(self.network.task.targets))
        self.predicts_tags = tags and isinstance(source, Pretrained)
        if self.predicts_tags:
            if not self.network.backbone.tag_names:
                raise UserError(f"--backbone {self.name}: has no tags to predict; use etude embed, or give a run")
            self.columns = PredictionColumns({TAGS: {"kind": "tags", "classes": [*self.network.backbone.tag_names]}})

    @cached_property
    def sha256(self) -> str:
        """Hash of the checkpoint, or of everything that determines the embeddings of a pretrained backbone."""
        if self.checkpoint is not None:
            return file_hash(self.checkpoint)
        return hashlib.sha256(json.dumps(self.encoder_identity, sort_keys=True).encode()).hexdigest()

    @cached_property
    def encoder_identity(self) -> dict[str, Any]:
        """Everything that determines an embedding except the frames."""
        network, recipe = self.network, self.network.recipe
        settings = recipe["config"]["backbone"]
        readout = recipe["config"].get("readout") if network.readout.layers is not None else None
        tensors = network.state_dict()
        return encoder_identity(
            self.front, recipe["columns"], network.backbone, tensors, self.device, settings, readout
        )

    @property
    def encoder_name(self) -> str:
        """Name of the encoder for listings: the run, or the pretrained backbone and its weights."""
        return self.name if self.checkpoint else encoder_name(self.name, self.network.recipe["config"]["backbone"])

    @property
    def has_clip_length(self) -> bool:
        """Whether the checkpoint contains the length of the training clips."""
        return bool(self.network.recipe.get("evaluation"))

    @property
    def takes_arrays(self) -> bool:
        """Whether the network takes arrays of precomputed frames, because its front end is theirs."""
        return not array_mismatch(self.front)

    def plan(self, window: float | None = None, overlap: float = 0.5) -> WindowPlan:
        """Return the window plan for the network from `WindowPlan.from_recipe`."""
        return WindowPlan.from_recipe(self.network.recipe, self.front, window, overlap)

    def identity(self, plan: WindowPlan) -> dict[str, Any]:
        """Return all settings that determine predictions, as plain values for the journal."""
        return {
            "checkpoint": self.sha256,
            "window": plan.window,
            "overlap": plan.overlap,
            "targets": self.columns.targets,
        }

    def predict(self, windows: Sequence[Window]) -> list[WindowOutput]:
        """Predict windows in one batch, and average the crops of each window as in evaluation.

        The windows must not be silent. On a CPU the batch is divided into small steps, and these between threads,
        because a small network cannot use several cores in one step.
        """
        import torch

        on_cpu = self.device.type == "cpu"
        cores, limit = (torch.get_num_threads(), MAX_CPU_FRAMES) if on_cpu else (1, MAX_FRAMES)
        longest = max(len(crop) * len(window.crops) for window in windows for crop in window.crops)
        size = max(1, min(-(-len(windows) // cores), limit // longest))
        chunks = [windows[start : start + size] for start in range(0, len(windows), size)]
        if cores == 1:
            return [output for chunk in chunks for output in self._predict(chunk)]
        torch.set_num_threads(1)
        try:
            return [output for outputs in self._thread_pool.map(self._predict, chunks) for output in outputs]
        finally:
            torch.set_num_threads(cores)

    def values(self, outputs: dict[str, np.ndarray]) -> list[float]:
        """Convert the outputs (K,) of each target to probabilities and values, in the order of the columns."""
        import torch

        if self.predicts_tags:
            return [float(value) for value in outputs[TAGS]]
        values = self.network.task.predict({name: torch.from_numpy(value)[None] for name, value in outputs.items()})
        return [float(value) for name in self.columns.targets for value in values[name].reshape(-1)]

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes that are sent to other processes."""
        return {name: value for name, value in vars(self).items() if name != "_thread_pool"}

    @cached_property
    def _thread_pool(self) -> Executor:
        import torch

        return ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))

    def _predict(self, windows: Sequence[Window]) -> list[WindowOutput]:
        import torch

        crops = [crop for window in windows for crop in window.crops]
        lengths = [len(crop) for crop in crops]
        x = torch.zeros(len(crops), max(lengths), crops[0].shape[1], dtype=torch.float16)
        for padded, crop, length in zip(x.numpy(), crops, lengths, strict=True):
            padded[:length] = crop
        n_crops = len(windows[0].crops)
        with torch.inference_mode():
            z, out = self._run_network(x.to(self.device), torch.tensor(lengths, device=self.device))
        embeddings = _crop_mean(z, n_crops)
        outputs = {name: _crop_mean(value, n_crops) for name, value in out.items()}
        return [(embeddings[i], {name: value[i] for name, value in outputs.items()}) for i in range(len(windows))]

    def _run_network(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the embeddings (B, D) and outputs (B, K) by target of raw frames (B, T, F)."""
        if not self.predicts_tags:
            return self.network(x, lengths)
        backbone, readout = self.network.backbone, self.network.readout
        x = self.network.standardiser(x, lengths)
        if readout.layers is None:
            z, tags = backbone.forward_with_tags(x, lengths)
        else:  # the hidden states of a backbone are computed without its classifier
            z, tags = readout(backbone, x, lengths), backbone.tag_probabilities(x, lengths)
        return z, {TAGS: tags}


def _crop_mean(value: Tensor, n_crops: int) -> np.ndarray:
    """Average the crops of each window, from (B * C, K) to (B, K), float32."""
    value = value.float()
    return (value.unflatten(0, (-1, n_crops)).mean(1) if n_crops > 1 else value).cpu().numpy()


def _load_pretrained(source: Pretrained) -> Network:
    """Return the network of a pretrained backbone without a task, in evaluation mode."""
    recipe = encoder_recipe(source.name, source.overrides)
    network = build_network(recipe)
    check_encoder(source.name, network.backbone, recipe["front"])
    network.backbone.initialise()
    return network.eval()


def _run_name(checkpoint: Path) -> str:
    """Return the name of the run of a checkpoint, or the name of the file if it is not in a run folder."""
    folder = checkpoint.resolve().parent
    return folder.parent.name if folder.name == CHECKPOINTS else checkpoint.name
