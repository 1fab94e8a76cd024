"""Tests of the conversion of Markdown to HTML."""

from pathlib import Path

import pytest

import etude
from etude.reports.html import markdown_to_html


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("# A\ntext *b* and **c**\ncontinues", "<h3>A</h3>\n<p>text <em>b</em> and <strong>c</strong> continues</p>"),
        ("- a\n- `x<y`", "<ul><li>a</li><li><code>x&lt;y</code></li></ul>"),
        ("1. a\n2. b", "<ol><li>a</li><li>b</li></ol>"),
        ("- a\n  *b*\nc\n- d", "<ul><li>a <em>b</em> c</li><li>d</li></ul>"),
        ("1. a **b\n   c** & d\n2. e\n\nf", "<ol><li>a <strong>b c</strong> &amp; d</li><li>e</li></ol>\n<p>f</p>"),
        ("- a\n1. b\n   c", "<ul><li>a</li></ul>\n<ol><li>b c</li></ol>"),
        ("- a\n# B\nc", "<ul><li>a</li></ul>\n<h3>B</h3>\n<p>c</p>"),
        ("> a <b\n> c\n>\n> *d*", "<blockquote><p>a &lt;b c</p>\n<p><em>d</em></p></blockquote>"),
        ("a\n>- b\n>   c\n\nd", "<p>a</p>\n<blockquote><ul><li>b c</li></ul></blockquote>\n<p>d</p>"),
        ("> > a", "<blockquote><p>a</p></blockquote>"),
        ("```\n# <i>\n```", "<pre># &lt;i&gt;</pre>"),
        ("[here](javascript:alert(1))", "<p>here (<span class='address'>javascript:alert(1</span>))</p>"),
        ("snake_case 2 * 3 * 4", "<p>snake_case 2 * 3 * 4</p>"),
    ],
)
def test_markdown_subset_is_converted(text: str, html: str) -> None:
    assert markdown_to_html(text) == html


def test_deeply_nested_quotes_and_long_items_are_converted() -> None:
    assert markdown_to_html(">" * 50_000 + "a") == "<blockquote><p>a</p></blockquote>"
    assert markdown_to_html("- a" + "\n  b" * 50_000) == f"<ul><li>a{' b' * 50_000}</li></ul>"


def test_bullets_and_quote_of_the_demo_card_are_complete() -> None:
    html = markdown_to_html((Path(etude.__file__).parent / "data" / "demo" / "CARD.md").read_text("utf-8"))
    assert (
        "<li><strong>CC-BY-4.0</strong>: music by Alexander Zhelanov and Stian Grenborgen for FreeCol, excerpted"
        in html
    )
    assert "re-encoded, under CC-BY-4.0. Titles and sources: <code>clips.csv</code>.</li>" in html
    assert html.count("<blockquote>") == 1 and "<blockquote><p>The songs, performances and fret files are all" in html
    assert "<p>&gt;" not in html


def test_markdown_table_is_converted() -> None:
    html = markdown_to_html("| a | b |\n|---|--:|\n| 1 | <2 |")
    assert '<thead><tr><th scope="col">a</th><th scope="col">b</th></tr></thead>' in html
    assert "<tr><td>1</td><td>&lt;2</td></tr>" in html
