"""Demo page in gradio with predictions, nearest clips and attributions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from etude.demo.description import Example, NetworkDescription
from etude.demo.neighbours import NeighbourSearch
from etude.demo.predictor import GONE, PredictionResult, Predictor, RefusedAudioError, window_labels
from etude.demo.uploads import Uploads
from etude.inference.model import Model
from etude.inspection import attribution
from etude.inspection.clip_axes import ClipAxes, draw_image
from etude.inspection.clips import encode_targets
from etude.reports.html import load_template
from etude.reports.worst_errors import colour_stops
from etude.training.network import Network

if TYPE_CHECKING:
    from gradio import HTML, Blocks, Button


MAX_QUEUE = 16  # calls
NO_PREDICTION = "No prediction yet. Upload an audio file, record one, or select an example."
# scroll to the prediction; a refused file has no prediction, only a message below its box
SCROLL_TO_PREDICTION = """() => {
  const prediction = document.getElementById("prediction");
  const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
  prediction?.scrollIntoView({ behavior: reduced ? "auto" : "smooth" });
}"""


class AttributionView:
    """Attributions for a window of an audio file, as a section of the page.

    Args:
        model: The network.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._network: Network | None = None

    @property
    def network(self) -> Network:
        """Network on the CPU, where attributions are computed. If the model is on a GPU, this is a separate copy."""
        if self._network is None:
            on_cpu = self.model.device.type == "cpu"
            self._network = self.model.network if on_cpu else Model(self.model.source, "cpu").network
        return self._network

    def section(self, result: PredictionResult, index: int, target: str) -> str:
        """Return the section as HTML.

        Args:
            result: Prediction for the audio file.
            index: Index of the window.
            target: Name of the target.
        """
        window = result.file.windows[index]
        if not window.crops:
            return load_template("demo_attribution.html.j2").render(silent=True)
        if self.model.network.recipe.get("members"):
            return load_template("demo_attribution.html.j2").render(silent=False, ensemble=True)
        network, frames = self.network, np.asarray(window.crops[0], np.float32)
        columns = slice(*network.recipe["columns"])
        clip_axes = ClipAxes(self.model.front, columns, len(frames), window.start)
        x, base = torch.from_numpy(frames)[None], clip_axes.rescale_chroma(frames)
        lengths = torch.tensor([len(frames)])
        with torch.no_grad():
            x = network.standardiser(x, lengths)
            predictions = network.task.predict(network.task(network.readout(network.backbone, x, lengths)))
        gradients, cam = None, None
        if attribution.is_captum_installed():
            y = encode_targets({}, network)
            gradients, cam = attribution.draw_attributions(network, x, base, predictions, y, clip_axes, target)
        description = f"Frames of the window from {window.start:.1f} to {window.end:.1f} s."
        return load_template("demo_attribution.html.j2").render(
            silent=False, window=window_labels(result)[index], target=target, steps=attribution.STEPS,
            frames=draw_image("attribution", description, clip_axes, base, clip_axes.magnitude_unit, magma=True),
            gradients=gradients, cam=cam,
            attention=attribution.draw_attention_rollout(network, x, base, clip_axes), n_crops=len(window.crops),
            missing_note="" if gradients else attribution.CAPTUM_MISSING,
        )  # fmt: skip


@dataclass
class DemoContent:
    """Content of the demo page.

    Args:
        description: Description of the network.
        predictor: Predictor of audio files.
        neighbours: Search for the nearest clips.
        attributions: Attributions for a window.
        examples: Example clips.
    """

    description: NetworkDescription
    predictor: Predictor
    neighbours: NeighbourSearch
    attributions: AttributionView
    examples: list[Example]


def build_page(content: DemoContent, uploads: Uploads) -> Blocks:
    """Build the page. It processes one call at a time.

    Args:
        content: Content of the page.
        uploads: Uploaded files. A call can name only these. Examples are selected by their index.
    """
    import gradio as gr

    targets = list(content.predictor.model.columns.targets)
    has_attributions = not content.predictor.model.predicts_tags  # a classifier of tags is not part of the network
    queue: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "network", "api_visibility": "private"}
    with gr.Blocks(title=f"{content.description.name} · Étude", analytics_enabled=False) as blocks:
        _html(load_template("demo_description.html.j2").render(description=content.description))
        audio = gr.Audio(
            sources=["upload", "microphone"], type="filepath", editable=False, buttons=[],
            label=f"Audio file, {content.predictor.limits.text}",
        )  # fmt: skip
        message = _html(note(NO_PREDICTION))
        buttons = _examples(content.examples)
        prediction, neighbours = _html(), _html()
        with gr.Column(visible=False, elem_classes="attribution") as attributions:
            _html(load_template("demo_attribution_input.html.j2").render())
            with gr.Row():
                window = gr.Dropdown([], label="Window", interactive=True, min_width=260)
                target = gr.Dropdown(targets, value=targets[0], label="Target", visible=len(targets) > 1)
                button = gr.Button("Show attributions", variant="primary")
            figures = _html()
        current = gr.State()
        outputs = [audio, message, prediction, neighbours, attributions, window, figures, current]

        def predict_upload(path: str | None) -> Iterator[dict[Any, Any]]:
            if path is None:
                return
            upload = uploads.find(path)
            if upload is None:
                yield {**empty(), message: note(GONE, alert=True)}
            else:
                yield from predict(upload.path, upload.name)

        def empty() -> dict[Any, Any]:
            hidden = gr.Column(visible=False)
            return {prediction: "", neighbours: "", attributions: hidden, figures: "", current: None, audio: None}

        def predict(path: Path, name: str) -> Iterator[dict[Any, Any]]:
            try:
                result = content.predictor.predict(path)
                section = content.predictor.section(result, name)
            except RefusedAudioError as error:
                yield {**empty(), message: note(str(error), alert=True)}
                return
            choices = _window_choices(result, result.clearest_window(content.predictor.model.columns))
            yield {**empty(), message: "", prediction: section, current: str(path)}
            assert result.prediction.embedding is not None
            yield {
                neighbours: content.neighbours.section(result.prediction.embedding),
                attributions: gr.Column(visible=has_attributions),
                window: gr.Dropdown(choices=choices, value=choices[0][1]),
            }  # fmt: skip

        def explain(path: str | None, index: int, name: str) -> str:
            try:
                if path is None or not has_attributions:
                    raise RefusedAudioError(GONE)
                return content.attributions.section(content.predictor.predict(Path(path)), index, name)
            except RefusedAudioError as error:
                return note(str(error), alert=True)

        uploaded = gr.on([audio.upload, audio.stop_recording], predict_upload, [audio], outputs, **queue)
        uploaded.then(None, js=SCROLL_TO_PREDICTION)
        for example, select in zip(content.examples, buttons, strict=True):
            selected = select.click(partial(predict, example.path, example.name), None, outputs, **queue)
            selected.then(None, js=SCROLL_TO_PREDICTION)
        button.click(explain, [current, window, target], figures, **queue)
    return blocks.queue(max_size=MAX_QUEUE, default_concurrency_limit=1)


def page_head() -> str:
    """Return the styles and scripts of the page, which include the common styles of all pages."""
    return load_template("demo_head.html.j2").render(colour_stops=colour_stops())


def theme() -> Any:
    """Return a gradio theme with the colours of the other pages, light and dark, and the system font."""
    import gradio as gr

    base = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"], radius_size="sm")
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
    return base.set(**values, **dark)


def note(sentence: str, alert: bool = False) -> str:
    """Return a sentence as a note of the page in HTML."""
    return load_template("demo_note.html.j2").render(sentence=sentence, alert=alert)


def _window_choices(result: PredictionResult, clearest: int) -> list[tuple[str, int]]:
    """Return labels and indices of the windows, with the clearest one first."""
    choices = [(label, index) for index, label in enumerate(window_labels(result))]
    first = (f"{choices[clearest][0]}, the clearest", clearest)
    return [first, *choices[:clearest], *choices[clearest + 1 :]] if len(choices) > 1 else choices


def _html(value: str = "") -> HTML:
    import gradio as gr

    return gr.HTML(value, apply_default_css=False, elem_classes="etude")


def _examples(examples: list[Example]) -> list[Button]:
    """Show a card of each example, and return the buttons that predict them."""
    import gradio as gr

    buttons: list[Button] = []
    if examples:
        _html("<h3>Examples from the test split</h3>")
        with gr.Row():
            for example in examples:
                with gr.Column(min_width=220):
                    _html(load_template("demo_example.html.j2").render(clip=example.card))
                    buttons.append(gr.Button("Predict this clip", size="sm"))
    return buttons
