"""Generate the reference pages of the documentation: python scripts/docs_reference.py.

The pages are docs/reference/config/, docs/reference/commands.md and docs/tutorials/notebook.md, which git ignores.
Their sources are the files of conf/, the signatures and docstrings of the classes that they configure, the parser of
the command line, and docs/notebook.ipynb. With --check FOLDER, the script instead checks that a built site loads no
file from another server and that all of its files exist.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from reference.config_pages import (
    DESCRIPTIONS,
    GROUPS,
    as_sentence,
    code_cell,
    file_block,
    group_page,
    key_cell,
    markdown,
    text_cell,
)
from reference.option_files import CONF, group_files, read_option

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
ATTRIBUTES = {"a": "href", "link": "href"} | dict.fromkeys(
    ("script", "img", "iframe", "source", "audio", "video"), "src"
)
INTRODUCTION = """Every value of a run is a key of one config. `python train.py backbone=ast` selects an option of a
config group, and `python train.py backbone=ast backbone.depth=4` also sets one key. These pages are generated from the
files in `conf/` and from the signatures of the classes that they configure.

In the tables, a key with a plus, such as `+backbone.key`, is a parameter that no file sets: write the plus, too.
`null` is Python's `None`, and `???` a value that must be given. `${...}` refers to another key."""
DEFAULT = r"(.*?)(?:; )?(?:(\d+)<=x<=(\d+)|x>=(\d+))?"  # of an option, with the bounds of a number
OVERVIEW = """`etude` trains a network (`train`), prepares and shows a collection of clips (`prepare`, `explore`), uses
a trained network (`predict`, `embed`, `export`, `demo`, `inspect`), writes pages and tables about runs (`report`,
`compare`, `maps`, `dashboard`), lists stored embeddings (`cache`), and measures its speed (`bench`).
`etude COMMAND --help` prints the text of a section, and `etude train --help` a list of all config groups.
[Output of other commands](outputs.md) describes the files that the commands write, and [Run folder](run-folder.md)
those of `train`."""
GUIDES = {  # guide to each command
    "train": ("Change the settings of a run", "settings"),
    "prepare": ("Use your own data set", "datasets"),
    "explore": ("Use your own data set", "datasets"),
    "predict": ("Predict audio files", "predict"),
    "demo": ("Predict audio files", "predict"),
    "embed": ("Compute embeddings and tags", "embed"),
    "cache": ("Compute embeddings and tags", "embed"),
    "export": ("Export and deploy a network", "export"),
    "dashboard": ("Use trackers", "trackers"),
} | dict.fromkeys(("inspect", "report", "compare", "maps"), ("Compare and inspect runs", "results"))
LISTS = """An option with several values takes commas and can be repeated: `--format csv,json` is
`--format csv --format json`. [Exit statuses](exit-status.md) are the same for all commands.
`etude` itself has these options:"""
TRAIN = """`python train.py` in a checkout is the same command. [Config](config/index.md) lists the groups, their
options and all keys.

<div class="options" markdown>

| argument | default | description |
|---|---|---|
| <code>GROUP=OPTION</code> | | Select an option of a config group, such as `backbone=ast`. |
| <code>KEY=VALUE</code> | | Set one key, such as `trainer.max_epochs=50`. `+KEY=VALUE` adds a key. |
| <code>resume=FOLDER</code> | | Continue a run from its last completed epoch. |
| <code>-m, --multirun</code> | | Start a sweep: a run for each combination of values that commas separate. |
| <code>--cfg job</code> | | Print the config without running it. |
| <code>-cd, --config-dir FOLDER</code> | | Add the options in a folder to the config groups. |
| <code>-h, --help</code> | | List the config groups and their options, instead of this table. |
| <code>--hydra-help</code> | | List the other flags of Hydra. |

</div>
"""


def pages() -> dict[str, str]:
    """Return the Markdown text of all generated pages by path relative to docs/."""
    return {
        "reference/config/index.md": config_index(),
        **{f"reference/config/{group}.md": group_page(group) for group in GROUPS},
        "reference/commands.md": commands_page(),
        "tutorials/notebook.md": notebook_page(),
    }


def config_index() -> str:
    """Return the page about all groups and the keys outside of groups."""
    option = read_option(CONF / "train.yaml")
    rows = [entry for entry in option.entries if not entry.key.startswith(("hydra.", "choices"))]
    lines = ["# Config", "", INTRODUCTION, "", "| group | selects | options |", "|---|---|---|"]
    for group, text in GROUPS.items():
        lines.append(f"| [{group}]({group}.md) | {text} | {len(group_files(group)[0])} |")
    lines += ["", "## Keys outside of groups", "", '<div class="options" markdown>', ""]
    lines += ["| key | value | description |", "|---|---|---|"]
    for entry in rows:
        text = markdown(as_sentence(entry.comment or DESCRIPTIONS.get(entry.key, "")))
        lines.append(f"| {key_cell(entry.key)} | {code_cell(entry.value)} | {text_cell(text)} |")
    return "\n".join([*lines, "", "</div>", "", *file_block(option)]).rstrip() + "\n"


def commands_page() -> str:
    """Return the page of the command line, from the parser of `etude`."""
    import typer

    from etude.cli.app import app

    group: Any = typer.main.get_command(app)
    lines = ["# Command line", "", OVERVIEW, ""]
    lines += ["| command | purpose |", "|---|---|"]
    lines += [f"| [`etude {name}`](#{name}) | {command.short_help} |" for name, command in group.commands.items()]
    lines += ["", "## Options of all commands", "", LISTS, ""]
    lines += _table(group.params, typer.Context(group, info_name="etude"))
    for name, command in group.commands.items():
        context = typer.Context(command, info_name=f"etude {name}")
        lines += [f"## {name}", "", *_description(command.help or ""), ""]
        if name in GUIDES:
            title, page = GUIDES[name]
            lines += [f"Guide: [{title}](../how-to/{page}.md).", ""]
        if name == "train":
            lines += [TRAIN]
            continue
        usage = " ".join(command.get_usage(context).removeprefix("Usage: ").replace("{", "").replace("}", "").split())
        lines += ["```text", usage, "```", "", *_table(command.params, context)]
        if command.epilog:
            lines += ["```text", command.epilog.replace("\b", "").strip("\n"), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _description(text: str) -> list[str]:
    """Return the help text of a command as paragraphs."""
    return text.replace("\b", "").replace("<", "&lt;").split("\n")


def _table(parameters: list[Any], context: Any) -> list[str]:
    """Return the table of the arguments and options of a command."""
    rows = ["| argument | default | description |", "|---|---|---|"]
    for parameter in parameters:
        record = parameter.get_help_record(context)
        if record is None or "--help" in parameter.opts:
            continue
        names, text = record
        text, _, facts = text.partition("  [")
        facts = facts.removesuffix("]").removeprefix("default: ")
        default, low, high, minimum = re.fullmatch(DEFAULT, facts).groups()  # type: ignore[union-attr]
        default = default if default.startswith("(") or default in ("", "required") else f"`{default}`"
        if low or minimum:
            text += f" The minimum is {low or minimum}" + (f", the maximum {high}." if high else ".")
        names = names.replace(" <list[str]>", "...").replace(" <list[Path]>", "...").replace(" <Path>", "")
        cells = [f"<code>{_escape(names)}</code>", _escape(default.strip("()")), _escape(text)]
        rows.append(f"| {' | '.join(cells)} |")
    return ['<div class="options" markdown>', "", *rows, "", "</div>", ""]


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;").replace("*", "\\*")


def notebook_page() -> str:
    """Return the notebook as a page."""
    cells = json.loads((DOCS / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    lines = []
    for cell in cells:
        source = "".join(cell["source"]).rstrip()
        lines += ["```python", source, "```", ""] if cell["cell_type"] == "code" else [source, ""]
    title, _, rest = "\n".join(lines).partition("\n")
    note = "This page is the [notebook](../notebook.ipynb) without its outputs. Open the file in Jupyter to run it."
    return f"{title}\n\n{note}\n{rest.rstrip()}\n"


class AddressParser(HTMLParser):
    """Parser that collects the addresses in a page, with the name of their element."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the address of a link, or of an element that loads a file."""
        values = dict(attrs)
        if address := values.get(ATTRIBUTES.get(tag, "")):
            self.addresses.append((tag, address))


def faulty_addresses(site: Path) -> Iterator[str]:
    """Yield the files of a built site that load a file from another server, or refer to a file that does not exist."""
    for path in sorted(site.rglob("*")):
        if path.suffix == ".html":
            parser = AddressParser()
            parser.feed(path.read_text(encoding="utf-8"))
            addresses = parser.addresses
        elif path.suffix == ".css":
            text = path.read_text(encoding="utf-8")
            addresses = [("css", address) for address in re.findall(r"(?:url\(|@import )[\"']?([^\"')]+)", text)]
        else:
            continue
        for tag, address in addresses:
            name = unquote(re.split("[?#]", address)[0])
            if re.match(r"(https?:)?//", address):
                if tag != "a":
                    yield f"{path}: loads {address} from another server"
            elif ":" not in name and not (site / name[1:] if name.startswith("/") else path.parent / name).exists():
                yield f"{path}: refers to {address}, which does not exist"


def write_pages() -> None:
    """Write all pages whose text has changed, and remove pages of groups that no longer exist."""
    texts = pages()
    for path in (DOCS / "reference" / "config").glob("*.md"):
        if path.relative_to(DOCS).as_posix() not in texts:
            path.unlink()
    for name, text in texts.items():
        path = DOCS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def main() -> None:
    """Write the pages, or check a built site."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="folder of a built site")
    site = parser.parse_args().check
    if site is None:
        write_pages()
    elif faults := list(faulty_addresses(site)):
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
