"""Where the network looked in a window of a sound: attributions, Grad-CAM and attention over its frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from etude import build
from etude.demo.ear import Told, moments
from etude.inspection import attribution, explain, pictures
from etude.inspection.clips import truth
from etude.inspection.scene import Scene
from etude.prediction.model import Model
from etude.results.template import template

if TYPE_CHECKING:
    from etude.learner import Learner


class Looked:
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
            self._network = self.model.network if here else build.load(self.model.checkpoint)
        return self._network

    def page(self, told: Told, place: int, target: str) -> str:
        """The part of the page.

        Args:
            told: What was said of a sound.
            place: Which of its windows.
            target: Of which of its targets.
        """
        window = told.heard.windows[place]
        if not window.crops:
            return template("demo_looked.html.j2").render(silent=True)
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
            parts, cam = explain.attributions(network, x, base, said, truth({}, network), scene, target)
        about = f"The frames of the window from {window.start:.1f} to {window.end:.1f} s."
        unit = "dB" if hasattr(scene.front, "top_db") and scene.view.start == 0 else ""
        return template("demo_looked.html.j2").render(
            silent=False, when=moments(told)[place], target=target, steps=attribution.STEPS,
            frames=pictures.large("looked", about, scene, base, unit, magma=True), parts=parts, cam=cam,
            attention=explain.attention(network, x, base, scene), crops=len(window.crops),
            lacking="" if parts else attribution.LACKING,
        )  # fmt: skip
