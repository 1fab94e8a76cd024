"""Every command, link and name in README.md and docs/ exists, and the generated reference is complete."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import typer

from etude.cli.app import app
from etude.config.compose import conf_dir, parse_arguments
from etude.config.override_errors import override_errors
from etude.config.validation import config_errors
from etude.data import from_overrides
from etude.data.pack import PackOptions

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
STARTS = ("python ", "etude ", "torchrun ", "sbatch ", "srun ", "make ", "wandb ", "pip ")
CLI: Any = typer.main.get_command(app)


def load_reference() -> ModuleType:
    """Return the script that generates the reference pages, as a module."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "scripts" / "docs_reference.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return module


REFERENCE = load_reference()


@pytest.fixture(scope="module")
def generated() -> dict[Path, str]:
    """Return the text of the generated pages."""
    return {DOCS / name: text for name, text in REFERENCE.pages().items()}


def is_generated(path: Path) -> bool:
    name = path.relative_to(DOCS).as_posix()
    return name.startswith("reference/config/") or name in ("reference/commands.md", "tutorials/notebook.md")


PAGES = [ROOT / "README.md", *(path for path in sorted(DOCS.rglob("*.md")) if not is_generated(path))]


def commands() -> Iterator[tuple[str, str]]:
    """Yield the page and the text of each shell command of the documentation, without comments."""
    for page in PAGES:
        text = page.read_text("utf-8")
        blocks = [code for language, code in FENCE.findall(text) if language in ("bash", "sh", "")]
        prose = FENCE.sub("", text)
        blocks += ["\n".join(re.findall(r"^    (\S.*|    \S.*)$", prose, re.MULTILINE))]
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            stripped = re.sub(r"^(\w+=\S+ )+", "", line.strip())  # environment variables
            if stripped.startswith(STARTS):
                yield page.name, " ".join(re.sub(r"\s#.*", "", stripped).split())
        for code in re.findall(r"`([^`\n]+)`", prose):
            if code.startswith(STARTS) and "..." not in code and not code.endswith(".py"):
                yield page.name, code
    for line in re.findall(r"^  (etude .+)$", REFERENCE.commands_page(), re.MULTILINE):  # examples of the help
        yield "commands.md", re.split(r"\s{2,}| \| ", line)[0]


COMMANDS = sorted({command: page for page, command in commands()}.items())  # each command once


def split_command(command: str) -> list[str]:
    """Return the words of a command with its placeholders, such as <run>, replaced by names."""
    return [re.sub(r"<([^<>]+)>", r"\1", word) for word in shlex.split(command)]


def train_arguments(command: str) -> list[str] | None:
    """Return the arguments for `etude train` in a command; None if it does not train."""
    split = split_command(command)
    if split[:2] == ["etude", "train"]:
        return split[2:]
    program = next((name for name in ("train.py", "scripts/slurm.sh") if name in split), None)
    return [word for word in split[split.index(program) + 1 :] if word != "$@"] if program else None


def single_values(overrides: list[str], index: int) -> list[str]:
    """Return overrides of one run: the first (0) or last (-1) of several values, without a search space or a resume."""
    pairs = [word.split("=", 1) for word in overrides if "=" in word]
    return [
        f"{key}={re.split(r',(?![^[]*[]])', value)[index]}"
        for key, value in pairs
        if "(" not in value and not key.startswith(("hydra", "sweep.")) and key not in ("resume", "logger")
    ]


def documented_options() -> dict[str, str]:
    """Return the YAML files that the pages about extensions show, by path in a folder of configs."""
    blocks = [code for page in PAGES for language, code in FENCE.findall(page.read_text("utf-8")) if language == "yaml"]
    matches = [(re.match(r"# conf/(\S+\.yaml)\n", code), code) for code in blocks]
    return {match[1]: code for match, code in matches if match}


def uses_documented_option(overrides: list[str]) -> bool:
    return any(f"{override.replace('=', '/', 1)}.yaml" in documented_options() for override in overrides)


@pytest.fixture(scope="module")
def config_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the YAML files that the pages about extensions show."""
    folder = tmp_path_factory.mktemp("myconf")
    for name, text in documented_options().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.mark.parametrize(("command", "page"), [item for item in COMMANDS if train_arguments(item[0]) is not None])
def test_training_command_has_no_error(
    command: str, page: str, config: Callable[..., dict[str, Any]], config_folder: Path
) -> None:
    words = [str(config_folder) if word == "myconf" else word for word in train_arguments(command) or []]
    arguments = parse_arguments(words)
    extension = uses_documented_option(arguments.overrides)
    folder = str(config_folder) if extension else arguments.config_dir
    assert override_errors(arguments.overrides, arguments.multirun, folder, "train", validate=not extension) == []
    if extension or any(word.startswith("sweep=") for word in arguments.overrides):
        return  # a sweep changes the config itself, and override_errors has composed it
    for overrides in {tuple(single_values(arguments.overrides, index)) for index in (0, -1)}:
        assert config_errors(config(*overrides)) == []


@pytest.mark.parametrize(("command", "page"), [item for item in COMMANDS if item[0].startswith("etude ")])
def test_command_can_be_parsed(command: str, page: str, monkeypatch: pytest.MonkeyPatch, config_folder: Path) -> None:
    _, name, *arguments = split_command(command)
    if name.startswith("-"):
        assert name in {option for parameter in CLI.params for option in parameter.opts} | {"--help"}
        return
    if name == "COMMAND" or not arguments or "--help" in arguments:  # the name of a command in a sentence
        assert name == "COMMAND" or name in CLI.commands
        return
    context = CLI.commands[name].make_context(name, arguments)
    if name not in ("prepare", "explore"):
        return
    overrides = list(context.params["overrides"])
    if uses_documented_option(overrides):
        assert override_errors(overrides, False, str(config_folder), "train", validate=False) == []
        return
    stub = SimpleNamespace(pack_options=PackOptions())
    monkeypatch.setattr(from_overrides, "_build_module", lambda config: stub)
    assert from_overrides.datamodule_from_overrides(from_overrides.PrepareOptions(overrides)) is stub


def test_parser_finds_wrong_options() -> None:
    """The check of commands finds an unknown option, a wrong value and a missing argument."""
    for command in ("predict run song.mp3 --format xml", "predict run", "compare run --layout x", "export run --to x"):
        name, *arguments = command.split()
        with pytest.raises((typer.TyperException, ValueError)):
            CLI.commands[name].make_context(name, arguments)


@pytest.mark.parametrize(("command", "page"), [item for item in COMMANDS if re.match("python (?!train.py)", item[0])])
def test_script_exists(command: str, page: str) -> None:
    paths = [word for word in split_command(command) if re.match(r"(scripts|tests)/", word)]
    assert paths, "a Python command of the documentation runs a script or tests"
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(("command", "page"), [item for item in COMMANDS if item[0].startswith("make ")])
def test_make_target_exists(command: str, page: str) -> None:
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert command.split()[1] in targets


def test_extras_in_documentation_exist() -> None:
    pattern = r"(?:etude|'\.)\[([\w,]+)\]"
    named = {(page.name, name) for page in PAGES for name in re.findall(pattern, page.read_text("utf-8"))}
    assert len(named) > 10
    assert [(page, name) for page, names in named for name in names.split(",") if name not in EXTRAS] == []


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
    assert row == "| <code>backbone.<wbr>kernel</code> | `3` | Side of the filters, odd. *int* |"
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


def test_python_code_imports_existing_names() -> None:
    imported = 0
    for page in PAGES:
        for language, code in FENCE.findall(page.read_text("utf-8")):
            if language != "python":
                continue
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("etude"):
                    module = import_module(node.module)
                    assert [name.name for name in node.names if not hasattr(module, name.name)] == [], page.name
                    imported += len(node.names)
    assert imported > 4


def test_objects_of_api_pages_exist() -> None:
    names = [name for page in PAGES for name in re.findall(r"^::: (etude\.[\w.]+)$", page.read_text("utf-8"), re.M)]
    assert len(names) > 20
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert getattr(import_module(module), attribute).__doc__, name


def run_block(page: str, marker: str) -> dict[str, Any]:
    """Execute the Python block of a page that contains a text, and return its names."""
    text = (DOCS / "how-to" / page).read_text("utf-8")
    (block,) = [code for language, code in FENCE.findall(text) if language == "python" and marker in code]
    names: dict[str, Any] = {}
    exec(block, names)
    return names


def test_backbone_of_documentation_ignores_padding() -> None:
    names = run_block("new-backbone.md", "(Backbone)")
    torch.manual_seed(0)
    backbone, x, lengths = names["Average"](8), torch.randn(2, 5, 8), torch.tensor([5, 3])
    with torch.no_grad():
        embedding = backbone(x, lengths)
        x[1, 3:] = 100.0
        assert embedding.shape == (2, backbone.dim) and torch.equal(backbone(x, lengths), embedding)


def test_source_of_documentation_returns_a_collection(tmp_path: Path) -> None:
    rows = [(f"{genre}{k}", genre, f"artist {k}", 1.0 + k) for genre in ("jazz", "rock") for k in range(3)]
    table = pd.DataFrame(rows, columns=["id", "genre", "artist", "valence"])
    table.to_csv(tmp_path / "ratings.csv", index=False)
    collection = run_block("new-source.md", "ratings.csv")["collection"](str(tmp_path))
    assert collection.targets["genre"]["classes"] == ["jazz", "rock"]
    assert collection.targets["valence"]["high"] == 9.0
    assert collection.table["group"].nunique() == 3


def test_misspelt_override_is_an_error() -> None:
    """The check of the training commands finds faults in keys, groups and options."""
    for override in ("trainer.max_epoch=3", "backbon=lstm", "backbone=lst"):
        assert override_errors([override], False, None, "train"), override


def test_options_of_config_groups_in_inline_code_exist() -> None:
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()} - {"hydra"}
    checked = 0
    for page in PAGES:
        for code in re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text("utf-8"))):
            match = re.fullmatch(r"(\w+)=([\w/]+)", code)
            if match and match[1] in groups and not match[2].isdigit():
                assert (conf_dir() / match[1] / f"{match[2]}.yaml").is_file(), f"{page.name}: {code}"
                checked += 1
    assert checked > 10


def test_modules_in_documentation_exist() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        for path in re.findall(r"`((?:src|tests|conf|scripts)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
        for module in re.findall(r"`python -m (etude[\w.]*)", text):
            assert importlib.util.find_spec(module), f"{page.name}: {module}"
