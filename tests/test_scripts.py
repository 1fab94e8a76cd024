"""Tests of the help of all scripts, one of which has the name of a module of Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_every_script_has_help(script: Path, tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, str(script), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert script.stem in result.stdout
    assert not result.stderr


@pytest.mark.parametrize("path", [str(SCRIPTS), ""], ids=["by path", "from its folder"])
def test_import_of_inspect_in_a_script_is_the_module_of_python(path: str) -> None:
    code = (
        f"import sys; sys.path.insert(0, {path!r}); import inspect; print(inspect.__file__, inspect.signature(print))"
    )
    result = subprocess.run([sys.executable, "-I", "-c", code], cwd=SCRIPTS, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert str(SCRIPTS) not in result.stdout and "sep=' '" in result.stdout


def test_help_of_inspect_imports_no_heavy_package() -> None:
    code = "import sys; from etude.cli.app import run_command; run_command('inspect', ['--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "matplotlib", "pandas", "numpy", "hydra", "captum"} & set(out.split())
