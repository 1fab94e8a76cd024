"""Tests that commands do not import packages that they do not use, so that they start quickly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    *("IPython", "gradio", "hydra", "librosa", "matplotlib", "mlflow", "numpy", "onnxruntime", "pandas"),
    *("plotly", "pytorch_lightning", "ray", "scipy", "sklearn", "soundfile", "tensorboard", "timm", "torch"),
    *("torch._dynamo", "torchmetrics", "torchvision", "transformers", "umap", "wandb"),
}
TABLES = {"numpy", "pandas"}
FIGURES = TABLES | {"matplotlib"}
NETWORK = {"numpy", "soundfile", "torch"}
ALLOWED = {  # commands of one process, in this order, and the packages that are imported after each of them
    "training": {
        "train": FIGURES
        | {"hydra", "pytorch_lightning", "scipy", "sklearn", "soundfile", "torch", "torch._dynamo", "torchmetrics"},
    },
    "tables": {"report": FIGURES | {"scipy", "sklearn"}, "compare": FIGURES | {"scipy", "sklearn"}},
    "networks": {
        "embed": NETWORK,
        "cache": NETWORK,
        "predict": NETWORK | {"matplotlib"},
        "export": NETWORK | FIGURES,
        "inspect": NETWORK | FIGURES | {"IPython"},  # by captum
        "maps": NETWORK | FIGURES | {"IPython", "plotly", "scipy", "sklearn"},
    },
    "data": {
        "prepare": NETWORK | TABLES | {"hydra"},
        "explore": NETWORK | FIGURES | {"hydra", "librosa", "scipy", "sklearn"},
    },
}
COMMANDS = (
    *("train", "prepare", "explore", "predict", "embed", "export", "demo", "inspect", "report", "compare", "maps"),
    *("ensemble", "cache", "dashboard", "bench"),
)
CODE = """
import json, sys
from etude.cli.app import main

heavy, commands = json.loads(sys.argv[1])
for command in commands:
    try:
        status = main(command)
    except SystemExit as stop:
        status = stop.code or 0
    imported = sorted(set(heavy) & set(sys.modules))
    print("imports", json.dumps([command[0], status, imported]), file=sys.stderr)
"""


def imports_after(*commands: list[str]) -> dict[str, set[str]]:
    """Run commands one after the other in a new process, and return the heavy packages imported after each."""
    result = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps([sorted(HEAVY), commands])],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line[8:]) for line in result.stderr.splitlines() if line.startswith("imports ")]
    assert [(name, status) for name, status, _ in lines] == [(command[0], 0) for command in commands], result.stderr
    return {name: set(imported) for name, _, imported in lines}


@pytest.fixture(scope="module")
def run(packs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small run that was trained for two steps, in a process with the checked imports."""
    folder = tmp_path_factory.mktemp("imports") / "run"
    overrides = ["backbone=lstm", "backbone.hidden=4", "data.crop=1.0", "debug=fast"]
    imported = imports_after(["train", *overrides, f"data.packs={packs}", f"hydra.run.dir={folder}"])
    assert imported["train"] <= ALLOWED["training"]["train"]
    return folder


def test_training_imports_lightning_without_unused_packages(run: Path) -> None:
    assert (run / "report.html").is_file()


@pytest.mark.usefixtures("compiled_librosa")
@pytest.mark.parametrize("group", ["tables", "networks", "data"])
def test_commands_that_train_nothing_do_not_import_lightning(
    group: str, run: Path, clips: list[Path], packs: Path, tmp_path: Path
) -> None:
    data = [f"data.packs={packs}", "data.max_clips=12"]
    arguments = {
        "report": [str(run)],
        "compare": [str(run), "--out", str(tmp_path / "compare")],
        "predict": [str(run), str(clips[0]), "--out", str(tmp_path / "predict")],
        "embed": [str(run), str(clips[0]), "--out", str(tmp_path / "e.npz"), "--packs", str(tmp_path / "packs")],
        "cache": ["--packs", str(tmp_path / "packs")],
        "export": [str(run), "--format", "safetensors", "--out", str(tmp_path / "export")],
        "inspect": [str(run), "--out", str(tmp_path / "inspect")],
        "maps": [str(run), "--methods", "pca", "--out", str(tmp_path / "maps")],
        "prepare": data,
        "explore": [*data, "--count", "1", "--out", str(tmp_path / "explore")],
    }
    allowed = ALLOWED[group]
    imported = imports_after(*([name, *arguments[name]] for name in allowed))
    assert [(name, packages - allowed[name]) for name, packages in imported.items()] == [(n, set()) for n in allowed]


def test_help_imports_no_heavy_package() -> None:
    imported = imports_after(*([name, "--help"] for name in COMMANDS))
    assert list(imported.items()) == [(name, set()) for name in COMMANDS]


def test_server_and_dashboard_modules_do_not_import_lightning() -> None:
    """Import the modules of the commands that cannot run in a test."""
    code = "import sys, etude.demo.server, etude.loggers.dashboard; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = HEAVY & set(result.stdout.split())
    assert imported <= NETWORK | {"gradio", "matplotlib", "pandas"}
