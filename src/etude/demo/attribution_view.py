"""Attributions of a window of a sound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from etude.demo.predictor import PredictionResult, moments
from etude.inference.model import Model
from etude.inspection import attribution, clip_axes
from etude.inspection.clip_axes import Scene
from etude.inspection.clips import truth
from etude.reports.html import load_template
from etude.training.build import load_learner

if TYPE_CHECKING:
    from etude.training.learner import Learner


class AttributionView:
    """Draws it.

    Args:
        model: The network.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._network: Learner | None = None

    @property
    def network(self) -> Learner:
        """The network on the CPU, where attributions are computed; another copy where the first is on a GPU."""
        if self._network is None:
            here = self.model.device.type == "cpu"
            self._network = self.model.network if here else load_learner(self.model.checkpoint)
        return self._network

    def page(self, told: PredictionResult, place: int, target: str) -> str:
        """The part of the page.

        Args:
            told: What was said of a sound.
            place: Which of its windows.
            target: Of which of its targets.
        """
        window = told.heard.windows[place]
        if not window.crops:
            return load_template("demo_looked.html.j2").render(silent=True)
        network, frames = self.network, np.asarray(window.crops[0], np.float32)
        columns = slice(*network.recipe["columns"])
        scene = Scene(self.model.front, columns, len(frames), window.start)
        x, base = torch.from_numpy(frames)[None], scene.even(frames)
        lengths = torch.tensor([len(frames)])
        with torch.no_grad():
            x = network.standardiser(x, lengths)
            said = network.task.predict(network.task(network.backbone(x, lengths)))
        parts, cam = None, None
        if attribution.installed():
            parts, cam = attribution.attributions(network, x, base, said, truth({}, network), scene, target)
        about = f"The frames of the window from {window.start:.1f} to {window.end:.1f} s."
        unit = scene.front.unit if scene.view.start == 0 else ""
        return load_template("demo_looked.html.j2").render(
            silent=False, when=moments(told)[place], target=target, steps=attribution.STEPS,
            frames=clip_axes.large("looked", about, scene, base, unit, magma=True), parts=parts, cam=cam,
            attention=attribution.attention(network, x, base, scene), crops=len(window.crops),
            lacking="" if parts else attribution.LACKING,
        )  # fmt: skip
