"""A trained network for predictions, and the columns of its tables."""

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
from etude.errors import UserError
from etude.files.journal import file_hash
from etude.inference.windows import Window, WindowPlan
from etude.training.build import load_learner

if TYPE_CHECKING:
    from torch import Tensor


DEVICES = ("auto", "cpu", "cuda")
PredictionRow = dict[str, Any]
WindowOutput = tuple[np.ndarray, dict[str, np.ndarray]]  # the embedding (D,), and outputs (K,) by target


@dataclass(frozen=True)
class PredictionColumns:
    """Columns of the predictions of some targets.

    Args:
        targets: By name, `kind`, and `classes` of a label or `low` and `high` of a scalar.
    """

    targets: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, specs: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> PredictionColumns:
        """Return the columns of a network from the targets in its checkpoint."""
        kept = ("kind", "classes", "low", "high")
        return cls({name: {key: specs[name][key] for key in kept if key in specs[name]} for name in names})

    @property
    def sizes(self) -> dict[str, int]:
        """Number of values of each target."""
        return {name: len(spec.get("classes", "1")) for name, spec in self.targets.items()}

    def split(self, values: Sequence[float]) -> dict[str, Sequence[float]]:
        """Return the values of all targets, which stand one after the other, by target."""
        found, start = {}, 0
        for name, size in self.sizes.items():
            found[name] = values[start : start + size]
            start += size
        return found

    def row(self, values: Sequence[float] | None) -> PredictionRow:
        """Return predictions as cells: `<t>.pred`, and of a label `<t>.score.<class>`; None without values."""
        by_target = self.split(values) if values else {}
        row: PredictionRow = {}
        for name, spec in self.targets.items():
            each = by_target.get(name)
            if spec["kind"] == "scalar":
                row[f"{name}.pred"] = each[0] if each else None
                continue
            classes = spec["classes"]
            row[f"{name}.pred"] = classes[max(range(len(classes)), key=each.__getitem__)] if each else None
            row |= {f"{name}.score.{one}": each[i] if each else None for i, one in enumerate(classes)}
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
        checkpoint: Its file.
        device: `auto` takes a GPU where there is one.
        images: Whether a network for images is accepted.

    Attributes:
        checkpoint: Its file.
        network: The network in evaluation mode.
        front: The front end that makes its frames.
        columns: Columns of its tables.

    Raises:
        UserError: It cannot be read, does not take sound, or there is no such device.
    """

    def __init__(self, checkpoint: Path, device: str = "auto", images: bool = False) -> None:
        import torch

        if device not in DEVICES:
            raise UserError(f"device={device}: must be one of {', '.join(DEVICES)}")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("device=cuda: there is no GPU that torch can use; leave it out or say device=cpu")
        self.checkpoint, self.network = checkpoint, load_learner(checkpoint)
        self.front: FrontEnd = instantiate.make(self.network.recipe["front"])
        if not images and not self.front.reads_sound:
            raise UserError(f"{checkpoint}: this network looks at images, and takes no sound")
        self.device = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
        self.network.to(self.device)
        self.columns = PredictionColumns.of(self.network.recipe["targets"], list(self.network.task.targets))

    @cached_property
    def sha256(self) -> str:
        """Hash of the checkpoint."""
        return file_hash(self.checkpoint)

    @property
    def has_clip_length(self) -> bool:
        """Whether the checkpoint holds the length of the clips of its training."""
        return bool(self.network.recipe.get("evaluation"))

    def plan(self, window: float | None = None, overlap: float = 0.5) -> WindowPlan:
        """Return how sounds are cut for it; see `WindowPlan.of`."""
        return WindowPlan.of(self.network.recipe, self.front, window, overlap)

    def identity(self, plan: WindowPlan) -> dict[str, Any]:
        """Return what predictions depend on besides the file, as plain values for the journal."""
        return {
            "checkpoint": self.sha256,
            "window": plan.window,
            "overlap": plan.overlap,
            "targets": self.columns.targets,
        }

    def predict(self, windows: Sequence[Window]) -> list[WindowOutput]:
        """Predict windows that are not silent, in one batch; crops of a window are averaged as in evaluation.

        On a CPU each core takes a share of them: a small network has too little to do in a step to share that.
        """
        import torch

        cores = torch.get_num_threads() if self.device.type == "cpu" else 1
        if cores == 1:
            return self._predict(windows)
        share = -(-len(windows) // cores)
        parts = [windows[start : start + share] for start in range(0, len(windows), share)]
        torch.set_num_threads(1)
        try:
            return [output for part in self._cores.map(self._predict, parts) for output in part]
        finally:
            torch.set_num_threads(cores)

    def values(self, outputs: dict[str, np.ndarray]) -> list[float]:
        """Return outputs (K,) by target as probabilities and values, in the order of the columns."""
        import torch

        values = self.network.task.predict({name: torch.from_numpy(value)[None] for name, value in outputs.items()})
        return [float(value) for name in self.columns.targets for value in values[name].reshape(-1)]

    @cached_property
    def _cores(self) -> Executor:
        import torch

        return ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))

    def _predict(self, windows: Sequence[Window]) -> list[WindowOutput]:
        import torch

        crops = [crop for window in windows for crop in window.crops]
        lengths = [len(crop) for crop in crops]
        x = torch.zeros(len(crops), max(lengths), crops[0].shape[1], dtype=torch.float16)
        for clip, crop, length in zip(x.numpy(), crops, lengths, strict=True):
            clip[:length] = crop
        each = len(windows[0].crops)
        with torch.inference_mode():
            z, out = self.network(x.to(self.device), torch.tensor(lengths, device=self.device))
        embeddings = _mean(z, each)
        outputs = {name: _mean(value, each) for name, value in out.items()}
        return [(embeddings[i], {name: value[i] for name, value in outputs.items()}) for i in range(len(windows))]


def _mean(value: Tensor, crops: int) -> np.ndarray:
    """Return the mean over the crops of each window: (B * C, K) to (B, K), float32."""
    value = value.float()
    return (value.unflatten(0, (-1, crops)).mean(1) if crops > 1 else value).cpu().numpy()
