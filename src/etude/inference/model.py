"""A trained network for predictions, and the columns of its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etude.audio.frontend import FrontEnd
from etude.config import instantiate
from etude.errors import UserError
from etude.inference.windows import Plan, Window
from etude.training.build import load_learner

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from torch import Tensor


Row = dict[str, Any]


@dataclass(frozen=True)
class Columns:
    """The columns of some targets.

    Args:
        targets: By name, `kind`, and `classes` of a label or `low` and `high` of a scalar.
    """

    targets: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, specs: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> Columns:
        """Those of a network, from what its checkpoint says of its targets."""
        kept = ("kind", "classes", "low", "high")
        return cls({name: {key: specs[name][key] for key in kept if key in specs[name]} for name in names})

    @property
    def sizes(self) -> dict[str, int]:
        """How many values each target has."""
        return {name: len(spec.get("classes", "1")) for name, spec in self.targets.items()}

    def split(self, values: Sequence[float]) -> dict[str, Sequence[float]]:
        """Values of all targets, one after the other, by target."""
        found, start = {}, 0
        for name, size in self.sizes.items():
            found[name] = values[start : start + size]
            start += size
        return found

    def row(self, values: Sequence[float] | None) -> Row:
        """Predictions as cells: `<t>.pred`, and of a label `<t>.score.<class>`; none where there are no values."""
        said = self.split(values) if values else {}
        row: Row = {}
        for name, spec in self.targets.items():
            each = said.get(name)
            if spec["kind"] == "scalar":
                row[f"{name}.pred"] = each[0] if each else None
                continue
            classes = spec["classes"]
            row[f"{name}.pred"] = classes[max(range(len(classes)), key=each.__getitem__)] if each else None
            row |= {f"{name}.score.{one}": each[i] if each else None for i, one in enumerate(classes)}
        return row

    @property
    def types(self) -> dict[str, type]:
        """The type of each cell of `row`."""
        return {
            name: str if name.endswith(".pred") and self.targets[name[:-5]]["kind"] == "label" else float
            for name in self.row(None)
        }


DEVICES = ("auto", "cpu", "cuda")
Judged = tuple[np.ndarray, dict[str, np.ndarray]]  # the embedding (D,), and outputs (K,) by target


class Model:
    """A network that judges windows.

    Args:
        checkpoint: Its file.
        device: `auto` takes a GPU where there is one.
        images: Whether it may be one that looks at images.

    Attributes:
        checkpoint: Its file.
        network: In evaluation mode.
        front: What makes its frames.
        columns: What its tables have.

    Raises:
        UserError: It cannot be read, hears no sound, or there is no such device.
    """

    def __init__(self, checkpoint: Path, device: str = "auto", images: bool = False) -> None:
        import torch

        from etude.reports.clip_frames import hears

        if device not in DEVICES:
            raise UserError(f"device={device}: must be one of {', '.join(DEVICES)}")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("device=cuda: there is no GPU that torch can use; leave it out or say device=cpu")
        self.checkpoint, self.network = checkpoint, load_learner(checkpoint)
        self.front: FrontEnd = instantiate.make(self.network.recipe["front"])
        if not images and not hears(self.front):
            raise UserError(f"{checkpoint}: this network looks at images, and takes no sound")
        self.device = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
        self.network.to(self.device)
        self.columns = Columns.of(self.network.recipe["targets"], list(self.network.task.targets))

    @cached_property
    def sha256(self) -> str:
        """Hash of the checkpoint, by which predictions are known to be of it."""
        import hashlib

        with self.checkpoint.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @property
    def knows_clips(self) -> bool:
        """Whether its checkpoint says how long the clips of its training were."""
        return bool(self.network.recipe.get("evaluation"))

    def plan(self, window: float | None = None, overlap: float = 0.5) -> Plan:
        """How sounds are cut for it; see `Plan.of`."""
        return Plan.of(self.network.recipe, self.front, window, overlap)

    def judge(self, windows: Sequence[Window]) -> list[Judged]:
        """Windows that are not silent, in one batch; crops of a window are averaged as in training's evaluation.

        On a CPU each core takes a share of them: a small network has too little to do in a step to share that.
        """
        import torch

        cores = torch.get_num_threads() if self.device.type == "cpu" else 1
        if cores == 1:
            return self._judge(windows)
        share = -(-len(windows) // cores)
        parts = [windows[start : start + share] for start in range(0, len(windows), share)]
        torch.set_num_threads(1)
        try:
            return [one for part in self._cores.map(self._judge, parts) for one in part]
        finally:
            torch.set_num_threads(cores)

    @cached_property
    def _cores(self) -> Executor:
        from concurrent.futures import ThreadPoolExecutor

        import torch

        return ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))

    def _judge(self, windows: Sequence[Window]) -> list[Judged]:
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

    def values(self, outputs: dict[str, np.ndarray]) -> list[float]:
        """Outputs (K,) by target as probabilities and values, in the order of `columns.values`."""
        import torch

        said = self.network.task.predict({name: torch.from_numpy(value)[None] for name, value in outputs.items()})
        return [float(value) for name in self.columns.targets for value in said[name].reshape(-1)]


def _mean(value: Tensor, crops: int) -> np.ndarray:
    """Mean over the crops of each window: (B * C, K) to (B, K), float32."""
    value = value.float()
    return (value.unflatten(0, (-1, crops)).mean(1) if crops > 1 else value).cpu().numpy()


def about(model: Model, plan: Plan) -> dict[str, Any]:
    """What results depend on besides the file: as plain values, for the journal."""
    return {
        "checkpoint": model.sha256,
        "window": plan.window,
        "overlap": plan.overlap,
        "targets": model.columns.targets,
    }
