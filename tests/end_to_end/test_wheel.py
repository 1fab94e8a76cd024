"""Tests of the installed wheel in empty folders, which has all files that commands and training need."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from etude.audio.decode import decode
from etude.data.sources.demo import collection

ROOT = Path(__file__).parents[2]
NO_NETWORK = """
import socket

connect = socket.socket.connect


def local_only(self, address):
    if self.family != socket.AF_UNIX:
        raise OSError("this test has no network")
    return connect(self, address)


socket.socket.connect = local_only
"""


def call(*arguments: str, **options: object) -> str:
    """Run Python with these arguments, check its exit status, and return its output."""
    command = (sys.executable, *arguments)
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, **options)  # type: ignore[call-overload]
    return str(result.stdout)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """Build and install the wheel, and return the folder of packages with it."""
    home = tmp_path_factory.mktemp("wheel")
    call("-m", "build", "--wheel", "--no-isolation", "--outdir", str(home / "dist"), str(ROOT))
    (wheel,) = (home / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    weights = ["NOTICE.md", *(f"{name}.safetensors" for name in ("mn04_as", "msd_musicnn", "mtt_musicnn"))]
    assert {f"etude/backbones/weights/{name}" for name in weights} <= set(names)
    install = ["install", "--quiet", "--no-deps", "--target", str(home / "site"), str(wheel)]
    call("-m", "uv", "pip", *install, env=environment)
    return home / "site"


@pytest.fixture
def outside(site: Path, environment: dict[str, str]) -> dict[str, str]:
    """Return environment variables with which the installed package precedes the checkout."""
    return environment | {"PYTHONPATH": str(site)}


def test_wheel_embeds_without_network(site: Path, outside: dict[str, str], tmp_path: Path) -> None:
    package = call("-c", "import etude; print(etude.__file__)", cwd=tmp_path, env=outside).strip()
    assert Path(package).is_relative_to(site)
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    variables = outside | {"PYTHONPATH": f"{tmp_path}:{site}"}
    song = next((site / "etude").rglob("*.ogg"))
    call("-m", "etude", "embed", "--backbone=musicnn", str(song), "--out=song.npz", cwd=tmp_path, env=variables)
    with np.load(tmp_path / "song.npz", allow_pickle=False) as result:
        assert result["embeddings"].shape == (1, 200) and np.isfinite(result["embeddings"]).all()


@pytest.mark.full
def test_wheel_trains_in_an_empty_folder(outside: dict[str, str], packs: Path, tmp_path: Path) -> None:
    # a sweep, so that both ranks of its job must use the installed package
    overrides = ["-m", "debug=fast", "trainer=ddp_cpu", f"data.packs={packs}"]
    call("-m", "etude", "train", *overrides, cwd=tmp_path, env=outside)
    (run,) = (tmp_path / "outputs").glob("*_sweep_*/0_fast_genre_cnn")
    assert json.loads((run / "record.json").read_text())["command"].startswith("etude train debug=fast")
    assert (run / "report.html").stat().st_size > 10_000
    assert f"{ROOT}/" not in (run / "config.yaml").read_text()  # of the checkout


@pytest.mark.full
def test_all_steps_of_a_new_user_succeed(outside: dict[str, str], tmp_path: Path) -> None:
    """Absolute paths, official folds, a scalar in scientific notation and a class of the user's own."""
    table = collection().table.groupby("group").head(3).reset_index(drop=True)
    music = tmp_path / "my music"
    for row in table.to_dict("records"):
        file = music / row["genre"] / f"{row['id']}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, decode(Path(row["path"]), 22050)[: 4 * 22050], 22050)
    clips = table[["id", "genre"]].assign(
        path=[str(music / genre / f"{name}.wav") for genre, name in zip(table["genre"], table["id"], strict=True)],
        artist=table["group"],
        fold=table["group"].rank(method="dense").astype(int) % 3 + 1,
        tempo=[f"{100 * (1 + value):.12e}" for value in table["energy"]],
        mood=np.where(table["valence"] > table["valence"].median(), "bright", "dark"),
    )
    clips.to_csv(tmp_path / "clips.csv", index=False)
    script = [str(ROOT / "scripts" / "newcomer.sh"), str(tmp_path / "clips.csv"), "genre,mood,tempo", str(music)]
    work = tmp_path / "work"
    result = subprocess.run(
        [*script, "trainer.max_epochs=1"],
        env=outside | {"PYTHON": sys.executable, "WORK": str(work)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    steps = (work / "steps.tsv").read_text().splitlines()
    assert len(steps) == 27 and all(line.endswith("status 0") for line in steps)
