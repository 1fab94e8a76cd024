"""Every command, name and example in README.md and docs/ works."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import typer
from tests.documentation import (
    CLI,
    COMMANDS,
    DOCS,
    EXTRAS,
    FENCE,
    PAGES,
    ROOT,
    documented_options,
    single_values,
    split_command,
    train_arguments,
    uses_documented_option,
)

from etude.config.compose import conf_dir, parse_arguments
from etude.config.override_errors import override_errors
from etude.config.validation import config_errors
from etude.data import from_overrides
from etude.data.pack import PackOptions
from etude.embeddings import checkpoints
from etude.evaluation.means import check_functions
from etude.tasks.targets import Scalar

HUB = {  # files of a repository of the hub that commands name
    "config.json": {"model_type": "hubert"},
    "preprocessor_config.json": {"feature_extractor_type": "Wav2Vec2FeatureExtractor"},
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "read_model_json", lambda model, name: HUB.get(name))


@pytest.fixture(scope="module")
def config_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the YAML files that the pages about extensions show."""
    folder = tmp_path_factory.mktemp("myconf")
    for name, text in documented_options().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture(autouse=True, scope="module")
def documented_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make the modules importable that pages show, which begin with their names, such as `# musicmetrics.py`."""
    folder = tmp_path_factory.mktemp("modules")
    for page in PAGES:
        for language, code in FENCE.findall(page.read_text("utf-8")):
            if language == "python" and (match := re.match(r"# (\w+\.py)\n", code)):
                (folder / match[1]).write_text(code, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the table whose columns are tasks in commands, into the working directory."""
    labels, values = ["x", "y"] * 6, [*range(12)]
    columns = dict.fromkeys(("genre", "mood", "vocal", "my mood", "Größe"), labels)
    columns |= dict.fromkeys(("path", "tempo", "rating", "fold", "tension"), values)
    columns["rating"] = [1 + i / 3 for i in range(12)]
    pd.DataFrame(columns).to_csv(tmp_path / "clips.csv", index=False)
    (tmp_path / "wavs").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(("command", "page"), [item for item in COMMANDS if train_arguments(item[0]) is not None])
def test_training_command_has_no_error(
    command: str, page: str, config: Callable[..., dict[str, Any]], config_folder: Path
) -> None:
    words = [str(config_folder) if word == "myconf" else word for word in train_arguments(command) or []]
    arguments = parse_arguments(words)
    extension = uses_documented_option(arguments.overrides)
    folder = str(config_folder) if extension else arguments.config_dir
    assert override_errors(arguments.overrides, arguments.multirun, folder, "train", validate=not extension) == []
    if extension or not arguments.multirun or any(word.startswith("sweep=") for word in arguments.overrides):
        return  # override_errors has composed and validated the config of a run, and of a sweep, which changes it
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
    for command in ("predict run song.mp3 --format xml", "inspect", "compare run --layout x", "export run --to x"):
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


def test_functions_of_documentation_are_a_metric_and_a_loss() -> None:
    names = run_block("new-metric.md", "# musicmetrics.py")
    nodes = {"valence": {"metrics": {"near": {"_target_": "musicmetrics.near", "range": [0, 1]}}}}
    check_functions(nodes, {"valence": {"kind": "scalar", "low": 1.0, "high": 9.0}})
    target = Scalar("valence", {"low": 1.0, "high": 9.0}, names["pinball"])
    loss = target.loss(torch.zeros(3, 1), torch.tensor([9.0, 1.0, float("nan")]))
    torch.testing.assert_close(loss, torch.tensor([0.35, 0.15, 0.0]))


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
            if match and match[1] in groups and not match[2].isdigit() and code != "task=auto":  # has no file
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
