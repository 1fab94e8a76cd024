"""Tests of scores of shortcuts: properties of files by which labels can be told without hearing the music."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from etude.audio.clip_statistics import PROPERTIES, SoundProperties
from etude.data.pack import PackOptions
from etude.data.sources import table
from etude.data.sources.union import open_properties
from etude.reports.dataset.leakage import shortcut_scores
from etude.reports.dataset.page import PASSED, PROBLEM, _shortcuts

RATE, CLIPS = 44100, 32
NAMES = [name for members in PROPERTIES.values() for name in members]


def properties_of(audio: np.ndarray, rate: int = RATE, block: int = 1 << 20) -> dict[str, float]:
    properties = SoundProperties()
    properties.rate = rate
    for start in range(0, len(audio), block):
        properties.add(audio[start : start + block].astype(np.float32))
    return dict(zip(NAMES, properties.values().tolist(), strict=True))


def test_properties_of_known_signals() -> None:
    time = np.arange(2 * RATE) / RATE
    tone = 0.5 * np.sin(2 * np.pi * 5000 * time)
    values = properties_of(np.concatenate([tone, np.zeros(2 * RATE)]))
    assert values["RMS level"] == pytest.approx(20 * np.log10(0.5 / 2), abs=0.05)
    assert values["peak"] == pytest.approx(20 * np.log10(0.5), abs=0.05)
    assert values["bandwidth"] == pytest.approx(5, abs=0.05)
    assert values["length"] == pytest.approx(4) and values["silence"] == pytest.approx(0.5, abs=0.02)
    other = properties_of(np.concatenate([tone, np.zeros(2 * RATE)]), block=777)
    assert other == pytest.approx(values, rel=1e-4, abs=1e-4)
    assert set(properties_of(np.zeros(100)).values()) >= {-100.0}


def test_cut_off_is_the_highest_frequency_of_filtered_noise() -> None:
    spectrum = np.fft.rfft(np.random.default_rng(0).normal(size=4 * RATE))
    for cut in (8000, 16000):
        audio = np.fft.irfft(spectrum * (np.fft.rfftfreq(4 * RATE, 1 / RATE) < cut))
        rounded = np.round(0.1 * audio / audio.std() * 32768) / 32768  # the noise of 16 bits is not counted
        assert properties_of(rounded)["cut-off"] == pytest.approx(cut / 1000, abs=0.3)


@pytest.fixture(scope="module", params=["encoder of a class", "same encoder"])
def scored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Return the scores of equal noise in two classes, whose MP3 encoders have other low-pass filters, or not."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    rows = []
    for i in range(CLIPS):
        quality = 0.9 * (i % 2 if request.param == "encoder of a class" else rng.integers(2))
        spectrum = np.fft.rfft(rng.normal(size=int(rng.uniform(0.3, 0.6) * RATE)))
        audio = np.fft.irfft(spectrum / (1 + np.arange(len(spectrum)) / 50))  # little energy at high frequencies
        audio, name = rng.uniform(0.05, 0.2) * audio / audio.std(), f"{i:02d}.mp3"
        soundfile.write(folder / name, audio, RATE, bitrate_mode="CONSTANT", compression_level=quality)
        rows.append({"path": name, "group": f"artist {i // 4}", "genre": ("folk", "rock")[i % 2]})
    pd.DataFrame(rows).to_csv(folder / "clips.csv", index=False)
    source = table.collection(str(folder / "clips.csv"))
    pack = open_properties(source, PackOptions(folder / "packs", workers=1))
    return request.param, shortcut_scores(pack, source.table, source.targets, seed=0)


def test_different_encoders_of_classes_are_a_problem(scored: tuple[str, dict[str, Any]]) -> None:
    case, scores = scored
    by_features = {row["features"]: row["score"] for row in scores["genre"]["scores"]}
    assert list(by_features) == [*PROPERTIES, "all"]
    assert (scores["genre"]["chance"], scores["genre"]["n"], scores["genre"]["groups"]) == (0.5, CLIPS, CLIPS // 4)
    findings = list(_shortcuts({"shortcuts": scores}))
    if case == "encoder of a class":
        assert by_features["bandwidth"]["value"] == by_features["all"]["value"] == 1
        (text,) = (text for state, text in findings if state == PROBLEM)
        expected = "Genre can be told from the files' bandwidth (macro recall 1.00, chance 0.50) alone"
        assert text.startswith(expected)
    else:
        assert findings == [(PASSED, "Genre cannot be told from level, bandwidth, length or silence of the files.")]


def test_targets_with_few_clips_have_no_score(scored: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    index = pd.DataFrame({"id": ["a"] * 5, "group": None, "genre": ["x", "y", "x", "y", "x"]})
    pack = type("Pack", (), {"index": index.head(1)})()
    assert shortcut_scores(pack, index, {"genre": {"kind": "label", "classes": ["x", "y"]}}, 0) == {}
