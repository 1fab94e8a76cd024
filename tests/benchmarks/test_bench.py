"""The bench times what it says, judges bars by their limits, and what it measures besides time is true."""

from __future__ import annotations

import json

import numpy as np
import pytest

from etude.benchmarks import audio, data
from etude.benchmarks.timing import Bar, Section, Timing, rounds
from etude.cli.bench import main


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    timing = Timing(["slow", "fast"], np.array([[8.0, 2.0], [30.0, 10.0], [9.0, 1.0]]))
    assert timing.ratio("slow", "fast") == 4  # of 4, 3 and 9; the medians' own ratio is 4.5
    assert timing.median("slow") == 9


def test_contenders_take_turns() -> None:
    calls: list[str] = []
    timing = rounds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4
    assert timing.seconds.shape == (3, 2)
    assert (timing.seconds >= 0).all()


@pytest.mark.parametrize(
    ("value", "limit", "at_least", "holds"),
    [(5, 5, True, True), (4.9, 5, True, False), (3, 3, False, True), (3.1, 3, False, False), (np.nan, 1, True, False),
     (np.nan, 1, False, False)],
)  # fmt: skip
def test_a_bar_holds_at_its_limit(value: float, limit: float, at_least: bool, holds: bool) -> None:
    assert Bar("x", value, limit, at_least).holds is holds


@pytest.mark.parametrize("value", [1.0, 9.0])
def test_check_is_told_by_the_exit_status(
    value: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = Section("A table", "ms", [("this", 12.5, 1.0)], [Bar("this against that", value, 2)], ["a note"])
    monkeypatch.setattr(audio, "run", lambda: [section])
    assert main(["audio"]) == 0
    out = capsys.readouterr().out
    assert ("DOES NOT HOLD" in out) is (value < 2)
    assert all(word in out for word in ("A table", "this against that", "at least 2×", "a note", "12.5"))
    assert main(["audio", "--check"]) == int(value < 2)
    capsys.readouterr()
    assert main(["audio", "--check", "--json"]) == int(value < 2)
    said = json.loads(capsys.readouterr().out)
    assert said["sections"]["audio"][0]["bars"][0]["holds"] is (value >= 2)
    assert said["machine"]["cores"] >= 1


def test_an_unknown_bench_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["speed"])
    assert stop.value.code == 2
    assert "there is no bench speed; there are audio, data, models, loop, startup, predict" in capsys.readouterr().err


def exact(sections: list[Section]) -> dict[str, Bar]:
    """The bars that are no ratio of times."""
    return {bar.name: bar for section in sections for bar in section.bars if bar.unit != "×"}


def test_frames_agree_with_librosa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "ROUNDS", 1)
    bars = exact(audio.run())
    assert len(bars) == 3
    assert all(bar.holds and bar.value > 0 for bar in bars.values())


def test_stores_are_compared_on_the_same_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ROUNDS", 1), ("CLIPS", 40), ("BATCH", 8)):
        monkeypatch.setattr(data, name, value)
    sections = data.run()
    assert all(bar.holds and bar.value > 0 for bar in exact(sections).values())
    assert [len(section.rows) for section in sections] == [5 - len(sections[0].notes), 2]
    assert all(value > 0 for section in sections for _, value, _ in section.rows)
