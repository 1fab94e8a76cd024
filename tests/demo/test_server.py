"""Tests of the options, the server and the upload limits of the demo."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.commands import demo as main

from etude.cli.demo import GRADIO_MISSING
from etude.demo import server
from etude.demo.predictor import UploadLimits, build_bars
from etude.demo.server import DemoOptions, exit_on_signal, open_listener, upload_folder
from etude.errors import UserError
from etude.inference.engine import FilePrediction
from etude.inference.model import PredictionColumns


def test_options_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etude.cli.demo._gradio_installed", lambda: True)
    served: list[DemoOptions] = []
    monkeypatch.setattr(server, "serve", served.append)
    arguments = ["--host=0.0.0.0", "--port=8000", "--limit=2.5", "--seconds=90", "--device=cpu", "--no-browser"]
    assert main([str(tmp_path), *arguments]) == 0
    assert main([str(tmp_path)]) == 0
    assert served == [DemoOptions(tmp_path, "0.0.0.0", 8000, 2.5, 90.0, "cpu", False), DemoOptions(tmp_path)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'RUN'; etude demo --help lists the arguments"),
        (["{run}", "{run}"], "{run}: unexpected argument; etude demo --help lists the arguments"),
        (["nowhere"], "nowhere: there is no such run folder or checkpoint"),
        (["{run}", "--port=0"], "Invalid value for '--port': Input should be greater than or equal to 1"),
        (["{run}", "--port=65536"], "Invalid value for '--port': Input should be less than or equal to 65535"),
        (["{run}", "--port=http"], "Invalid value for '--port': Input should be a valid integer"),
        (["{run}", "--limit=0"], "Invalid value for '--limit': 0 is not a number greater than 0"),
        (["{run}", "--seconds=inf"], "Invalid value for '--seconds': inf is not a number greater than 0"),
        (["{run}", "--device=gpu"], "Invalid value for '--device': 'gpu' is not one of 'auto', 'cpu', 'cuda'"),
        (["{run}", "--host="], "--host=: empty value; remove the option or give it a value"),
        (["{run}", "share=true"], "share=true: unexpected argument; etude demo --help lists the arguments"),
        (["{run}", "browser=no"], "browser=no: options of etude demo have dashes; use --browser or --no-browser"),
    ],
)
def test_invalid_options_are_reported(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(run=tmp_path) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message.format(run=tmp_path)) and error.count("\n") == 1


def test_help_imports_no_heavy_modules() -> None:
    code = "import sys; from etude.cli.app import run_command; run_command('demo', ['--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "etude demo outputs/<run>" in out
    assert not {"torch", "gradio", "pandas", "numpy", "uvicorn"} & set(out.split())


def test_message_if_gradio_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip() == GRADIO_MISSING and "pip install 'etude[page]'" in GRADIO_MISSING


def test_used_port_is_refused_and_a_free_one_is_selected() -> None:
    with open_listener("127.0.0.1", None) as first, open_listener("127.0.0.1", None) as second:
        port, next_port = first.getsockname()[1], second.getsockname()[1]
        assert 7860 <= port < next_port
        with pytest.raises(UserError, match=f"--port {port}: cannot be used .*in use.*; choose another with --port "):
            open_listener("127.0.0.1", port)
    with pytest.raises(UserError, match=r"--host 192\.0\.2\.1: this machine does not have this address"):
        open_listener("192.0.2.1", None)  # reserved for documentation
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open_listener("127.0.0.1", port) as third:
        assert third.getsockname()[1] == port


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_removes_the_uploads_and_ends_with_143(number: int) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    with pytest.raises(SystemExit) as ended, exit_on_signal(), upload_folder() as folder:
        (folder / "sound.wav").write_bytes(b"sound")
        signal.raise_signal(number)
    assert ended.value.code == 143 and not folder.exists()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)] == before


def test_second_interrupt_does_not_stop_the_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    remove = shutil.rmtree

    def interrupted(*args: Any, **options: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        remove(*args, **options)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job of a shell
    try:
        with pytest.raises(KeyboardInterrupt), upload_folder() as folder:
            (folder / "sound.wav").write_bytes(b"sound")
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert not folder.exists()


def test_limits_are_checked_before_decoding(tmp_path: Path) -> None:
    limits = UploadLimits(1, 60)
    assert limits.text == "up to 1 MB and 1 min"
    path = tmp_path / "quiet.flac"  # two hours in a few kB
    soundfile.write(path, np.zeros(7200 * 8000, np.int16), 8000)
    assert path.stat().st_size < 1 << 20
    assert limits.refusal_reason(path) == "This audio file is 2 h 00 min long; this page accepts up to 1 MB and 1 min."
    large, empty, listed = tmp_path / "large.wav", tmp_path / "empty.mp3", tmp_path / "list.mp3"
    large.write_bytes(b"\xff" * (3 << 19))
    empty.write_bytes(b"")
    listed.write_text("#EXTM3U\n/etc/passwd\n" + "é" * 400)  # a decoder would open the files of a playlist
    assert limits.refusal_reason(large) == "This file has 1.5 MB; this page accepts up to 1 MB and 1 min."
    assert limits.refusal_reason(empty) == "This file is empty (0 bytes)."
    assert limits.refusal_reason(listed) == "This file is text, not audio."
    assert limits.refusal_reason(tmp_path / "gone.wav") == "This audio file is no longer stored; upload it again."
    soundfile.write(tmp_path / "fine.wav", np.full(8000, 0.1), 8000)
    assert limits.refusal_reason(tmp_path / "fine.wav") == ""


def test_bars_are_sorted_and_other_classes_are_counted() -> None:
    columns = PredictionColumns({
        "genre": {"kind": "label", "classes": list("abcdefghijkl")},
        "tempo": {"kind": "scalar", "low": 40, "high": 240},
    })  # fmt: skip
    values = [0.05, 0.3, *[0.06] * 9, 0.11, 290.0]
    label, scalar = build_bars(FilePrediction(Path("x"), 1, 1, 10.0, values), columns)
    assert [row["name"] for row in label["rows"]] == list("blcdefghij")  # equal values in their order
    assert label["others"] == (2, pytest.approx(0.11)) and label["title"] == "Genre: probability of each class"
    assert scalar["rows"] == [{"name": "tempo", "value": 290.0, "share": 1.0, "range": (40.0, 240.0)}]
