"""Jobs of a sweep: folders of their own inside the sweep's, and no job twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from etude.cli.train import main
from etude.config.overrides import quote_value
from etude.errors import UserError
from etude.sweeps.jobs import Job
from etude.sweeps.launcher import _inside


@pytest.mark.parametrize("folder", ["outputs/résultats", "outputs/ünï", "a b", "it's", "日本", "plain/x-1.0", "a=b"])
def test_folder_of_a_job_is_read_back_by_hydra(folder: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"hydra.run.dir={quote_value(folder)}"])
    assert override.value() == folder


@pytest.mark.parametrize("subdir", ["0_a", "0_a/x", "0_../c"])
def test_folder_inside_of_the_sweep_is_taken(subdir: str, tmp_path: Path) -> None:
    assert _inside(tmp_path, subdir) == tmp_path / subdir


@pytest.mark.parametrize("subdir", ["..", ".", "0_a/..", "0_a/../../b", "/elsewhere", "../sweep2/0"])
def test_folder_outside_of_the_sweep_is_refused(subdir: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has to be below that of the sweep"):
        _inside(tmp_path, subdir)


def test_repeated_value_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "debug=fast", "seed=1,1,2", "name=a,b"]) == 2
    said = "seed=1,1,2: 1 stands there more than once; each job of a sweep needs values of its own\n"
    assert capsys.readouterr().err == said
    assert not list(tmp_path.rglob("*_sweep"))


@pytest.mark.parametrize(
    ("code", "reason", "why"),
    [(143, "", "ended by SIGTERM"), (130, "", "ended by SIGINT"), (-9, "", "killed by SIGKILL"), (2, "a\nb", "a; b")],
)
def test_job_that_did_not_end_gives_a_reason(code: int, reason: str, why: str) -> None:
    assert Job(0, [], Path("sweep/0_a"), code=code, reason=reason).why == why
