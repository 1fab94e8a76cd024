"""Faults of words that Hydra answers with an error that is no message."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.cli import train


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("hydra.verbose=0", "hydra.verbose=0: Hydra does not accept this; leave it out"),
        ("a\0b", r"'a\x00b': holds a zero byte, which no setting may"),
        ("+resume=genre", "resume=genre: is not a run folder"),
        ("~hydra/job_logging", "job_logging"),
        ("seed=${oc.env:NOT_THERE}", "seed: \"Environment variable 'NOT_THERE' not found\""),
        ("outputs=[a,b]", "outputs=['a', 'b']: must be the name of a folder"),
    ],
)
def test_word_is_refused_with_a_sentence(
    word: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py"])
    assert train.main([word]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
