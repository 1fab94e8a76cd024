"""The README says what the project does today."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.config.compose import conf_dir
from etude.config.validation import config_errors

ROOT = Path(__file__).parents[1]
LINES = re.findall(r"^    (?:python|etude) [^#\n]+", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
LAYOUT = re.search(r"## Layout\n(.*?)\n## ", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("line", [line.strip() for line in LINES if "train.py" in line and "--help" not in line])
def test_every_training_command_composes(line: str, config: Callable[..., dict[str, Any]]) -> None:
    words = [word.replace("<", "").replace(">", "") for word in shlex.split(line)[2:] if not word.startswith("-")]
    words = [word for word in words if word != "job"]  # of --cfg job
    for pick in (0, -1):  # the first and the last value of every swept one
        picked = [(key, re.split(r",(?![^\[]*\])", value)[pick]) for key, value in (word.split("=") for word in words)]
        assert config_errors(config(*(f"{key}={value}" for key, value in picked))) == []


@pytest.mark.parametrize("line", [line.strip() for line in LINES if "scripts/" in line])
def test_every_script_is_there(line: str) -> None:
    assert (ROOT / line.split()[1]).is_file()


def test_imports_of_etude_in_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    imports = re.findall(r"^from (etude[\w.]*) import (.+)$", text, re.MULTILINE)
    assert imports
    for module, names in imports:
        assert [name for name in names.split(", ") if not hasattr(import_module(module), name)] == [], module


def test_backbone_of_readme_ignores_padding() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "(Backbone)" in code]
    names: dict[str, Any] = {}
    exec(block, names)
    torch.manual_seed(0)
    net, x, lengths = names["Average"](8), torch.randn(2, 5, 8), torch.tensor([5, 3])
    with torch.no_grad():
        z = net(x, lengths)
        x[1, 3:] = 100.0
        assert z.shape == (2, net.dim) and torch.equal(net(x, lengths), z)


def test_layout_in_readme_is_the_import_contract() -> None:
    assert LAYOUT is not None
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    listed = re.findall(r"^      (\w+)(?:/|\.py) ", LAYOUT[1], re.MULTILINE)
    assert listed == layers[::-1]
    package = ROOT / "src" / "etude"
    folders = {path.name for path in package.iterdir() if (path / "__init__.py").is_file()}
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert set(listed) == folders | modules


def test_layout_in_readme_names_every_config_group() -> None:
    assert LAYOUT is not None
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "hydra"}
    assert groups <= set(LAYOUT[1].split())


def test_no_contract_ignores_an_import() -> None:
    assert all(key not in contract for contract in SETTINGS["contracts"] for key in ("ignore_imports", "skip"))
    assert not SETTINGS.get("exclude_type_checking_imports", False)
