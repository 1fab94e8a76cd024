"""The demo page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.demo.about import About, Example
from etude.demo.attribution_view import AttributionView
from etude.demo.neighbours import Near
from etude.demo.predictor import PredictionResult, Predictor, RefusedSound, moments
from etude.demo.uploads import Uploads
from etude.reports.html import load_template
from etude.reports.worst_errors import stops

if TYPE_CHECKING:
    from gradio import HTML, Blocks, Button


def head() -> str:
    """Styles and scripts of the page: those of all pages, and the little that is its own."""
    return load_template("demo_head.html.j2").render(stops=stops())


def theme() -> Any:
    """Gradio's parts in the colours of all pages, light and dark, and in the machine's own font."""
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


WAITING = 16  # calls in the queue
FIRST = "Nothing is heard yet: drop a sound above, record one, or take an example."
# what is heard comes into sight; where a sound was refused there is nothing, and the reason stands below its box
SHOW = """() => {
  const heard = document.getElementById("heard");
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  heard?.scrollIntoView({ behavior: still ? "auto" : "smooth" });
}"""
LOST = "This sound is no longer here; drop it once more."


@dataclass
class Parts:
    """What the page is made of.

    Args:
        about: Its top.
        ear: Hears a sound.
        near: Finds clips that are alike.
        looked: Draws where the network looked.
        examples: Sounds to begin with.
    """

    about: About
    ear: Predictor
    near: Near
    looked: AttributionView
    examples: list[Example]


def page(parts: Parts, uploads: Uploads) -> Blocks:
    """Return the page, which answers one call at a time.

    Args:
        parts: Content of the page.
        uploads: Sounds that its visitors may name; examples are named by their position alone.
    """
    import gradio as gr

    targets = list(parts.ear.model.columns.targets)
    one: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "network", "api_visibility": "private"}
    with gr.Blocks(title=f"{parts.about.name} · Étude", analytics_enabled=False) as blocks:
        _html(load_template("demo_about.html.j2").render(about=parts.about))
        sound = gr.Audio(
            sources=["upload", "microphone"], type="filepath", editable=False, buttons=[],
            label=f"A sound, {parts.ear.limits.words}",
        )  # fmt: skip
        message = _html(note(FIRST))
        buttons = _examples(parts.examples)
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
                told = parts.ear.hear(path)
                shown = parts.ear.page(told, name)
            except RefusedSound as refused:
                yield {**empty(), message: note(str(refused), alarm=True)}
                return
            choice = _windows(told, told.decisive(parts.ear.model.columns))
            yield {**empty(), message: "", heard: shown, current: str(path)}
            assert told.said.embedding is not None
            yield {
                near: parts.near.page(told.said.embedding), looked: gr.Column(visible=True),
                window: gr.Dropdown(choices=choice, value=choice[0][1]),
            }  # fmt: skip

        def look(path: str | None, place: int, name: str) -> str:
            try:
                if path is None:
                    raise RefusedSound(LOST)
                return parts.looked.page(parts.ear.hear(Path(path)), place, name)
            except RefusedSound as refused:
                return note(str(refused), alarm=True)

        gr.on([sound.upload, sound.stop_recording], predict_upload, [sound], outputs, **one).then(None, js=SHOW)
        for example, chosen in zip(parts.examples, buttons, strict=True):
            chosen.click(partial(predict, example.path, example.name), None, outputs, **one).then(None, js=SHOW)
        button.click(look, [current, window, target], pictures, **one)
    return blocks.queue(max_size=WAITING, default_concurrency_limit=1)


def note(sentence: str, alarm: bool = False) -> str:
    """One sentence in the place of what there is not."""
    return load_template("demo_note.html.j2").render(sentence=sentence, alarm=alarm)


def _windows(told: PredictionResult, first: int) -> list[tuple[str, int]]:
    """The windows to choose from, the clearest one first."""
    found = [(words, place) for place, words in enumerate(moments(told))]
    clearest = (f"{found[first][0]}, the clearest", first)
    return [clearest, *found[:first], *found[first + 1 :]] if len(found) > 1 else found


def _html(value: str = "") -> HTML:
    import gradio as gr

    return gr.HTML(value, apply_default_css=False, elem_classes="etude")


def _examples(examples: list[Example]) -> list[Button]:
    """A card of each example, and the buttons by which they are heard."""
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
