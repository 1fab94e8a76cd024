"""The wheel holds everything: installed in an empty folder, it trains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_trains_in_an_empty_folder(tmp_path: Path, packs: Path, environment: dict[str, str]) -> None:
    def call(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=300, **more)  # type: ignore[call-overload]

    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT))
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site, empty = tmp_path / "site", tmp_path / "empty"
    call(
        sys.executable,
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
    where = call(sys.executable, "-c", "import etude; print(etude.__file__)", cwd=empty, env=outside).stdout.strip()
    assert Path(where).is_relative_to(site)
    call(
        sys.executable,
        "-m",
        "etude",
        "train",
        "-m",  # as a job of a sweep, of which both ranks have the installed package
        "debug=fast",
        "trainer=ddp_cpu",
        f"data.packs={packs}",
        cwd=empty,
        env=outside,
    )
    (run,) = (empty / "outputs").glob("*_sweep/0_fast_genre_cnn")
    assert json.loads((run / "record.json").read_text())["command"].startswith("etude train debug=fast")
    assert (run / "report.html").stat().st_size > 10_000
    assert str(ROOT) not in (run / "config.yaml").read_text()
