"""Tests of the import of Lightning without the unused parts of torchmetrics."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from etude.training import lightning

AFTER = """
import importlib.metadata, pkgutil, sys
from etude.training import lightning

import torchmetrics
from torchmetrics import Metric, MetricCollection

assert not {"torchvision", "transformers", "onnxruntime", "scipy"} & set(sys.modules), "unused packages are imported"
assert lightning.Metric is Metric is sys.modules["torchmetrics.metric"].Metric
assert torchmetrics.__version__ == importlib.metadata.version("torchmetrics")
from torchmetrics.classification import MulticlassAccuracy  # a submodule before the other names
assert torchmetrics.Accuracy(task="multiclass", num_classes=2).__class__ is MulticlassAccuracy
assert torchmetrics.Metric is Metric and torchmetrics.MetricCollection is MetricCollection
assert torchmetrics.utilities.checks.Metric is Metric
assert all(hasattr(torchmetrics, name) for name in torchmetrics.__all__)
assert issubclass(torchmetrics.MeanMetric, Metric)
MODULES
print("same")
"""

ALL_MODULES = """
for module in pkgutil.iter_modules(torchmetrics.__path__):
    importlib.import_module(f"torchmetrics.{module.name}")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the file of an importable package `torchmetrics`, instead of the installed one."""
    imported = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "torchmetrics"}
    for name in imported:
        del sys.modules[name]
    file = tmp_path / "torchmetrics" / "__init__.py"
    file.parent.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    yield file
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchmetrics"]:
        del sys.modules[name]
    sys.modules.update(imported)


@pytest.mark.full
@pytest.mark.parametrize("modules", ["", ALL_MODULES], ids=["names", "modules"])
def test_torchmetrics_is_complete_after_lightning(modules: str) -> None:
    code = AFTER.replace("MODULES", modules)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == "same\n", result.stderr


def test_torchmetrics_with_another_structure_is_imported_normally(package: Path) -> None:
    package.write_text("Metric = 'another'\n")
    lightning.defer_torchmetrics()
    assert "torchmetrics" not in sys.modules
    assert importlib.import_module("torchmetrics").Metric == "another"


def test_imported_torchmetrics_is_unchanged(package: Path) -> None:
    package.write_text("value = 1\n")
    module = importlib.import_module("torchmetrics")
    lightning.defer_torchmetrics()
    assert sys.modules["torchmetrics"] is module
    assert type(module) is ModuleType


def deferred(file: Path) -> ModuleType:
    """Return a deferred module with the code of a file."""
    spec = importlib.util.spec_from_file_location("deferred", file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__class__ = lightning.DeferredModule
    return module


def test_deferred_code_runs_once_when_a_missing_name_is_used(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("calls = globals().get('calls', 0) + 1\nother = 2\n")
    module = deferred(tmp_path / "code.py")
    module.present = 1
    assert module.present == 1
    assert "other" not in vars(module)
    assert module.other == 2
    assert module.calls == 1
    with pytest.raises(AttributeError, match="module 'deferred' has no attribute 'missing'"):
        _ = module.missing
    assert module.calls == 1
    assert type(module) is ModuleType


def test_error_of_deferred_code_is_raised_each_time(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("raise ImportError('no such library')\n")
    module = deferred(tmp_path / "code.py")
    for _ in range(2):
        with pytest.raises(ImportError, match="no such library"):
            _ = module.value
