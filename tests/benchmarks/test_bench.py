"""Tests of the timing, the requirements and the benchmarks of audio and data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.commands import bench as main

from etude.benchmarks import audio, loading
from etude.benchmarks.timing import Requirement, Section, Timing, time_rounds


def test_ratio_is_the_median_over_rounds() -> None:
    timing = Timing(["slow", "fast"], np.array([[8.0, 2.0], [30.0, 10.0], [9.0, 1.0]]))
    assert timing.ratio("slow", "fast") == 4  # of 4, 3 and 9; the ratio of the medians is 4.5
    assert timing.median("slow") == 9


def test_functions_are_called_in_turns() -> None:
    calls: list[str] = []
    timing = time_rounds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4
    assert timing.seconds.shape == (3, 2)
    assert (timing.seconds >= 0).all()


@pytest.mark.parametrize(
    ("value", "limit", "at_least", "met"),
    [(5, 5, True, True), (4.9, 5, True, False), (3, 3, False, True), (3.1, 3, False, False), (np.nan, 1, True, False),
     (np.nan, 1, False, False)],
)  # fmt: skip
def test_requirement_includes_its_limit(value: float, limit: float, at_least: bool, met: bool) -> None:
    assert Requirement("x", value, limit, at_least).met is met


@pytest.mark.parametrize("value", [1.0, 9.0])
def test_exit_status_of_check_depends_on_the_requirements(
    value: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requirements = [Requirement("this against that", value, 2)]
    section = Section("A table", "ms", [("this", 12.5, 1.0)], requirements, ["a note"])
    monkeypatch.setattr(audio, "benchmark_audio", lambda: [section])
    assert main(["audio"]) == 0
    out = capsys.readouterr().out
    assert ("NOT MET" in out) is (value < 2)
    assert all(text in out for text in ("A table", "this against that", "at least 2×", "a note", "12.5"))
    assert main(["audio", "--check"]) == int(value < 2)
    capsys.readouterr()
    assert main(["audio", "--check", "--json"]) == int(value < 2)
    result = json.loads(capsys.readouterr().out)
    assert result["sections"]["audio"][0]["requirements"][0]["met"] is (value >= 2)
    assert result["machine"]["cores"] >= 1


def test_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speed"]) == 2
    message = "'speed' is not one of audio, data, models, loop, startup, predict, embed, sweeps; etude bench --help"
    assert message in capsys.readouterr().err


def exact_requirements(sections: list[Section]) -> dict[str, Requirement]:
    """Return the requirements that are not ratios of durations."""
    return {r.name: r for section in sections for r in section.requirements if r.unit != "×"}


@pytest.mark.usefixtures("compiled_librosa")
def test_frames_agree_with_librosa(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ROUNDS", 1), ("SECONDS", 10)):
        monkeypatch.setattr(audio, name, value)
    requirements = exact_requirements(audio.benchmark_audio())
    assert len(requirements) == 3
    assert all(requirement.met and requirement.value > 0 for requirement in requirements.values())


def test_stores_are_compared_on_the_same_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("EPOCHS", 1), ("CLIPS", 40), ("BATCH", 8)):
        monkeypatch.setattr(loading, name, value)
    sections = loading.benchmark_data()
    assert all(requirement.met and requirement.value > 0 for requirement in exact_requirements(sections).values())
    assert [len(section.rows) for section in sections] == [5 - len(sections[0].notes), 2]
    assert all(value > 0 for section in sections for _, value, _ in section.rows)
