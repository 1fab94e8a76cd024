"""Templates of pages, data URIs, and Markdown as HTML.

A card is written by whoever prepared the data. Text is escaped before any mark is read, so a tag in a card is shown as
text; a link becomes its words and its address, because a report fetches nothing and sends nobody anywhere unasked.
"""

from __future__ import annotations

import base64
import html
import re
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

from etude.evaluation import formatting

if TYPE_CHECKING:
    from jinja2 import Template


INLINE = (
    (re.compile(r"`([^`]+)`"), r"<code>\1</code>"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"(?<![*\w])\*([^*\s][^*]*)\*(?!\w)"), r"<em>\1</em>"),
    (re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)"), r"\1 (<span class='address'>\2</span>)"),
)


@lru_cache  # its compiling takes a quarter of a second
def load_template(name: str) -> Template:
    """Return a template of this package by its file name; values put into it are escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("etude.reports"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": formatting.format_number,
        "ends": formatting.format_interval,
        "duration": formatting.duration,
        "capital": formatting.capital,
        "sentence": formatting.sentence,
        "excludes_zero": formatting.excludes_zero,
    }
    environment.globals |= {"plural": formatting.plural}
    return environment.get_template(name)


def data_uri(content: bytes, mime: str) -> str:
    """Return a file as a data URI, which a page holds itself."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def markdown_to_html(text: str) -> str:
    """Render headings, paragraphs, lists, pipe tables, fenced code, bold, emphasis and inline code.

    Headings come two levels lower than written, as the card stands inside a section of a page.
    """
    parts: list[str] = []
    for i, piece in enumerate(re.split(r"^```.*$", text, flags=re.MULTILINE)):
        if i % 2:
            parts.append(f"<pre>{html.escape(piece.strip(chr(10)))}</pre>")
            continue
        for kind, lines in groupby(piece.splitlines(), key=_kind):
            parts.append(_block(kind, [html.escape(line.strip()) for line in lines]))
    return "\n".join(part for part in parts if part)


def _kind(line: str) -> str:
    line = line.strip()
    if not line:
        return "blank"
    for kind, start in (("heading", r"#{1,6} "), ("list", r"[-*+] "), ("steps", r"\d+[.)] "), ("table", r"\|")):
        if re.match(start, line):
            return kind
    return "paragraph"


def _block(kind: str, lines: list[str]) -> str:
    if kind == "blank":
        return ""
    if kind == "heading":
        return "\n".join(_heading(line) for line in lines)
    if kind == "list":
        return "<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in lines) + "</ul>"
    if kind == "steps":
        return "<ol>" + "".join(f"<li>{_inline(line.split(' ', 1)[1])}</li>" for line in lines) + "</ol>"
    if kind == "table":
        return _table(lines)
    return f"<p>{_inline(' '.join(lines))}</p>"


def _heading(line: str) -> str:
    marks, words = line.split(" ", 1)
    level = min(6, len(marks) + 2)
    return f"<h{level}>{_inline(words)}</h{level}>"


def _table(lines: list[str]) -> str:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    ruled = len(rows) > 1 and all(re.fullmatch(r":?-+:?", cell) for cell in rows[1])
    head = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in rows[0]) if ruled else ""
    body = "".join(
        "<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in rows[2 if ruled else 0 :]
    )
    table = f"<table>{f'<thead><tr>{head}</tr></thead>' if ruled else ''}<tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Table of the data card">{table}</div>'


def _inline(escaped: str) -> str:
    for pattern, replacement in INLINE:
        escaped = pattern.sub(replacement, escaped)
    return escaped
