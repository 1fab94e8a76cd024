"""Fixtures of the tests of the preparation of packs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import soundfile
from tests.data.packing.preparation import (
    COUNT,
    TARGETS,
    RecordingReader,
)

from etude.audio.decode import decode
from etude.data.collection import Collection
from etude.data.sources.demo import HOME
from etude.files import ownership


@pytest.fixture
def source(tmp_path: Path) -> Collection:
    """Return a collection of twelve excerpts of a real clip with different lengths."""
    audio = 0.5 * decode(sorted((HOME / "clips" / "electronic").iterdir())[0], 22050)
    paths = [tmp_path / f"{i}.wav" for i in range(COUNT)]
    for i, path in enumerate(paths):
        soundfile.write(path, audio[i * 9000 :][: 5000 + 900 * i], 22050, subtype="FLOAT")
    rows = {"id": [f"clip{i}" for i in range(COUNT)], "path": map(str, paths), "group": "g", "genre": ["x", "y"] * 6}
    return Collection("mine", "Mine", pd.DataFrame(rows), TARGETS).check()


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    return tmp_path / "packs"


@pytest.fixture
def reader() -> RecordingReader:
    return RecordingReader()


@pytest.fixture
def another_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that clears the list of files written by this process."""

    def forget() -> None:
        monkeypatch.setattr(ownership, "_folders", set())
        monkeypatch.setattr(ownership, "_created", set())

    return forget
