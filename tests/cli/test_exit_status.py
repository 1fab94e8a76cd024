"""Tests of each exit status in docs/reference/exit-status.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import data_overrides

from etude.cli import runner
from etude.cli.app import main
from etude.errors import RunError


def test_0_if_a_command_is_done(run: Path) -> None:
    assert main(["report", str(run)]) == 0


def test_1_if_a_run_fails(music: Path, tmp_path: Path, capsys: Any) -> None:
    overrides = [*data_overrides(music), "backbone=lstm", "backbone.hidden=4", "trainer=cpu", "trainer.max_epochs=2"]
    status = main(["train", *overrides, f"hydra.run.dir={tmp_path / 'run'}", "optim.lr=1e30", "optim.schedule=none"])
    assert status == 1
    assert "loss is not finite" in capsys.readouterr().err


def test_1_if_a_command_fails_after_valid_arguments() -> None:
    def fail() -> runner.CommandResult:
        raise RunError("the disk is full")

    assert runner.ParsedCommand(fail).run() == 1


def test_2_if_the_input_must_be_corrected(tmp_path: Path, capsys: Any) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert main(["train", "backbone=lstn"]) == 2
    assert main(["predict", str(tmp_path / "none"), "song.mp3"]) == 2
    assert main(["no-such-command"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("signal", "status"), [("SIGINT", 130), ("SIGTERM", 143), pytest.param("SIGHUP", 129, marks=pytest.mark.full)]
)
@pytest.mark.parametrize("arguments", [["prepare", "data=demo"], ["train", "debug=fast"]], ids=lambda a: a[0])
def test_128_and_the_number_of_the_signal_if_interrupted(
    signal: str, status: int, arguments: list[str], tmp_path: Path
) -> None:
    code = f"""
import os, signal, sys
from etude.cli.app import main
from etude.data import from_overrides
from etude.experiment import start

def interrupt(*arguments):
    os.kill(os.getpid(), signal.{signal})
    while True:
        signal.pause()

signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may ignore it
from_overrides.prepare_pack = start.run_composed = interrupt
sys.exit(main({arguments!r}))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    assert ("interrupted" if status == 130 else f"terminated by {signal}") in result.stderr + result.stdout


def test_prepare_0_if_items_are_skipped(music: Path, run: Path) -> None:
    assert main(["prepare", *data_overrides(music), "--workers=1"]) == 0


def test_prepare_2_if_no_clip_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rock/a.mp3", "rock/b.mp3", "jazz/c.mp3", "jazz/d.mp3"):
        (tmp_path / "music" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "music" / name).write_bytes(b"not audio")
    assert main(["prepare", "data=folder", "data.source.path=music", "data.max_skipped=1", "--workers=1"]) == 2
    assert "all clips were skipped; for example music/jazz/c.mp3: " in capsys.readouterr().err


def test_predict_1_if_a_file_cannot_be_read(run: Path, music: Path, tmp_path: Path) -> None:
    inputs = [str(music / "rock" / "1.wav"), str(music / "rock" / "broken.mp3")]
    assert main(["predict", str(run), *inputs, f"--out={tmp_path}", "--no-page"]) == 1
    assert main(["predict", str(run), inputs[0], f"--out={tmp_path}", "--no-page"]) == 0


@pytest.mark.parametrize(
    ("axis", "status"),
    [
        pytest.param("optim.lr=1e30,1e-3", 1, marks=pytest.mark.full),
        pytest.param("task=genre,valence", 2, marks=pytest.mark.full),
        ("optim.lr=1e30 task=genre,valence", 1),
    ],
    ids=["a job fails", "all that fail are refused", "one fails and one is refused"],
)
def test_sweep_1_if_a_job_fails_and_2_if_all_that_fail_are_refused(
    axis: str, status: int, music: Path, run: Path, tmp_path: Path
) -> None:
    settings = ["backbone=lstm", "backbone.hidden=4", "trainer=cpu", "trainer.max_epochs=2", "optim.schedule=none"]
    sweep = ["hydra/launcher=basic", f"hydra.sweep.dir={tmp_path / 'sweep'}", *axis.split()]
    command = [sys.executable, "-m", "etude", "train", "-m", *data_overrides(music), *settings, *sweep]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    finished = [path.parent.name for path in tmp_path.glob("sweep/*/metrics.json")]
    assert len(finished) == (0 if "1e30 " in axis else 1)
