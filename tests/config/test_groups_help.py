"""The help lists the existing config groups and options, and names the command as it was called."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from etude.cli.train import main
from etude.config import compose
from etude.errors import UserError


def test_options_of_a_user_folder_and_of_plugins_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "average.yaml").touch()
    (tmp_path / "experiment" / "mine").mkdir(parents=True)
    (tmp_path / "experiment" / "mine" / "first.yaml").touch()
    lines = compose.help_text(["-h", "backbone=cnn", "-cd", str(tmp_path)]).splitlines()
    assert "backbone: ast, average, cnn, convnet, efficientat, hf, lstm, musicnn, timm" in lines
    assert "experiment/mine: first" in lines
    assert any(line.startswith("experiment/reproduction/table1: lstm_beat_mel, ") for line in lines)
    assert not any(line.startswith(("data/base", "sweep/space")) for line in lines)  # files shared by options
    assert any(line.startswith("hydra/launcher: ") and "basic" in line for line in lines)
    assert "average" not in compose.help_text(["-h"])
    with pytest.raises(UserError, match="--config-dir=nowhere: there is no such folder"):
        compose.help_text(["--help", "--config-dir=nowhere"])


def test_options_stored_by_a_plugin_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hydra_plugins" / "mine").mkdir(parents=True)
    code = 'ConfigStore.instance().store(\n    group="hydra/launcher",\n    name="mine",\n    node=Conf,\n)\n'
    (tmp_path / "hydra_plugins" / "mine" / "launcher.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hydra_plugins", raising=False)
    assert "mine" in compose.list_groups([])["hydra/launcher"]


@pytest.mark.parametrize(
    ("script", "program"),
    [("train.py", "python train.py"), ("/bin/etude", "etude train"), ("/x/etude/__main__.py", "etude train")],
)
def test_help_shows_the_command_as_it_was_called(
    script: str, program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script])
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert f"\n  {program} resume=outputs/<run>  " in printed
    assert printed.count("etude train") == 8 * (program == "etude train")
