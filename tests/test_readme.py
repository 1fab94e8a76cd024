"""The layout in README.md is the layout of the package."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from etude.config.compose import conf_dir

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
LAYOUT = re.search(r"## Layout\n(.*?)\n## ", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


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
