"""Names that a page must escape, and the check that a page has escaped them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

NAMES = [
    "<script>evil()</script>",
    '"><img src=x onerror=evil()>',
    "' onmouseover='evil()' evil='",
    "</script></style></title><script>evil()</script>",
    "javascript:evil()",
    "<!--evil",
    "[evil](javascript:evil()) **evil** `evil`",
    r"$\evil{$ $x$ ${evil} {{evil}} {% evil %}",
    "0; background: url(https://evil.example/x)",
    "&lt;script&gt;evil&#39;",
    "evil\n<script>evil()</script>",
]


class ParsedPage(HTMLParser):
    """Tags, attributes and text of a page.

    Attributes:
        tags: Name and attributes of each start tag.
        data: Enclosing element and content of each text.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: list[tuple[str, str]] = []
        self.element = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.element = tag

    def handle_endtag(self, tag: str) -> None:
        self.element = ""

    def handle_data(self, data: str) -> None:
        self.data.append((self.element, data))

    def handle_comment(self, data: str) -> None:
        assert "evil" not in data


def assert_harmless(text: str, scripts: int) -> ParsedPage:
    """Assert that hostile names occur only as text, and return the parsed page.

    Args:
        text: HTML of a page.
        scripts: Number of scripts that the page has without hostile names.
    """
    page = ParsedPage(text)
    assert sum(tag == "script" for tag, _ in page.tags) == scripts
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form", "link"), tag
        for key, value in attributes.items():
            assert not key.startswith("on") and "evil" not in key, (tag, key)
            if key in ("href", "src", "xlink:href", "action"):
                allowed = ("#", "data:image/png", "data:audio/", "https://creativecommons.org/licenses/", "curves.html")
                assert (value or "").startswith(allowed), (tag, value)
            if key in ("style", "class", "id"):
                assert "evil" not in re.sub(r"^[\w.-]+$", "", value or ""), (tag, key, value)
    for element, data in page.data:
        if element == "script" and data.lstrip().startswith("{"):
            json.loads(data)
        elif element in ("script", "style"):
            assert "evil()" not in data and "evil.example" not in data
    assert any("evil" in data for element, data in page.data if element not in ("script", "style"))
    return page
