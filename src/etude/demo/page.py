"""The demo page, with the attributions of a window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from etude.demo.about import Example, NetworkDescription
from etude.demo.neighbours import NeighbourSearch
from etude.demo.predictor import PredictionResult, Predictor, RefusedSound, window_labels
from etude.demo.uploads import Uploads
from etude.inference.model import Model
from etude.inspection import attribution, clip_axes
from etude.inspection.clip_axes import Scene
from etude.inspection.clips import truth
from etude.reports.html import load_template
from etude.reports.worst_errors import colour_stops
from etude.training.build import load_learner
from etude.training.learner import Learner

if TYPE_CHECKING:
    from gradio import HTML, Blocks, Button


WAITING = 16  # calls in the queue
FIRST = "Nothing is heard yet: drop a sound above, record one, or take an example."
# scroll to the prediction; where a sound was refused there is none, and the reason stands below its box
SHOW = """() => {
  const heard = document.getElementById("heard");
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  heard?.scrollIntoView({ behavior: still ? "auto" : "smooth" });
}"""
LOST = "This sound is no longer here; drop it once more."


class AttributionView:
    """Attributions of a window of a sound, as a section of the page.

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

    def section(self, result: PredictionResult, index: int, target: str) -> str:
        """Return the section as HTML.

        Args:
            result: Prediction of the sound.
            index: Index of the window.
            target: Name of the target.
        """
        window = result.file.windows[index]
        if not window.crops:
            return load_template("demo_looked.html.j2").render(silent=True)
        network, frames = self.network, np.asarray(window.crops[0], np.float32)
        columns = slice(*network.recipe["columns"])
        scene = Scene(self.model.front, columns, len(frames), window.start)
        x, base = torch.from_numpy(frames)[None], scene.even(frames)
        lengths = torch.tensor([len(frames)])
        with torch.no_grad():
            x = network.standardiser(x, lengths)
            predictions = network.task.predict(network.task(network.backbone(x, lengths)))
        parts, cam = None, None
        if attribution.installed():
            parts, cam = attribution.attributions(network, x, base, predictions, truth({}, network), scene, target)
        about = f"The frames of the window from {window.start:.1f} to {window.end:.1f} s."
        unit = scene.front.unit if scene.view.start == 0 else ""
        return load_template("demo_looked.html.j2").render(
            silent=False, when=window_labels(result)[index], target=target, steps=attribution.STEPS,
            frames=clip_axes.large("looked", about, scene, base, unit, magma=True), parts=parts, cam=cam,
            attention=attribution.attention(network, x, base, scene), crops=len(window.crops),
            lacking="" if parts else attribution.LACKING,
        )  # fmt: skip


@dataclass
class DemoContent:
    """Content of the demo page.

    Args:
        about: Description of the network.
        predictor: Predictor of sounds.
        neighbours: Search for similar clips.
        attributions: Attributions of a window.
        examples: Example sounds.
    """

    about: NetworkDescription
    predictor: Predictor
    neighbours: NeighbourSearch
    attributions: AttributionView
    examples: list[Example]


def page(content: DemoContent, uploads: Uploads) -> Blocks:
    """Return the page, which answers one call at a time.

    Args:
        content: Content of the page.
        uploads: Sounds that its visitors may name; examples are named by their position alone.
    """
    import gradio as gr

    targets = list(content.predictor.model.columns.targets)
    queue: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "network", "api_visibility": "private"}
    with gr.Blocks(title=f"{content.about.name} · Étude", analytics_enabled=False) as blocks:
        _html(load_template("demo_about.html.j2").render(about=content.about))
        sound = gr.Audio(
            sources=["upload", "microphone"], type="filepath", editable=False, buttons=[],
            label=f"A sound, {content.predictor.limits.words}",
        )  # fmt: skip
        message = _html(note(FIRST))
        buttons = _examples(content.examples)
        heard, near = _html(), _html()
        with gr.Column(visible=False, elem_classes="looked") as looked:
            _html(load_template("demo_ask.html.j2").render())
            with gr.Row():
                window = gr.Dropdown([], label="Window", interactive=True, min_width=260)
                target = gr.Dropdown(targets, value=targets[0], label="What for", visible=len(targets) > 1)
                button = gr.Button("Show where it looked", variant="primary")
            pictures = _html()
        current = gr.State()
        outputs = [sound, message, heard, near, looked, window, pictures, current]

        def predict_upload(path: str | None) -> Iterator[dict[Any, Any]]:
            if path is None:
                return
            upload = uploads.find(path)
            if upload is None:
                yield {**empty(), message: note(LOST, alarm=True)}
            else:
                yield from predict(upload.path, upload.name)

        def empty() -> dict[Any, Any]:
            return {heard: "", near: "", looked: gr.Column(visible=False), pictures: "", current: None, sound: None}

        def predict(path: Path, name: str) -> Iterator[dict[Any, Any]]:
            try:
                result = content.predictor.predict(path)
                shown = content.predictor.section(result, name)
            except RefusedSound as refused:
                yield {**empty(), message: note(str(refused), alarm=True)}
                return
            choice = _window_choices(result, result.decisive_window(content.predictor.model.columns))
            yield {**empty(), message: "", heard: shown, current: str(path)}
            assert result.prediction.embedding is not None
            yield {
                near: content.neighbours.section(result.prediction.embedding), looked: gr.Column(visible=True),
                window: gr.Dropdown(choices=choice, value=choice[0][1]),
            }  # fmt: skip

        def look(path: str | None, index: int, name: str) -> str:
            try:
                if path is None:
                    raise RefusedSound(LOST)
                return content.attributions.section(content.predictor.predict(Path(path)), index, name)
            except RefusedSound as refused:
                return note(str(refused), alarm=True)

        gr.on([sound.upload, sound.stop_recording], predict_upload, [sound], outputs, **queue).then(None, js=SHOW)
        for example, chosen in zip(content.examples, buttons, strict=True):
            chosen.click(partial(predict, example.path, example.name), None, outputs, **queue).then(None, js=SHOW)
        button.click(look, [current, window, target], pictures, **queue)
    return blocks.queue(max_size=WAITING, default_concurrency_limit=1)


def head() -> str:
    """Return styles and scripts of the page: those of all pages, and its own."""
    return load_template("demo_head.html.j2").render(stops=colour_stops())


def theme() -> Any:
    """Return a theme of gradio in the colours of all pages, light and dark, and in the machine's own font."""
    import gradio as gr

    made = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"], radius_size="sm")
    roles = {
        "paper": ["body_background_fill", "background_fill_primary", "input_background_fill"],
        "raised": ["block_background_fill", "background_fill_secondary", "block_label_background_fill",
                   "button_secondary_background_fill"],
        "ink": ["body_text_color", "block_title_text_color", "button_secondary_text_color", "block_label_text_color"],
        "muted": ["body_text_color_subdued", "block_info_text_color"],
        "rule": ["border_color_primary", "block_border_color", "input_border_color", "button_secondary_border_color"],
        "network": ["button_primary_background_fill", "border_color_accent", "slider_color", "loader_color"],
    }  # fmt: skip
    values = {name: f"var(--{role})" for role, names in roles.items() for name in names}
    values |= {
        "button_primary_text_color": "var(--paper)",
        "button_border_width": "1px",
        "button_primary_background_fill_hover": "var(--ink)",
    }
    dark = {f"{name}_dark": value for name, value in values.items()}
    return made.set(**values, **dark)


def note(sentence: str, alarm: bool = False) -> str:
    """Return one sentence as a note of the page."""
    return load_template("demo_note.html.j2").render(sentence=sentence, alarm=alarm)


def _window_choices(result: PredictionResult, first: int) -> list[tuple[str, int]]:
    """Return labels and indices of the windows, the clearest one first."""
    found = [(label, index) for index, label in enumerate(window_labels(result))]
    clearest = (f"{found[first][0]}, the clearest", first)
    return [clearest, *found[:first], *found[first + 1 :]] if len(found) > 1 else found


def _html(value: str = "") -> HTML:
    import gradio as gr

    return gr.HTML(value, apply_default_css=False, elem_classes="etude")


def _examples(examples: list[Example]) -> list[Button]:
    """Show a card of each example, and return the buttons that predict them."""
    import gradio as gr

    buttons: list[Button] = []
    if examples:
        _html("<h3>Examples from its test part</h3>")
        with gr.Row():
            for example in examples:
                with gr.Column(min_width=220):
                    _html(load_template("demo_example.html.j2").render(clip=example.card))
                    buttons.append(gr.Button("Hear this", size="sm"))
    return buttons
