"""Test of `experiment=small_ensemble` and of the commands that read its ensemble, as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from etude.runs.folder import ENSEMBLE, RunFolder

pytestmark = pytest.mark.full


def run(*arguments: object, status: int = 0) -> str:
    """Run `etude` in a process, check its exit status, and return its output."""
    command = [sys.executable, "-m", "etude", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == status, result.stderr
    return result.stdout + result.stderr


def test_small_ensemble_is_a_run(packs: Path, clips: list[Path], tmp_path: Path) -> None:
    """One command trains both members and averages them, and all commands work with the ensemble."""
    sweep = tmp_path / "sweep"
    run("train", "experiment=small_ensemble", f"data.packs={packs}", f"hydra.sweep.dir={sweep}")
    ensemble, out = sweep / ENSEMBLE, tmp_path / "out"
    members = sorted(path for path in sweep.iterdir() if path != ensemble and (path / "config.yaml").is_file())
    assert [RunFolder(path).record["model"]["backbone"] for path in members] == ["musicnn", "efficientat"]
    tables = [RunFolder(path).predictions.set_index(["split", "id"]) for path in (*members, ensemble)]
    columns = [column for column in tables[0] if ".score." in column]
    mean = np.mean([table.loc[tables[2].index, columns] for table in tables[:2]], axis=0)
    np.testing.assert_allclose(tables[2][columns], mean, atol=1e-6)
    for path, name in zip((*members, ensemble), ("a", "b", "c"), strict=True):
        run("predict", path, clips[0], f"--out={out / name}", "--no-page")
    predicted = [pd.read_csv(out / name / "files.csv") for name in ("a", "b", "c")]
    columns = [column for column in predicted[0] if ".score." in column]
    mean = np.mean([table[columns] for table in predicted[:2]], axis=0)
    np.testing.assert_allclose(predicted[2][columns], mean, atol=2e-3)  # musicnn's audio is resampled from 32 kHz
    assert "ensemble" in run("compare", sweep)
    run("export", ensemble, f"--out={out / 'export'}", f"--check={clips[0]}")
    run("embed", ensemble, clips[0], f"--out={out / 'e.npz'}", f"--packs={tmp_path / 'packs'}")
    dims = [RunFolder(path).predictions["embedding"].iloc[0].shape[0] for path in (*members, ensemble)]
    with np.load(out / "e.npz", allow_pickle=False) as stored:
        assert stored["embeddings"].shape == (1, sum(dims[:2]))
    assert dims[2] == sum(dims[:2])
    assert "is an ensemble; inspect the run of one of its members" in run("inspect", ensemble, status=2)
    assert "is given twice" in run("ensemble", members[0], members[0], f"--out={out / 'd'}", status=2)
    transfer = ["transfer=probe", f"transfer.init_from={ensemble}", "transfer.overlap=allow"]
    assert "is an ensemble" in run("train", *transfer, f"hydra.run.dir={out / 'e'}", f"data.packs={packs}", status=2)
