"""Tests of the run folders of jobs and of the messages for repeated and failed jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from etude.cli.train import main
from etude.config.overrides import quote_value
from etude.errors import UserError
from etude.sweeps.jobs import Job
from etude.sweeps.launcher import _job_folder


@pytest.mark.parametrize("folder", ["outputs/résultats", "outputs/ünï", "a b", "it's", "日本", "plain/x-1.0", "a=b"])
def test_folder_of_a_job_is_read_back_by_hydra(folder: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"hydra.run.dir={quote_value(folder)}"])
    assert override.value() == folder


@pytest.mark.parametrize("subdir", ["0_a", "0_a/x", "0_../c"])
def test_folder_inside_the_sweep_is_accepted(subdir: str, tmp_path: Path) -> None:
    assert _job_folder(tmp_path, subdir) == tmp_path / subdir


@pytest.mark.parametrize("subdir", ["..", ".", "0_a/..", "0_a/../../b", "/elsewhere", "../sweep2/0"])
def test_folder_outside_the_sweep_is_refused(subdir: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be inside the folder of its sweep"):
        _job_folder(tmp_path, subdir)


def test_repeated_value_is_named_and_no_folder_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "debug=fast", "seed=1,1,2", "name=a,b"]) == 2
    message = "seed=1,1,2: contains 1 more than once; each job of a sweep needs different values\n"
    assert capsys.readouterr().err == message
    assert not list(tmp_path.rglob("*_sweep_*"))


@pytest.mark.parametrize(
    ("code", "error", "reason"),
    [(143, "", "ended by SIGTERM"), (130, "", "ended by SIGINT"), (-9, "", "killed by SIGKILL"), (2, "a\nb", "a; b")],
)
def test_job_that_did_not_finish_has_a_reason(code: int, error: str, reason: str) -> None:
    assert Job(0, [], Path("sweep/0_a"), code=code, error=error).failure_reason == reason
