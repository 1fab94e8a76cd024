"""A sound is cut so that nothing is left out, and a window is what the same seconds would be in a file of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from etude.audio.decode import decode
from etude.audio.frontend import FrontEnd
from etude.audio.log_mel import LogMelChroma
from etude.errors import UserError
from etude.inference import windows as cutting
from etude.inference.windows import Tape, Window, WindowPlan

PLAN = WindowPlan(LogMelChroma(), (0, 128), 431, 431)


def in_blocks(audio: np.ndarray, size: int) -> list[np.ndarray]:
    return [audio[start : start + size] for start in range(0, len(audio), size)]


def windows(audio: np.ndarray, plan: WindowPlan, block: int = 1 << 20) -> list[Window]:
    return list(cutting.windows(in_blocks(audio, block), plan))


def spans(samples: int, size: int, whole: int, hop: float, block: int = 64) -> list[tuple[int, int]]:
    """Spans of a ramp, each of which the tape holds when it is due."""
    ramp = np.arange(samples, dtype=np.float32)
    tape, found = Tape(in_blocks(ramp, block)), []
    for first, last in cutting.spans(tape, size, whole, hop):
        np.testing.assert_array_equal(tape.part(first, last), ramp[first:last])
        assert tape.end - tape.first <= max(size, whole) + size + block
        found.append((first, last))
    return found


@pytest.mark.parametrize("samples", [1, 99, 100, 101, 149, 150, 151, 1000, 1234])
@pytest.mark.parametrize("hop", [1.0, 0.5, 0.3, 0.051])
def test_windows_cover_a_sound_to_its_end(samples: int, hop: float) -> None:
    found = spans(samples, 100, 0, hop)
    assert found[0][0] == 0 and found[-1][1] == samples
    assert all(stop - start == min(100, samples) for start, stop in found)
    for (start, stop), (following, _) in pairwise(found):
        assert start < following <= stop
        assert following - start <= max(1, round(100 * hop))


def test_what_is_no_longer_than_a_clip_is_one_window() -> None:
    assert spans(140, 100, 140, 0.5) == [(0, 140)]
    assert len(spans(141, 100, 140, 0.5)) == 2


def test_a_window_is_what_its_seconds_are_alone(clips: list[Path]) -> None:
    audio = np.concatenate([0.01 * decode(clips[0], 22050), decode(clips[1], 22050)])  # a quiet part and a loud one
    found = windows(audio, PLAN)
    assert found[0].start == 0 and found[-1].end == pytest.approx(len(audio) / 22050)
    for window in found:
        (frames,) = window.crops
        assert frames.dtype == np.float16 and frames.shape == (431, 128)
        assert frames.max() == 0  # each is measured against its own loudest bin, as a clip was
    first = audio[: 430 * 512 + 1]
    np.testing.assert_array_equal(found[0].crops[0], LogMelChroma().frames(first)[:, :128].astype(np.float16))


def test_blocks_do_not_change_windows(clips: list[Path]) -> None:
    audio = np.concatenate([decode(path, 22050) for path in clips[:2]])[: 17 * 22050]
    for plan in (replace(PLAN, window=2.0, overlap=0.7), WindowPlan(Beats(), (0, 128), 8, 10)):
        whole = windows(audio, plan)
        parts = windows(audio, plan, 5000)
        assert len(whole) > 3
        assert [(window.start, window.end) for window in whole] == [(window.start, window.end) for window in parts]
        for one, two in zip(whole, parts, strict=True):
            np.testing.assert_array_equal(one.crops[0], two.crops[0])


def test_beats_of_a_long_sound_are_counted_in_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "TEMPO", 20.0)
    noise = np.random.default_rng(0).normal(0, 0.1, 22050 * 50).astype(np.float32)
    plan = WindowPlan(Beats(), (0, 128), 10, 12)
    assert {window.end - window.start for window in windows(noise, plan, 5000)} == {5.0}
    assert len(windows(noise[: 22050 * 6], plan)) == 1  # as long as a clip of training
    assert len(windows(noise[: 22050 * 25], replace(plan, longest=60))) == 1  # which may be longer than that beginning


def test_silence_is_not_heard_as_the_loudest_level() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 22050 * 4).astype(np.float32)
    audio = np.concatenate([noise, np.zeros(22050 * 4, np.float32), noise])
    found = windows(audio, replace(PLAN, window=2.0, overlap=0.0))
    assert [len(window.crops) for window in found] == [1, 1, 0, 0, 1, 1]


def test_several_crops_are_heard_where_evaluation_heard_several() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 22050 * 3).astype(np.float32)
    (window,) = windows(noise, replace(PLAN, crop=40, crops=3))
    (whole,) = windows(noise, PLAN)[0].crops
    last = len(whole) - 40
    for crop, start in zip(window.crops, (0, (last + 1) // 2, last), strict=True):
        np.testing.assert_array_equal(crop, whole[start : start + 40])


@dataclass(frozen=True)
class Beats(FrontEnd):
    """A frame for every half second, as a tracker of beats would make them."""

    sync: str = "beat"

    def frames(self, audio: np.ndarray) -> np.ndarray:
        return np.zeros((len(audio) * 2 // self.rate, self.bins), np.float32)


def test_by_the_beat_a_window_has_as_many_beats_as_a_clip_had() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 22050 * 20).astype(np.float32)
    plan = WindowPlan(Beats(), (0, 128), 10, 12)
    found = windows(noise, plan)
    assert {window.end - window.start for window in found} == {5.0}
    assert {len(window.crops[0]) for window in found} == {10}
    assert len(windows(noise[: 22050 * 6], plan)) == 1  # 12 beats, as the longest clip had


def test_what_an_older_checkpoint_does_not_say_is_assumed() -> None:
    plan = WindowPlan.of({"columns": [0, 128]}, LogMelChroma())
    assert len(windows(np.ones(22050 * 30, np.float32), plan)) == 1
    assert len(windows(np.ones(22050 * 40, np.float32), plan)) == 2


@pytest.mark.parametrize(("window", "overlap"), [(0, 0.5), (-1, 0.5), (float("nan"), 0.5), (None, 1), (None, -0.1)])
def test_a_plan_that_cannot_be_is_refused(window: float | None, overlap: float) -> None:
    with pytest.raises(UserError, match=r"^(window|overlap)=.*: must be"):
        WindowPlan.of({"columns": [0, 128]}, LogMelChroma(), window, overlap)
