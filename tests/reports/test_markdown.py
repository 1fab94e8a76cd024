"""Tests of the conversion of Markdown to HTML."""

import pytest

from etude.reports.html import markdown_to_html


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("# A\ntext *b* and **c**\ncontinues", "<h3>A</h3>\n<p>text <em>b</em> and <strong>c</strong> continues</p>"),
        ("- a\n- `x<y`", "<ul><li>a</li><li><code>x&lt;y</code></li></ul>"),
        ("1. a\n2. b", "<ol><li>a</li><li>b</li></ol>"),
        ("```\n# <i>\n```", "<pre># &lt;i&gt;</pre>"),
        ("[here](javascript:alert(1))", "<p>here (<span class='address'>javascript:alert(1</span>))</p>"),
        ("snake_case 2 * 3 * 4", "<p>snake_case 2 * 3 * 4</p>"),
    ],
)
def test_markdown_subset_is_converted(text: str, html: str) -> None:
    assert markdown_to_html(text) == html


def test_markdown_table_is_converted() -> None:
    html = markdown_to_html("| a | b |\n|---|--:|\n| 1 | <2 |")
    assert '<thead><tr><th scope="col">a</th><th scope="col">b</th></tr></thead>' in html
    assert "<tr><td>1</td><td>&lt;2</td></tr>" in html
