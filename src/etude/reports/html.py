"""Templates of pages, data URIs, and conversion of Markdown to HTML."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from etude.evaluation import formatting
from etude.runs.folder import CONFIG, REPORT

if TYPE_CHECKING:
    from jinja2 import Template


INLINE_PATTERNS = (
    (re.compile(r"`([^`]+)`"), r"<code>\1</code>"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"(?<![*\w])\*([^*\s][^*]*)\*(?!\w)"), r"<em>\1</em>"),
    (re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)"), r"\1 (<span class='address'>\2</span>)"),
)

QUOTE_MARKS = r"^(?:>\s*)+"
BLOCK_STARTS = {
    "heading": r"#{1,6} ",
    "list": r"[-*+] ",
    "steps": r"\d+[.)] ",
    "table": r"\|",
    "quote": QUOTE_MARKS,
}
"""Pattern of the start of a line by kind of block. Other lines are blank or belong to a paragraph."""
LISTS = {"list": "ul", "steps": "ol"}
"""Tag of each kind of list."""


@lru_cache  # compilation takes a quarter of a second
def load_template(name: str) -> Template:
    """Return a template of this package by its file name. The template escapes inserted values."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("etude.reports"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": formatting.format_number,
        "interval": formatting.format_interval,
        "duration": formatting.format_duration,
        "capitalise_first": formatting.capitalise_first,
        "sentence": formatting.format_sentence,
        "excludes_zero": formatting.excludes_zero,
    }
    environment.globals |= {"format_count": formatting.format_count}
    return environment.get_template(name)


def data_uri(content: bytes, mime: str) -> str:
    """Return the content of a file as a data URI, to embed it in a page."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def markdown_to_html(text: str) -> str:
    """Convert headings, paragraphs, lists, quotes, pipe tables, fenced code and inline styles to HTML.

    The text may come from another user. It is escaped before conversion, so that a tag is shown as text. A link is
    replaced by its text and address, because a page must not load or open other addresses. Headings are two levels
    lower than in the text, because the result is part of a section of a page.
    """
    blocks: list[str] = []
    for i, chunk in enumerate(re.split(r"^```.*$", text, flags=re.MULTILINE)):
        if i % 2:
            blocks.append(f"<pre>{html.escape(chunk.strip(chr(10)))}</pre>")
            continue
        blocks.append(_convert_lines(chunk.splitlines()))
    return "\n".join(block for block in blocks if block)


def _convert_lines(lines: Sequence[str]) -> str:
    """Return the HTML of lines without fenced code. A line of text after a list item continues the item."""
    kinds: list[str] = []
    for line in lines:
        kind = _block_kind(line)
        continues_item = kind == "paragraph" and kinds and kinds[-1] in LISTS
        kinds.append(kinds[-1] if continues_item else kind)
    groups = groupby(zip(kinds, lines, strict=True), key=itemgetter(0))
    blocks = [_convert_block(kind, [line.strip() for _, line in group]) for kind, group in groups]
    return "\n".join(block for block in blocks if block)


def _block_kind(line: str) -> str:
    """Return the kind of Markdown block to which a line belongs."""
    line = line.strip()
    if not line:
        return "blank"
    return next((kind for kind, start in BLOCK_STARTS.items() if re.match(start, line)), "paragraph")


def _convert_block(kind: str, lines: list[str]) -> str:
    """Return the HTML of the lines of a block, which are not escaped."""
    if kind == "blank":
        return ""
    if kind == "quote":  # all marks are removed, so that the depth of nested quotes does not matter
        return f"<blockquote>{_convert_lines([re.sub(QUOTE_MARKS, '', line) for line in lines])}</blockquote>"
    if kind in LISTS:
        return _convert_list(LISTS[kind], lines)
    lines = [html.escape(line) for line in lines]
    if kind == "heading":
        return "\n".join(_convert_heading(line) for line in lines)
    if kind == "table":
        return _convert_table(lines)
    return f"<p>{_convert_inline(' '.join(lines))}</p>"


def _convert_list(tag: str, lines: list[str]) -> str:
    """Return the HTML of a list. A line without a list mark continues the item before it."""
    items: list[list[str]] = []
    for line in lines:
        if _block_kind(line) in LISTS:
            items.append([line.split(" ", 1)[1]])
        else:
            items[-1].append(line)
    content = "".join(f"<li>{_convert_inline(html.escape(' '.join(item)))}</li>" for item in items)
    return f"<{tag}>{content}</{tag}>"


def _convert_heading(line: str) -> str:
    """Return the HTML of a heading, two levels lower than in the text."""
    marks, title = line.split(" ", 1)
    level = min(6, len(marks) + 2)
    return f"<h{level}>{_convert_inline(title)}</h{level}>"


def _convert_table(lines: list[str]) -> str:
    """Return the HTML of a pipe table. The first line is a header if the second line is a rule."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    has_header = len(rows) > 1 and all(re.fullmatch(r":?-+:?", cell) for cell in rows[1])
    header = "".join(f'<th scope="col">{_convert_inline(cell)}</th>' for cell in rows[0]) if has_header else ""
    body = "".join(
        "<tr>" + "".join(f"<td>{_convert_inline(cell)}</td>" for cell in row) + "</tr>"
        for row in rows[2 if has_header else 0 :]
    )
    table = f"<table>{f'<thead><tr>{header}</tr></thead>' if has_header else ''}<tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Table of the data card">{table}</div>'


def _convert_inline(escaped: str) -> str:
    """Return escaped text with code, bold, emphasis and links converted."""
    for pattern, replacement in INLINE_PATTERNS:
        escaped = pattern.sub(replacement, escaped)
    return escaped


def link_members(members: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, str]]:
    """Return text and relative address of each member of an ensemble, with the address "" if its folder is missing.

    Args:
        members: Name of each member, and its folder relative to the working folder when the ensemble was made.
        folder: Folder of the ensemble. Members in its parent folder are also found after a sweep was moved.
    """
    names = [str(member["name"]) for member in members]
    links = []
    for name, member in zip(names, members, strict=True):
        places = (Path(member["folder"]), folder.parent / Path(member["folder"]).name)
        text = name if len(set(names)) == len(names) else str(member["folder"])
        found = next((place for place in places if (place / CONFIG).is_file()), None)
        link = {"text": text, "address": ""}
        if found is not None:
            relative = Path(os.path.relpath(found.resolve(), folder.resolve()))
            page = relative / REPORT if (found / REPORT).is_file() else relative
            link["address"] = quote(page.as_posix())
        links.append(link)
    return links
