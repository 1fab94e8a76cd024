"""Links, navigation and generated reference pages of the documentation."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tests.documentation import (
    CLI,
    DOCS,
    FENCE,
    PAGES,
    REFERENCE,
    ROOT,
    is_generated,
)

from etude.config.compose import conf_dir


@pytest.fixture(scope="module")
def generated() -> dict[Path, str]:
    """Return the text of the generated pages."""
    return {DOCS / name: text for name, text in REFERENCE.pages().items()}


def links(text: str) -> list[tuple[str, str]]:
    """Return the path and the anchor of each link to a file in a Markdown text."""
    found = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", FENCE.sub("", text))
    return [(path, anchor) for path, anchor in found if not path.startswith("http")]


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings of a Markdown text."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    explicit = {match[1] for title in titles if (match := re.search(r"\{ #([\w-]+) \}", title))}
    plain = [re.sub(r"[^\w\- ]", "", title).strip().lower() for title in titles]
    return explicit | {title.replace(" ", "-") for title in plain}


def test_links_between_pages_exist(generated: dict[Path, str]) -> None:
    texts = {page: page.read_text("utf-8") for page in PAGES} | generated
    checked = 0
    for page, text in texts.items():
        for path, anchor in links(text):
            target = (page.parent / path).resolve() if path else page
            assert target in texts or target.exists(), f"{page.name}: {path}"
            if anchor:
                assert anchor in anchors(texts[target]), f"{page.name}: {path}#{anchor}"
            checked += 1
    assert checked > 100


def test_readme_links_to_no_generated_page() -> None:
    """The pages exist only in the built site, and README.md is read on its own."""
    paths = [(ROOT / path) for path, _ in links((ROOT / "README.md").read_text("utf-8")) if path.startswith("docs/")]
    assert len(paths) > 20
    assert [path for path in paths if is_generated(path)] == []


def test_navigation_contains_every_page(generated: dict[Path, str]) -> None:
    def paths(items: list[Any]) -> Iterator[str]:
        for item in items:
            for value in item.values():
                yield from [value] if isinstance(value, str) else paths(value)

    listed = list(paths(tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"]))
    assert len(listed) == len(set(listed))
    assert {DOCS / path for path in listed} == {page for page in PAGES if page != ROOT / "README.md"} | set(generated)


def test_navigation_has_the_titles_of_the_pages(generated: dict[Path, str]) -> None:
    """A link in the navigation and the page that it opens have the same name."""

    def entries(items: list[Any]) -> Iterator[tuple[str, str]]:
        for item in items:
            for title, value in item.items():
                yield from [(title, value)] if isinstance(value, str) else entries(value)

    texts = {page: page.read_text("utf-8") for page in PAGES} | generated
    listed = list(entries(tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"]))
    titles = [(title, texts[DOCS / path].partition("\n")[0].removeprefix("# ")) for title, path in listed]
    assert len(titles) > 40
    assert [pair for pair in titles if pair[0] not in ("Home", pair[1])] == []


def test_reference_has_no_placeholder_that_is_read_as_an_element(generated: dict[Path, str]) -> None:
    """A browser does not show `<run>` outside of code."""
    for page, text in generated.items():
        shown = re.sub(r"^    .*$", "", FENCE.sub("", text), flags=re.MULTILINE)
        found = set(re.findall(r"<\w+>", re.sub(r"`[^`]+`", "", shown))) - {"<code>", "<wbr>"}
        assert found == set(), page.name
    assert "`<run>`" in REFERENCE.markdown("see `<run>`") and REFERENCE.markdown("see <run>") == "see &lt;run>"


def test_comments_of_configs_become_markdown() -> None:
    """Commands, keys and paths of pages in a comment become code and links."""
    comment = ["A search with", "optim.lr=1e-3 (docs/glossary.md):", "python train.py -m resume=<run>", "Changed: x"]
    config_pages = import_module(REFERENCE.markdown.__module__)
    assert config_pages.paragraphs(comment) == [
        "A search with `optim.lr=1e-3` ([Glossary](../../glossary.md)):",
        "",
        "```bash",
        "python train.py -m resume=<run>",
        "```",
        "",
        "Changed: x.",
        "",
    ]
    sentences = {
        text: config_pages.as_sentence(text) for text in ("macro-F1 of a", "torch.compile for it", "null: none")
    }
    assert list(sentences.values()) == ["Macro-F1 of a.", "torch.compile for it.", "null: none."]


def test_every_config_file_is_in_the_reference(generated: dict[Path, str]) -> None:
    files = [path.relative_to(conf_dir()) for path in conf_dir().rglob("*.yaml")]
    pages = {page.stem: text for page, text in generated.items() if page.parent.name == "config"}
    checked = 0
    for path in files:
        if path.name in ("wandb_sweep.yaml", "etude.yaml"):  # a file for `wandb sweep`, and the format of the log
            continue
        group = path.parts[0] if len(path.parts) > 1 else "index"
        assert f'"conf/{path.as_posix()}"' in pages[group], path
        checked += 1
    assert checked > 100


def test_reference_describes_keys_of_options(generated: dict[Path, str]) -> None:
    backbone = generated[DOCS / "reference" / "config" / "backbone.md"]
    row = next(line for line in backbone.splitlines() if "<code>backbone.<wbr>kernel</code>" in line)
    description = r"Side of the filters, odd. A list has one value for each block. *int \| Sequence[int]*"
    assert row == f"| <code>backbone.<wbr>kernel</code> | `3` | {description} |"
    described, keys = 0, 0
    for page, text in generated.items():
        if page.parent.name == "config":
            rows = re.findall(r"^\| <code>.+</code> \| .* \|(.*)\|$", text, re.MULTILINE)
            keys, described = keys + len(rows), described + sum(bool(row.strip()) for row in rows)
    assert keys > 200 and described > 0.8 * keys


def test_every_command_and_option_is_in_the_reference() -> None:
    text = REFERENCE.commands_page()
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))
    assert set(CLI.commands) <= set(sections)
    for name, command in CLI.commands.items():
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        assert [option for option in options if option not in sections[name]] == [], name


def test_check_of_site_finds_missing_files_and_other_servers(tmp_path: Path) -> None:
    page = '<a href="https://a.org">x</a><script src="https://cdn.org/x.js"></script><a href="#top">y</a>'
    (tmp_path / "page.html").write_text(f'{page}<img src="missing.png"><a href="page.html?q=1#end">z</a>')
    (tmp_path / "site.css").write_text(
        "a { background: url(//fonts.org/x.woff) } b { background: url(data:image/png) }"
    )
    faults = [line.partition(": ")[2] for line in REFERENCE.faulty_addresses(tmp_path)]
    assert faults == [
        "loads https://cdn.org/x.js from another server",
        "refers to missing.png, which does not exist",
        "loads //fonts.org/x.woff from another server",
    ]
