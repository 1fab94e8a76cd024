"""Trained network for predictions, and the columns of its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.config import instantiate
from etude.data.readers import array_mismatch
from etude.errors import UserError
from etude.files.journal import file_hash
from etude.inference.windows import Window, WindowPlan
from etude.training.network import load_network

if TYPE_CHECKING:
    from torch import Tensor


DEVICES = ("auto", "cpu", "cuda")
PredictionRow = dict[str, Any]
WindowOutput = tuple[np.ndarray, dict[str, np.ndarray]]  # the embedding (D,), and outputs (K,) by target


@dataclass(frozen=True)
class PredictionColumns:
    """Columns with the predictions of a network for its targets.

    Args:
        targets: Specification by name: `kind`, and `classes` of a label or `low` and `high` of a scalar.
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
        """Return a row of a table with `<target>.pred`, and for a label `<target>.score.<class>`.

        Without values, the cells are None.

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
            row[f"{name}.pred"] = classes[max(range(len(classes)), key=scores.__getitem__)] if scores else None
            row |= {f"{name}.score.{label}": scores[i] if scores else None for i, label in enumerate(classes)}
        return row

    @property
    def types(self) -> dict[str, type]:
        """Type of each cell of `row`."""
        return {
            name: str if name.endswith(".pred") and self.targets[name[:-5]]["kind"] == "label" else float
            for name in self.row(None)
        }


class Model:
    """Trained network that predicts windows.

    Args:
        checkpoint: Path of the checkpoint.
        device: `auto` uses a GPU if there is one.
        images: Whether a network for images is accepted.

    Attributes:
        checkpoint: Path of the checkpoint.
        network: Network in evaluation mode.
        front: Front end that computes its frames.
        columns: Columns of its tables.

    Raises:
        UserError: The checkpoint cannot be read, its network does not take audio, or the device is missing.
    """

    def __init__(self, checkpoint: Path, device: str = "auto", images: bool = False) -> None:
        import torch

        if device not in DEVICES:
            raise UserError(f"device {device}: must be one of {', '.join(DEVICES)}")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("device cuda: torch cannot use a GPU on this machine; use auto or cpu")
        self.checkpoint, self.network = checkpoint, load_network(checkpoint)
        self.front: FrontEnd = instantiate.make(self.network.recipe["front"])
        if not images and not self.front.reads_sound:
            raise UserError(f"{checkpoint}: takes images, not audio; choose a network that was trained on audio")
        self.device = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
        self.network.to(self.device)
        self.columns = PredictionColumns.from_specs(self.network.recipe["targets"], list(self.network.task.targets))

    @cached_property
    def sha256(self) -> str:
        """Hash of the checkpoint."""
        return file_hash(self.checkpoint)

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

        The windows must not be silent. On a CPU the batch is divided between threads, because a small network cannot
        use several cores in one step.
        """
        import torch

        cores = torch.get_num_threads() if self.device.type == "cpu" else 1
        if cores == 1:
            return self._predict(windows)
        size = -(-len(windows) // cores)
        chunks = [windows[start : start + size] for start in range(0, len(windows), size)]
        torch.set_num_threads(1)
        try:
            return [output for outputs in self._thread_pool.map(self._predict, chunks) for output in outputs]
        finally:
            torch.set_num_threads(cores)

    def values(self, outputs: dict[str, np.ndarray]) -> list[float]:
        """Convert the outputs (K,) of each target to probabilities and values, in the order of the columns."""
        import torch

        values = self.network.task.predict({name: torch.from_numpy(value)[None] for name, value in outputs.items()})
        return [float(value) for name in self.columns.targets for value in values[name].reshape(-1)]

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
            z, out = self.network(x.to(self.device), torch.tensor(lengths, device=self.device))
        embeddings = _crop_mean(z, n_crops)
        outputs = {name: _crop_mean(value, n_crops) for name, value in out.items()}
        return [(embeddings[i], {name: value[i] for name, value in outputs.items()}) for i in range(len(windows))]


def _crop_mean(value: Tensor, n_crops: int) -> np.ndarray:
    """Average the crops of each window, from (B * C, K) to (B, K), float32."""
    value = value.float()
    return (value.unflatten(0, (-1, n_crops)).mean(1) if n_crops > 1 else value).cpu().numpy()
