"""Tests of clip selection, frames of clips and spectrogram figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from etude.audio.decode import decode
from etude.audio.descriptors import track_beats
from etude.audio.log_mel import LogMelChroma
from etude.data.sources import demo
from etude.reports import clip_frames, spectrogram
from etude.reports.clip_frames import ClipView, clip_files, load_view

RATE = 22050


def test_random_clips_are_of_different_classes() -> None:
    index = pd.DataFrame({"id": range(20), "genre": ["a"] * 16 + ["b", "b", "c", None]})
    targets = {"genre": {"kind": "label", "classes": ["a", "b", "c"]}}
    for seed in range(5):
        rows = clip_frames.random_clips(index, targets, 5, seed)
        classes = index["genre"][rows].tolist()
        assert sorted(classes[:3]) == ["a", "b", "c"] and sorted(classes[3:]) == ["a", "b"]
        assert rows == clip_frames.random_clips(index, targets, 5, seed)
    assert len(clip_frames.random_clips(index, targets, 99, 0)) == 20
    assert clip_frames.random_clips(index, {}, 5, 0) != clip_frames.random_clips(index, {}, 5, 1)


def test_view_contains_frames_and_beats_of_audio_file() -> None:
    source, front = demo.collection(), LogMelChroma()
    clip, path = source.table["id"][0], Path(source.table["path"][0])
    view = load_view(clip, 0, None, front, clip_files(source))  # type: ignore[arg-type]  # the pack is not used
    audio = decode(path, front.rate)
    assert np.array_equal(view.frames["none"], front.frames(audio))
    assert view.beats is not None and np.array_equal(view.beats, track_beats(audio, front) / front.frames_per_second)
    assert len(view.frames["beat"]) == len(view.beats) + 1 and view.reasons == {}


@pytest.mark.parametrize(("frequency", "pitch"), [(1000.0, "B"), (440.0, "A"), (4000.0, "B"), (277.18, "C♯")])
def test_tone_is_at_tick_of_its_frequency_and_pitch(frequency: float, pitch: str) -> None:
    front = LogMelChroma()
    tone = np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE).astype(np.float32)
    mel, chroma = np.split(front.frames(tone).mean(0), [front.n_mels])
    axes = Figure().add_subplot()
    spectrogram.label_pitch_classes(axes, front, {"muted": "k"})
    ticks = [(axes.get_yticks(minor=minor), axes.get_yticklabels(minor=minor)) for minor in (False, True)]
    positions = {text.get_text(): y for ys, texts in ticks for y, text in zip(ys, texts, strict=True)}
    assert positions[pitch] == chroma.argmax() and len(positions) == 12
    axes = Figure().add_subplot()
    spectrogram.label_frequencies(axes, front, {})
    bands = {text.get_text(): y for y, text in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
    if f"{frequency:,.0f}" in bands:
        assert abs(bands[f"{frequency:,.0f}"] - mel.argmax()) <= 1


def test_frames_of_long_clip_are_averaged() -> None:
    frames = np.arange(20.0).reshape(10, 2)
    assert np.array_equal(spectrogram.average_frames(frames, 4), [[2, 3], [8, 9], [14, 15], [18, 19]])
    assert np.array_equal(spectrogram.average_frames(frames, 10), frames)


def test_clip_without_frames_has_no_figure(tmp_path: Path) -> None:
    view = ClipView({}, {"none": "missing"})
    assert spectrogram.draw_clip(view, LogMelChroma(), tmp_path / "x.png", (-80, 0), 100, "x") == ""
    assert not list(tmp_path.iterdir())
