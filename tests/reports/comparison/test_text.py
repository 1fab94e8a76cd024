"""What is written: Markdown and LaTeX that say what the table says, and a page that does what it shows."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from etude.cli.compare import main
from etude.reports.comparison import text as latex
from etude.reports.comparison import text as markdown
from etude.reports.comparison.compare import compare, parse_options
from etude.reports.comparison.table import Table

HOSTILE = "<script>alert(1)</script>"
MARKS = r"50% & x_1 $a$ #1 {b} ~ ^ \ | *c* `d`"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, grid: Path) -> Path:
    """A sweep in which two runs have names that are markup somewhere."""
    import shutil

    sweep = tmp_path_factory.mktemp("hostile") / "sweep"
    shutil.copytree(grid, sweep, ignore=shutil.ignore_patterns("compare.*"))
    for folder, name in (("0_lstm_mel", HOSTILE), ("1_lstm_mel", MARKS)):
        path = sweep / folder / "record.json"
        path.write_text(path.read_text().replace('"name": "lstm_mel"', f'"name": {json.dumps(name)}'))
    assert main([str(sweep)]) == 0
    return sweep


def test_markdown_shows_names_as_they_are(hostile: Path) -> None:
    text = (hostile / "compare.md").read_text("utf-8")
    assert "<script" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [
        re.split(r"(?<!\\)\|", row)[1:-1] for row in rows[: rows.index(next(r for r in rows if "linear model" in r))]
    ]
    assert {len(row) for row in cells} == {len(cells[0])}
    assert re.sub(r"\\(.)", r"\1", cells[3][0].strip()).replace("&amp;", "&") == MARKS


def test_latex_is_escaped_and_well_formed(hostile: Path) -> None:
    text = (hostile / "compare.tex").read_text("utf-8")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\toprule") >= 2
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert r"\textless{}script\textgreater{}alert(1)\textless{}/script\textgreater{}" in body
    assert latex.escape_latex(MARKS) in body
    assert re.sub(r"\\[&%$#_{}]|\\[a-z]+|\{|\}|\$(\\pm|-|\^2|\\rho)\$", "", latex.escape_latex(MARKS)).isascii()
    bare = re.sub(r"\\.", "", body)  # without what is escaped
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0 and "#" not in bare and "%" not in bare
    for tabular in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", body, re.S):
        lines = [line for line in tabular[1].splitlines() if line.rstrip().endswith(r"\\")]
        for line in lines:
            spans = [int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans) == len(tabular[0])


def test_latex_has_a_head_over_columns(grid: Path) -> None:
    made = compare([grid], parse_options(["table=1"])[0], tests=False)
    text = latex.to_latex(made)
    assert r"\multicolumn{6}{c}{lstm}" in text and r"\multicolumn{3}{c}{mel}" in text
    assert r"\cmidrule(lr){2-7} \cmidrule(lr){8-13}" in text
    assert r"\textbf{" in text and "**" in markdown.to_markdown(made)


def test_every_cell_is_in_every_format(grid: Path) -> None:
    made = compare([grid], parse_options(["table=2"])[0], tests=False)
    for write in (lambda cell: markdown.escape_markdown(cell), lambda cell: latex.escape_latex(cell)):
        text = markdown.to_markdown(made) + latex.to_latex(made)
        for table in made.tables:
            for row, col in table.cells:
                assert write(table.text(row, col)) in text


def test_no_runs_with_scores_is_said_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("name: a")
    assert main([str(tmp_path)]) == 0
    assert "unfinished" in capsys.readouterr().out
    assert "nothing to draw" in (tmp_path / "compare.html").read_text()


def test_sizes_are_said_once_or_where_they_differ() -> None:
    from etude.reports.comparison.table import Cell

    def table(*n: int) -> Table:
        rows, cols = [("a",), ("b",)], [("x",), ("y",)]
        places = [(row, col) for row in rows for col in cols]
        return Table(
            "", ("r",), rows, cols, {p: Cell((0.5,), n=frozenset({k})) for p, k in zip(places, n, strict=True)}
        )

    assert table(5, 5, 5, 5).sizes() == ("5", {}, False)
    assert table(5, 6, 5, 6).sizes() == ("", {("x",): "5", ("y",): "6"}, False)
    assert table(5, 5, 6, 6).sizes() == ("", {("a",): "5", ("b",): "6"}, False)
    assert table(5, 6, 6, 5).sizes() == ("", {}, True)


@pytest.fixture
def opened(browser, hostile: Path) -> Iterator[tuple]:
    """The page from disk with the network off, and what its console said."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, offline=True)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.goto((hostile / "compare.html").as_uri())
    yield page, said
    context.close()


def _column(page, place: int) -> list[float]:
    return page.eval_on_selector_all(
        f"#table-1 tbody.rows td:nth-child({place})", "cells => cells.map(cell => Number(cell.dataset.value))"
    )


def test_heads_sort_by_mouse_and_by_keyboard(opened) -> None:
    page, said = opened
    head = page.locator("#table-1 thead tr:last-child th", has_text="macro-F1")
    place = head.evaluate("head => head.cellIndex") + 1
    before = _column(page, place)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending" and _column(page, place) == sorted(before) != before
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending" and _column(page, place) == sorted(before, reverse=True)
    page.locator("#table-1 thead th", has_text="feature").locator("button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert page.locator("#table-1 tbody").last.inner_text().startswith("linear model")
    assert said == []


def test_the_filter_keeps_rows_that_have_all_words(opened) -> None:
    page, said = opened
    page.get_by_label("Only rows with").first.fill("CNN fused")
    rows = page.locator("#table-1 tbody.rows tr:visible")
    assert rows.count() == 2 and page.locator(".count").first.inner_text() == "2 of 8 rows"
    page.get_by_label("Only rows with").first.fill("")
    assert rows.count() == 8 and said == []


def test_a_name_is_text_and_pairs_are_shown(opened) -> None:
    page, said = opened
    assert page.locator("#table-1 tbody.rows th").first.inner_text() == HOSTILE
    assert page.locator("table.pairs-matrix").count() == 2
    better, worse = (page.locator(f"table.pairs-matrix .{side}").count() for side in ("better", "worse"))
    assert better == worse > 0
    assert page.locator("#pairs-1 tbody tr").count() == 28 and page.locator(".forests svg[aria-label]").count() == 2
    assert said == []


@pytest.mark.parametrize("width", [1440, 390])
def test_no_width_scrolls_the_page_sideways(opened, width: int) -> None:
    page, _ = opened
    page.set_viewport_size({"width": width, "height": 900})
    page.locator("summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_page_asks_no_network(hostile: Path) -> None:
    text = (hostile / "compare.html").read_text("utf-8")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert "<script>alert" not in text


def test_the_page_has_a_pair_table_only_where_there_are_pairs(tmp_path: Path, make: Callable, table_of) -> None:
    make(tmp_path / "a", table_of(1))
    assert main([str(tmp_path / "a"), f"to={tmp_path}"]) == 0
    assert "there is no pair to test" in (tmp_path / "compare.html").read_text()
