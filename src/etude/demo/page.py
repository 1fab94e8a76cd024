"""The page: gradio takes the sound and brings what is said of it; all that is seen comes from the templates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.demo.about import About
from etude.demo.ear import Ear, Refused, Told, moments
from etude.demo.examples import Example
from etude.demo.looked import Looked
from etude.demo.near import Near
from etude.results.template import template

if TYPE_CHECKING:
    from gradio import Blocks

WAITING, DELETED = 16, (300, 1800)  # calls in the queue; s: how often old uploads are looked for, and how old they get
FIRST = "Nothing is heard yet: drop a sound above, record one, or take an example."
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
    ear: Ear
    near: Near
    looked: Looked
    examples: list[Example]


def page(parts: Parts) -> Blocks:
    """The page, which answers one call at a time."""
    import gradio as gr

    targets = list(parts.ear.model.columns.targets)
    one: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "network", "api_visibility": "private"}

    def html(value: str = "") -> gr.HTML:
        return gr.HTML(value, apply_default_css=False, elem_classes="etude")

    with gr.Blocks(title=f"{parts.about.name} · Étude", analytics_enabled=False, delete_cache=DELETED) as blocks:
        html(template("demo_about.html.j2").render(about=parts.about))
        sound = gr.Audio(
            sources=["upload", "microphone"], type="filepath", editable=False, buttons=[],
            label=f"A sound, {parts.ear.limits.words}",
        )  # fmt: skip
        buttons = _examples(parts.examples)
        heard, near = html(note(FIRST)), html()
        with gr.Column(visible=False, elem_classes="looked") as looked:
            html("<section><h2>Where it looked</h2></section>")
            with gr.Row():
                window = gr.Dropdown([], label="Window", interactive=True)
                target = gr.Dropdown(targets, value=targets[0], label="What for", visible=len(targets) > 1)
                button = gr.Button("Show where it looked", variant="primary")
            pictures = html()
        current = gr.State()
        outputs = [sound, heard, near, looked, window, pictures, current]

        def hear(path: str | None, name: str = "") -> Iterator[dict[Any, Any]]:
            empty = {near: "", looked: gr.Column(visible=False), pictures: "", current: None, sound: None}
            if path is None:
                return
            try:
                told = parts.ear.hear(Path(path))
                shown = parts.ear.page(told, name or Path(path).name)
            except Refused as refused:
                yield {**empty, heard: note(str(refused), alarm=True)}
                return
            choice = _windows(told, told.decisive(parts.ear.model.columns))
            yield {**empty, heard: shown, current: path}
            assert told.said.embedding is not None
            yield {
                near: parts.near.page(told.said.embedding), looked: gr.Column(visible=True),
                window: gr.Dropdown(choices=choice, value=choice[0][1]),
            }  # fmt: skip

        def look(path: str | None, place: int, name: str) -> str:
            try:
                if path is None:
                    raise Refused(LOST)
                return parts.looked.page(parts.ear.hear(Path(path)), place, name)
            except Refused as refused:
                return note(str(refused), alarm=True)

        gr.on([sound.upload, sound.stop_recording], hear, [sound], outputs, **one)
        for example, chosen in zip(parts.examples, buttons, strict=True):
            chosen.click(_played(hear, example), None, outputs, **one)
        button.click(look, [current, window, target], pictures, **one)
    return blocks.queue(max_size=WAITING, default_concurrency_limit=1)


def note(sentence: str, alarm: bool = False) -> str:
    """One sentence in the place of what there is not."""
    return template("demo_note.html.j2").render(sentence=sentence, alarm=alarm)


def head() -> str:
    """Styles and scripts of the page: those of all pages, and the little that is its own."""
    return template("demo_head.html.j2").render(stops=_stops())


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
    values |= {"button_primary_text_color": "var(--paper)", "button_primary_background_fill_hover": "var(--ink)"}
    dark = {f"{name}_dark": value for name, value in values.items()}
    return made.set(**values, **dark)


def _stops() -> str:
    from etude.results.excerpts import stops

    return stops()


def _windows(told: Told, first: int) -> list[tuple[str, int]]:
    """The windows to choose from, the clearest one first."""
    found = [(words, place) for place, words in enumerate(moments(told))]
    return [
        (f"{found[first][0]}, the clearest" if len(found) > 1 else found[first][0], first),
        *found[:first],
        *found[first + 1 :],
    ]


def _examples(examples: list[Example]) -> list[Any]:
    import gradio as gr

    if not examples:
        return []
    gr.HTML("<h3>Examples from its test part</h3>", apply_default_css=False, elem_classes="etude")
    buttons = []
    with gr.Row():
        for example in examples:
            with gr.Column(min_width=220):
                gr.HTML(
                    template("demo_example.html.j2").render(clip=example.card),
                    apply_default_css=False,
                    elem_classes="etude",
                )
                buttons.append(gr.Button("Hear this", size="sm"))
    return buttons


def _played(hear: Any, example: Example) -> Any:
    """An event that hears an example."""

    def play() -> Iterator[dict[Any, Any]]:
        yield from hear(str(example.path), example.name)

    return play
