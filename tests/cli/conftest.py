"""A small folder of audio, and a run that was trained on it through the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from etude.cli.app import main


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two classes of eight clips, and a file that is not audio."""
    folder = tmp_path_factory.mktemp("cli") / "music"
    time = np.arange(22050) / 22050
    for i in range(16):
        path = folder / ("rock" if i % 2 else "jazz") / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).standard_normal(len(time))
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * (220 + 20 * i) * time) + 0.01 * noise, 22050)
    (folder / "rock" / "broken.mp3").write_bytes(b"not audio")
    return folder


@pytest.fixture(scope="module")
def run(music: Path) -> Path:
    """Return the folder of a finished run on the folder of audio."""
    folder = music.parent / "run"
    overrides = [*data_overrides(music), "backbone=lstm", "backbone.hidden=4", "trainer.max_epochs=1", "trainer=cpu"]
    assert main(["train", *overrides, f"hydra.run.dir={folder}", "callbacks.progress=null"]) == 0
    return folder


def data_overrides(music: Path) -> list[str]:
    """Return the overrides of the folder of audio."""
    packs = f"data.packs={music.parent / 'packs'}"
    return [
        "data=folder",
        f"data.source.path={music}",
        packs,
        "data.max_skipped=0.2",
        "data.split.fractions=[0.5,0.25,0.25]",
    ]
