"""Test that the wheel contains all files that training needs."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

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


def test_wheel_trains_in_an_empty_folder(tmp_path: Path, packs: Path, environment: dict[str, str]) -> None:
    def call(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments and check its exit status."""
        command = (sys.executable, *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, **options)  # type: ignore[call-overload]

    call("-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT))
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    weights = ["NOTICE.md", *(f"{name}.safetensors" for name in ("mn04_as", "msd_musicnn", "mtt_musicnn"))]
    assert {f"etude/backbones/weights/{name}" for name in weights} <= set(names)
    site, empty = tmp_path / "site", tmp_path / "empty"
    call(
        "-m",
        "uv",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(site),
        str(wheel),
        env=environment,
    )
    empty.mkdir()
    outside = environment | {"PYTHONPATH": str(site)}
    package = call("-c", "import etude; print(etude.__file__)", cwd=empty, env=outside).stdout.strip()
    assert Path(package).is_relative_to(site)
    call(
        "-m",
        "etude",
        "train",
        "-m",  # a sweep, so that both ranks of its job must use the installed package
        "debug=fast",
        "trainer=ddp_cpu",
        f"data.packs={packs}",
        cwd=empty,
        env=outside,
    )
    (run,) = (empty / "outputs").glob("*_sweep_*/0_fast_genre_cnn")
    assert json.loads((run / "record.json").read_text())["command"].startswith("etude train debug=fast")
    assert (run / "report.html").stat().st_size > 10_000
    assert str(ROOT) not in (run / "config.yaml").read_text()
    (site / "sitecustomize.py").write_text(NO_NETWORK)
    song = next((site / "etude").rglob("*.ogg"))
    call("-m", "etude", "embed", "--backbone", "musicnn", str(song), "--out", "song.npz", cwd=empty, env=outside)
    with np.load(empty / "song.npz", allow_pickle=False) as result:
        assert result["embeddings"].shape == (1, 200) and np.isfinite(result["embeddings"]).all()
