"""Tests of Markdown, LaTeX and the interactive page of a comparison."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.commands import compare as main

from etude.reports.comparison.axes import CompareOptions
from etude.reports.comparison.compare import compare
from etude.reports.comparison.table import Cell, Table
from etude.reports.comparison.text import escape_latex, escape_markdown, print_comparison, to_latex, to_markdown

HOSTILE = "<script>alert(1)</script>"
MARKS = r"50% & x_1 $a$ #1 {b} ~ ^ \ | *c* `d`"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, grid: Path) -> Path:
    """Sweep with two runs whose names contain markup."""
    sweep = tmp_path_factory.mktemp("hostile") / "sweep"
    shutil.copytree(grid, sweep, ignore=shutil.ignore_patterns("compare.*"))
    for folder, name in (("0_lstm_mel", HOSTILE), ("1_lstm_mel", MARKS)):
        path = sweep / folder / "record.json"
        path.write_text(path.read_text().replace('"name": "lstm_mel"', f'"name": {json.dumps(name)}'))
    assert main([str(sweep)]) == 0
    return sweep


def test_markdown_escapes_names(hostile: Path) -> None:
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
    assert escape_latex(MARKS) in body
    assert re.sub(r"\\[&%$#_{}]|\\[a-z]+|\{|\}|\$(\\pm|-|\^2|\\rho)\$", "", escape_latex(MARKS)).isascii()
    unescaped = re.sub(r"\\.", "", body)  # without escaped characters
    assert (
        unescaped.count("{") == unescaped.count("}")
        and unescaped.count("$") % 2 == 0
        and "#" not in unescaped
        and "%" not in unescaped
    )
    for tabular in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", body, re.S):
        lines = [line for line in tabular[1].splitlines() if line.rstrip().endswith(r"\\")]
        for line in lines:
            spans = [int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans) == len(tabular[0])


def test_latex_has_column_headers_over_several_columns(grid: Path) -> None:
    comparison = compare([grid], CompareOptions(layout="classes"), tests=False)
    text = to_latex(comparison)
    assert r"\multicolumn{6}{c}{lstm}" in text and r"\multicolumn{3}{c}{mel}" in text
    assert r"\cmidrule(lr){2-7} \cmidrule(lr){8-13}" in text
    assert r"\textbf{" in text and "**" in to_markdown(comparison)


def test_every_cell_is_in_every_format(grid: Path) -> None:
    comparison = compare([grid], CompareOptions(layout="metrics"), tests=False)
    for escape in (escape_markdown, escape_latex):
        text = to_markdown(comparison) + to_latex(comparison)
        for table in comparison.tables:
            for row, col in table.cells:
                assert escape(table.cell_text(row, col)) in text


def test_page_without_scores_has_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("name: a")
    assert main([str(tmp_path)]) == 0
    assert "unfinished" in capsys.readouterr().out
    assert "so there is no figure" in (tmp_path / "compare.html").read_text()


def test_clip_counts_are_shown_once_or_where_they_differ() -> None:
    def table(*counts: int) -> Table:
        rows, cols = [("a",), ("b",)], [("x",), ("y",)]
        positions = [(row, col) for row in rows for col in cols]
        cells = {p: Cell((0.5,), n=frozenset({n})) for p, n in zip(positions, counts, strict=True)}
        return Table("", ("r",), rows, cols, cells)

    assert table(5, 5, 5, 5).clip_counts() == ("5", {}, False)
    assert table(5, 6, 5, 6).clip_counts() == ("", {("x",): "5", ("y",): "6"}, False)
    assert table(5, 5, 6, 6).clip_counts() == ("", {("a",): "5", ("b",): "6"}, False)
    assert table(5, 6, 6, 5).clip_counts() == ("", {}, True)


@pytest.fixture
def opened(browser, hostile: Path) -> Iterator[tuple]:
    """Page from disk in a browser without network, and the list of its console messages, errors and dialogs."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, offline=True)
    page, messages = context.new_page(), []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("dialog", lambda dialog: (messages.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.goto((hostile / "compare.html").as_uri())
    yield page, messages
    context.close()


def read_column(page, number: int) -> list[float]:
    return page.eval_on_selector_all(
        f"#table-1 tbody.rows td:nth-child({number})", "cells => cells.map(cell => Number(cell.dataset.value))"
    )


def test_column_headers_sort_by_mouse_and_keyboard(opened) -> None:
    page, messages = opened
    header = page.locator("#table-1 thead tr:last-child th", has_text="macro-F1")
    number = header.evaluate("header => header.cellIndex") + 1
    before = read_column(page, number)
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending" and read_column(page, number) == sorted(before) != before
    header.locator("button").focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending" and read_column(page, number) == sorted(
        before, reverse=True
    )
    page.locator("#table-1 thead th", has_text="feature").locator("button").click()
    assert header.get_attribute("aria-sort") == "none"
    assert page.locator("#table-1 tbody").last.inner_text().startswith("linear model")
    assert messages == []


def test_filter_shows_rows_with_all_words(opened) -> None:
    page, messages = opened
    page.get_by_label("Show rows with").first.fill("CNN fused")
    rows = page.locator("#table-1 tbody.rows tr:visible")
    assert rows.count() == 2 and page.locator(".row-count").first.inner_text() == "2 of 8 rows"
    page.get_by_label("Show rows with").first.fill("")
    assert rows.count() == 8 and messages == []


def test_names_are_text_and_pairs_are_shown(opened) -> None:
    page, messages = opened
    assert page.locator("#table-1 tbody.rows th").first.inner_text() == HOSTILE
    assert page.locator("table.pairs-matrix").count() == 2
    better, worse = (page.locator(f"table.pairs-matrix .{side}").count() for side in ("better", "worse"))
    assert better == worse > 0
    assert (
        page.locator("#pairs-1 tbody tr").count() == 28 and page.locator(".forest-plots svg[aria-label]").count() == 2
    )
    assert messages == []


@pytest.mark.parametrize("width", [1440, 390])
def test_page_does_not_scroll_horizontally(opened, width: int) -> None:
    page, _ = opened
    page.set_viewport_size({"width": width, "height": 900})
    page.locator("summary").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_scores_are_visible_beside_long_settings(browser, tmp_path: Path, write_run, make_table) -> None:
    lists = [[f"{kind} of feature {i}" for i in range(8)] for kind in ("mean", "maximum")]
    for i, values in enumerate(lists):
        config = {"optim": {"lr": 10.0**-i}, "features": values, "data": {"crop": i, "stratify": f"column {i}"}}
        write_run(tmp_path / f"{i}_run", make_table(), config)
    assert main([str(tmp_path)]) == 0
    page = browser.new_page(viewport={"width": 1280, "height": 900}, offline=True)
    page.goto((tmp_path / "compare.html").as_uri())
    boxes = [score.bounding_box() for score in page.locator("#table-1 .number").all()]
    assert len(boxes) >= 4 and all(box["x"] + box["width"] < 1280 for box in boxes)
    titles = page.locator("#table-1 td.setting [title]")
    assert [cell.get_attribute("title") for cell in titles.all()] == [str(values) for values in lists]
    assert all(len(cell.inner_text()) == 80 for cell in titles.all())
    page.close()


def test_page_has_no_external_resources(hostile: Path) -> None:
    text = (hostile / "compare.html").read_text("utf-8")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert "<script>alert" not in text


def test_page_of_one_run_has_no_table_of_pairs(tmp_path: Path, write_run: Callable, make_table) -> None:
    write_run(tmp_path / "a", make_table(1))
    assert main([str(tmp_path / "a"), f"--out={tmp_path}"]) == 0
    assert "so no pair can be tested" in (tmp_path / "compare.html").read_text()


@pytest.mark.parametrize("width", [80, 100, 400])
def test_tables_fit_into_the_terminal(grid: Path, width: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Narrow terminals show a table in parts. Every score is in one of them."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    comparison = compare([grid], CompareOptions(layout="metrics"), tests=False)
    print_comparison(comparison)
    printed = re.sub("\x1b[^m]*m", "", capsys.readouterr().out)
    tables = [line for line in printed.splitlines() if line.startswith(" ")]
    assert max(map(len, tables)) <= width
    heads = [line for line in tables if line.startswith(" ──")]
    assert len(heads) == len(comparison.tables) if width == 400 else len(heads) > len(comparison.tables)
    shown = " ".join(tables)
    for table in comparison.tables:
        for position, cell in table.cells.items():
            assert cell is not None and table.cell_text(*position) in shown
