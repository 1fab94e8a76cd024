"""Pages of the documentation, their commands, and the generator of the reference."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import typer

from etude.cli.app import app

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
        f"{key}={re.split(r',(?![^[{]*[]}])', value)[index]}"
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
