"""Every command and every name in README.md and docs/ exists."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from etude.config import options
from etude.config.compose import conf_dir, parse_arguments
from etude.config.override_errors import override_errors
from etude.config.validation import config_errors
from etude.data import from_overrides
from etude.data.pack import PackOptions
from etude.reports.comparison.compare import parse_options

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
STARTS = ("python ", "etude ", "torchrun ", "sbatch ", "srun ", "make ", "wandb ", "pip ")


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


COMMANDS = sorted(set(commands()))


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


@pytest.mark.parametrize(("page", "command"), [item for item in COMMANDS if train_arguments(item[1]) is not None])
def test_training_command_has_no_error(page: str, command: str, config: Callable[..., dict[str, Any]]) -> None:
    arguments = parse_arguments(train_arguments(command) or [])
    assert override_errors(arguments.overrides, arguments.multirun, arguments.config_dir, "train") == []
    if any(word.startswith("sweep=") for word in arguments.overrides):
        return  # a sweep changes the config itself, and override_errors has composed it
    for index in (0, -1):
        assert config_errors(config(*single_values(arguments.overrides, index))) == []


@pytest.mark.parametrize(("page", "command"), [item for item in COMMANDS if "scripts/" in item[1]])
def test_command_has_known_options(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_command(command)
    script = next(Path(word) for word in split if word.startswith("scripts/"))
    assert (ROOT / script).is_file()
    if script.stem in ("slurm", "recipe", "gallery", "bench", "report"):
        return  # no options in the form key=value, or tested above
    arguments = split[split.index(str(script)) + 1 :]
    if script.stem == "compare":
        assert parse_options(arguments)
        return
    module = import_module({"latent": "etude.cli.maps"}.get(script.stem, f"etude.cli.{script.stem}"))
    others, _ = options.split_options(arguments, module.OPTIONS)
    if script.stem in ("prepare", "explore"):
        stub = SimpleNamespace(pack_options=PackOptions())
        monkeypatch.setattr(from_overrides, "_build_module", lambda config: stub)
        assert from_overrides.datamodule_from_overrides(others)[0] is stub
    else:
        assert [word for word in others if not options.is_name(word)] == []


@pytest.mark.parametrize(("page", "command"), [item for item in COMMANDS if item[1].startswith("make ")])
def test_make_target_exists(page: str, command: str) -> None:
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert command.split()[1] in targets


def test_extras_in_documentation_exist() -> None:
    named = {(page.name, name) for page in PAGES for name in re.findall(r"etude\[([\w,]+)\]", page.read_text("utf-8"))}
    assert len(named) > 10
    assert [(page, name) for page, names in named for name in names.split(",") if name not in EXTRAS] == []


def test_links_between_pages_exist() -> None:
    links = [
        (page, link)
        for page in PAGES
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
        if not link.startswith("http")
    ]
    assert len(links) > 20
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []


def test_sections_in_links_exist() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        for name, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", text):
            if name.startswith("http"):
                continue
            target = (page.parent / name).read_text("utf-8") if name else text
            titles = [
                re.sub(r"[^\w\- ]", "", title).strip().lower() for title in re.findall(r"^#+ (.+)$", target, re.M)
            ]
            assert anchor in [title.replace(" ", "-") for title in titles], f"{page.name}: {name}#{anchor}"


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


def test_backbone_of_documentation_ignores_padding() -> None:
    text = (ROOT / "docs" / "extending.md").read_text("utf-8")
    (block,) = [code for language, code in FENCE.findall(text) if language == "python" and "(Backbone)" in code]
    names: dict[str, Any] = {}
    exec(block, names)
    torch.manual_seed(0)
    backbone, x, lengths = names["Average"](8), torch.randn(2, 5, 8), torch.tensor([5, 3])
    with torch.no_grad():
        embedding = backbone(x, lengths)
        x[1, 3:] = 100.0
        assert embedding.shape == (2, backbone.dim) and torch.equal(backbone(x, lengths), embedding)


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
