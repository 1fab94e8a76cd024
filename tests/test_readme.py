"""The README says what the project does today."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etude.config.compose import conf_dir
from etude.config.validation import problems

ROOT = Path(__file__).parents[1]
LINES = re.findall(r"^    (?:python|etude) [^#\n]+", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
HOUSE = re.search(r"## The house\n(.*?)\n## ", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("line", [line.strip() for line in LINES if "train.py" in line and "--help" not in line])
def test_every_training_command_composes(line: str, config: Callable[..., dict[str, Any]]) -> None:
    words = [word.replace("<", "").replace(">", "") for word in shlex.split(line)[2:] if not word.startswith("-")]
    words = [word for word in words if word != "job"]  # of --cfg job
    for pick in (0, -1):  # the first and the last value of every swept one
        picked = [(key, re.split(r",(?![^\[]*\])", value)[pick]) for key, value in (word.split("=") for word in words)]
        assert problems(config(*(f"{key}={value}" for key, value in picked))) == []


@pytest.mark.parametrize("line", [line.strip() for line in LINES if "scripts/" in line])
def test_every_script_is_there(line: str) -> None:
    assert (ROOT / line.split()[1]).is_file()


def test_the_picture_of_the_house_is_true() -> None:
    assert HOUSE is not None
    named = set(re.findall(r"[a-z_]+\.py", HOUSE[1])) | {"__main__.py"}
    for path in (ROOT / "src" / "etude").glob("*.py"):
        assert path.name in named | {"__init__.py", "errors.py", "progress.py"}, f"{path.name} is not in the picture"
    for name in named:
        assert list(ROOT.glob(f"{name}")) or list((ROOT / "src" / "etude").glob(name)), f"{name} is not there"
    for folder in (path for path in (ROOT / "src" / "etude").iterdir() if (path / "__init__.py").is_file()):
        assert f"{folder.name}/" in HOUSE[1]
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "hydra"}
    assert groups <= set(HOUSE[1].split())
