"""The help lists what there is, by the name that the command was called by."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from etude.cli.train import main
from etude.config import groups_help
from etude.errors import UserError


def test_options_of_a_folder_of_mine_and_of_plug_ins_stand_beside_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "average.yaml").touch()
    (tmp_path / "experiment" / "mine").mkdir(parents=True)
    (tmp_path / "experiment" / "mine" / "first.yaml").touch()
    lines = groups_help.text(["-h", "backbone=cnn", "-cd", str(tmp_path)]).splitlines()
    assert "backbone: ast, average, cnn, convnet, efficientat, lstm, timm" in lines
    assert "experiment/mine: first" in lines
    assert any(line.startswith("experiment/reproduction/table1: lstm_beat_mel, ") for line in lines)
    assert not any(line.startswith(("data/base", "sweep/space")) for line in lines)  # of which options are made
    assert any(line.startswith("hydra/launcher: ") and "basic" in line for line in lines)
    assert "average" not in groups_help.text(["-h"])
    with pytest.raises(UserError, match="--config-dir=nowhere: there is no such folder"):
        groups_help.text(["--help", "--config-dir=nowhere"])


def test_options_that_a_plug_in_stores_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hydra_plugins" / "mine").mkdir(parents=True)
    code = 'ConfigStore.instance().store(\n    group="hydra/launcher",\n    name="mine",\n    node=Conf,\n)\n'
    (tmp_path / "hydra_plugins" / "mine" / "launcher.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hydra_plugins", raising=False)
    assert "mine" in groups_help.listing([])["hydra/launcher"]


@pytest.mark.parametrize(
    ("script", "program"),
    [("train.py", "python train.py"), ("/bin/etude", "etude train"), ("/x/etude/__main__.py", "etude train")],
)
def test_the_help_says_the_command_that_was_typed(
    script: str, program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script])
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert f"\n  {program} resume=outputs/<run>  " in said
    assert said.count("etude train") == 8 * (program == "etude train")
