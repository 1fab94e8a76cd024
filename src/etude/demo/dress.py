"""How the page looks: as all pages do, gradio's own parts too."""

from __future__ import annotations

from typing import Any

from etude.results.excerpts import stops
from etude.results.template import template


def head() -> str:
    """Styles and scripts of the page: those of all pages, and the little that is its own."""
    return template("demo_head.html.j2").render(stops=stops())


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
