"""Signatures that are read from the source equal those of the imported objects, and nothing is imported."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from etude.config.compose import conf_dir
from etude.config.validation import signature


def targets(node: Any) -> Iterator[str]:
    """Yield every `_target_` of a config."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from targets(value)


PATHS = [path for path in sorted(conf_dir().rglob("*.yaml")) if path.relative_to(conf_dir()).parts[0] != "hydra"]
FILES = [OmegaConf.to_container(OmegaConf.load(path)) for path in PATHS]  # Hydra itself instantiates those in hydra/
TARGETS = sorted({name for file in FILES for name in targets(file)})
OTHERS = ("pytorch_lightning.LightningModule", "pytorch_lightning.callbacks.EarlyStopping", "etude.cli.train.main")


def inspected(name: str) -> tuple[list[str], bool]:
    """Return the parameters of a target, and whether it accepts any other name."""
    module, _, attribute = name.rpartition(".")
    parameters = inspect.signature(getattr(import_module(module), attribute)).parameters.values()
    is_open = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
    return [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)], is_open


def test_conf_contains_targets() -> None:
    assert len(TARGETS) > 15
    assert "pytorch_lightning.Trainer" in TARGETS


@pytest.mark.parametrize("name", [*TARGETS, *OTHERS])
def test_signature_equals_that_of_inspect(name: str) -> None:
    actual = signature(name)
    assert actual is not None
    assert (list(actual.parameters), actual.accepts_any) == inspected(name)


@pytest.mark.parametrize("name", [name for name in TARGETS if name.startswith("etude.")])
def test_annotations_are_those_in_the_source(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    actual = signature(name)
    assert actual is not None
    for key, parameter in inspect.signature(getattr(import_module(module), attribute)).parameters.items():
        if key in actual.parameters and parameter.annotation is not parameter.empty:
            assert actual.parameters[key] == ast.unparse(ast.parse(parameter.annotation))


SHAPES = """
from dataclasses import dataclass, field
from typing import ClassVar
from .near import Far, far as beside
from . import near

class Plain:
    def __init__(self, a: int, *rest, b: str = "b"): ...
class Open:
    def __init__(self, a, /, **more: float): ...
class Child(Plain):
    size = 3
    def method(self, x): ...
class Grandchild(Child): ...
class Both(Far, Plain): ...
class Borrowed(Far):
    def other(self): ...
class Empty: ...
@dataclass(eq=True)
class Record:
    a: int
    b: str = "b"
    constant = 3
    def c(self): ...
@dataclass
class Longer(Record):
    c: float = 1.0
class Heir(Longer): ...
@dataclass
class Counted:
    a: int
    limit: ClassVar[int] = 3
    seen: list[int] = field(default_factory=list, init=False)
def function(x: int, *, y: bool = True, **rest): ...
"""
NEAR = """
class Far:
    def __init__(self, near: float, **rest): ...
def far(q: int): ...
"""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Create a package with classes and functions of all kinds, and return its name."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "shapes_for_signature").mkdir()
    (folder / "shapes_for_signature" / "__init__.py").write_text(SHAPES)
    (folder / "shapes_for_signature" / "near.py").write_text(NEAR)
    sys.path.insert(0, str(folder))
    yield "shapes_for_signature"
    sys.path.remove(str(folder))


@pytest.mark.parametrize(
    "name",
    ["Plain", "Open", "Child", "Grandchild", "Both", "Borrowed", "Empty", "Record", "Longer", "Heir", "Counted",
     "function", "beside", "near.Far"],
)  # fmt: skip
def test_definition_of_any_kind_is_read(shapes: str, name: str) -> None:
    actual = signature(f"{shapes}.{name}")
    assert actual is not None
    assert (list(actual.parameters), actual.accepts_any) == inspected(f"{shapes}.{name}")


def test_unreadable_base_class_makes_signature_accept_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing check is better than an error for a valid key."""
    source = "import logging\nimport pytorch_lightning as pl\nclass Mine(pl.callbacks.EarlyStopping):\n    pass\n"
    (tmp_path / "unread_base.py").write_text(source + "class Filter(logging.Handler): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("Mine", "Filter"):
        actual = signature(f"unread_base.{name}")
        assert actual is None or actual.accepts_any


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("etude.backbones.cnn.Cnn", "etude.backbones.cnn has no Cnn"),
        ("etude.backbones.rnn.RNN", "there is no module etude.backbones.rnn"),
        ("no_such_package.Thing", "there is no module no_such_package"),
        ("etude.nothing.at.All", "there is no module etude.nothing.at"),
        ("Trainer", "there is no module"),
        ("", "there is no module"),
    ],
)
def test_missing_module_or_name_is_reported(name: str, message: str) -> None:
    with pytest.raises(LookupError, match=message):
        signature(name)


def test_signature_imports_no_package() -> None:
    code = f"""
import sys
from etude.config.validation import config_errors
from etude.config.validation import signature
for name in {TARGETS!r}:
    assert signature(name).parameters is not None
config_errors({{"backbone": {{"_target_": "etude.backbones.ast.AST"}}}})
print([name for name in ("torch", "numpy", "pandas", "pytorch_lightning", "hydra", "timm") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
