"""Tests of the division of audio into windows."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etude.audio.decode import decode
from etude.audio.frontend import FrontEnd
from etude.audio.kaldi import EfficientATFront
from etude.audio.log_mel import LogMelChroma
from etude.errors import UserError
from etude.inference import windows as module
from etude.inference.windows import SampleBuffer, Window, WindowPlan, cut_windows, window_spans, window_step

PLAN = WindowPlan(LogMelChroma(), (0, 128), 431, 431)


def in_blocks(audio: np.ndarray, size: int) -> list[np.ndarray]:
    return [audio[start : start + size] for start in range(0, len(audio), size)]


def windows(audio: np.ndarray, plan: WindowPlan, block: int = 1 << 20) -> list[Window]:
    return list(cut_windows(in_blocks(audio, block), plan))


def checked_spans(samples: int, size: int, single: int, hop: float, block: int = 64) -> list[tuple[int, int]]:
    """Return the spans of a ramp, and check that the buffer contains the samples of each when it is yielded."""
    ramp = np.arange(samples, dtype=np.float32)
    buffer, spans = SampleBuffer(in_blocks(ramp, block)), []
    for first, last in window_spans(buffer, size, single, hop):
        np.testing.assert_array_equal(buffer.samples(first, last), ramp[first:last])
        assert buffer.end - buffer.first <= max(size, single) + size + block
        spans.append((first, last))
    return spans


@pytest.mark.parametrize("samples", [1, 99, 100, 101, 149, 150, 151, 1000, 1234])
@pytest.mark.parametrize("hop", [1.0, 0.5, 0.3, 0.051])
def test_windows_cover_all_samples(samples: int, hop: float) -> None:
    spans = checked_spans(samples, 100, 0, hop)
    assert spans[0][0] == 0 and spans[-1][1] == samples
    assert all(stop - start == min(100, samples) for start, stop in spans)
    for (start, stop), (next_start, _) in pairwise(spans):
        assert start < next_start <= stop
        assert next_start - start <= max(1, round(100 * hop))


def test_audio_as_long_as_a_clip_is_one_window() -> None:
    assert checked_spans(140, 100, 140, 0.5) == [(0, 140)]
    assert len(checked_spans(141, 100, 140, 0.5)) == 2


def test_window_equals_a_separate_file(clips: list[Path]) -> None:
    audio = np.concatenate([0.01 * decode(clips[0], 22050), decode(clips[1], 22050)])  # a quiet and a loud clip
    result = windows(audio, PLAN)
    assert result[0].start == 0 and result[-1].end == pytest.approx(len(audio) / 22050)
    for window in result:
        (frames,) = window.crops
        assert frames.dtype == np.float16 and frames.shape == (431, 128)
        assert frames.max() == 0  # each is normalised by its own loudest bin, as a clip
    first = audio[: 430 * 512 + 1]
    np.testing.assert_array_equal(result[0].crops[0], LogMelChroma().frames(first)[:, :128].astype(np.float16))


def test_block_size_does_not_change_windows(clips: list[Path]) -> None:
    audio = np.concatenate([decode(path, 22050) for path in clips[:2]])[: 17 * 22050]
    for plan in (replace(PLAN, window=2.0, overlap=0.7), WindowPlan(Beats(), (0, 128), 8, 10)):
        expected = windows(audio, plan)
        result = windows(audio, plan, 5000)
        assert len(expected) > 3
        assert [(window.start, window.end) for window in expected] == [(window.start, window.end) for window in result]
        for first, second in zip(expected, result, strict=True):
            np.testing.assert_array_equal(first.crops[0], second.crops[0])


def test_beats_of_long_audio_are_counted_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 20.0)
    noise = np.random.default_rng(0).normal(0, 0.1, 22050 * 50).astype(np.float32)
    plan = WindowPlan(Beats(), (0, 128), 10, 12)
    assert {window.end - window.start for window in windows(noise, plan, 5000)} == {5.0}
    assert len(windows(noise[: 22050 * 6], plan)) == 1  # as long as a clip of training
    assert len(windows(noise[: 22050 * 25], replace(plan, longest=60))) == 1  # a clip may be longer than BEAT_SECONDS


def test_silent_windows_have_no_crops() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 22050 * 4).astype(np.float32)
    audio = np.concatenate([noise, np.zeros(22050 * 4, np.float32), noise])
    result = windows(audio, replace(PLAN, window=2.0, overlap=0.0))
    assert [len(window.crops) for window in result] == [1, 1, 0, 0, 1, 1]


def test_window_has_the_crops_of_evaluation() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 22050 * 3).astype(np.float32)
    (window,) = windows(noise, replace(PLAN, crop=40, crops=3))
    (frames,) = windows(noise, PLAN)[0].crops
    last = len(frames) - 40
    for crop, start in zip(window.crops, (0, (last + 1) // 2, last), strict=True):
        np.testing.assert_array_equal(crop, frames[start : start + 40])


@dataclass(frozen=True)
class Beats(FrontEnd):
    """Front end with a frame per half second, as for beats at 120 per minute."""

    sync: str = "beat"

    def frames(self, audio: np.ndarray) -> np.ndarray:
        return np.zeros((len(audio) * 2 // self.rate, self.bins), np.float32)


def test_beat_synchronous_window_has_the_beats_of_a_clip() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 22050 * 20).astype(np.float32)
    plan = WindowPlan(Beats(), (0, 128), 10, 12)
    result = windows(noise, plan)
    assert {window.end - window.start for window in result} == {5.0}
    assert {len(window.crops[0]) for window in result} == {10}
    assert len(windows(noise[: 22050 * 6], plan)) == 1  # 12 beats, as in the longest clip


def test_default_length_is_used_for_older_checkpoints() -> None:
    plan = WindowPlan.from_recipe({"columns": [0, 128]}, LogMelChroma())
    assert len(windows(np.ones(22050 * 30, np.float32), plan)) == 1
    assert len(windows(np.ones(22050 * 40, np.float32), plan)) == 2


@pytest.mark.parametrize("samples", [159_000, 160_001, 161_344, 161_345, 240_002, 480_000, 500_001])
def test_windows_of_the_documentation_are_those_of_predictions(samples: int) -> None:
    """501 frames have 160,001 samples. 5.0 s, the rounded length, are 160,000 samples with one frame less."""
    plan = WindowPlan(EfficientATFront(), (0, 128), length=501, longest=501)
    sizes = plan.samples, window_step(plan.samples, plan.hop), plan.single_samples
    metadata = dict(zip(("window_samples", "step_samples", "single_samples"), sizes, strict=True))
    page = Path(__file__).parents[2] / "docs" / "how-to" / "export.md"
    (code,) = re.findall(r"^size, step = .*?(?=^windows = )", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    values: dict[str, Any] = {"metadata": metadata, "audio": np.zeros(samples, np.float32)}
    exec(code, values)
    spans = window_spans(SampleBuffer([values["audio"]]), plan.samples, plan.single_samples, plan.hop)
    assert [(start, start + values["size"]) for start in values["starts"]] == list(spans)


@pytest.mark.parametrize(("window", "overlap"), [(0, 0.5), (-1, 0.5), (float("nan"), 0.5), (None, 1), (None, -0.1)])
def test_invalid_plan_is_refused(window: float | None, overlap: float) -> None:
    with pytest.raises(UserError, match=r"^--(window|overlap) .*: must be"):
        WindowPlan.from_recipe({"columns": [0, 128]}, LogMelChroma(), window, overlap)
