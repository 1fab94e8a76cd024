"""A tracker's faults stay its own, and it always hears how a run ended."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import Logger

from etude.errors import RunError, UserError
from etude.loggers.base import Tracker, tracked
from etude.loggers.finished_run import FinishedRun
from etude.loggers.wandb import wandb_logger
from etude.runs.folder import RunFolder


class Inner(Logger):
    """Keeps what it is given; refuses while `down`."""

    name = version = ""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Any] = []
        self.down = False

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if self.down:
            raise ConnectionError("nobody answers.\nsecond line")
        self.rows.append((dict(metrics), step))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...


class Kept(Tracker):
    key, title, advice = "kept", "The tracker", "try it again"

    def __init__(self, folder: Path, fault: BaseException | None = None) -> None:
        super().__init__(folder, {})
        self.there, self.fault, self.ends, self.run_ids, self.got = Inner(), fault, [], [], []  # type: ignore[var-annotated]

    def start(self, run_id: str | None) -> tuple[Logger, str]:
        if self.fault:
            raise self.fault
        self.run_ids.append(run_id)
        return self.there, run_id or "abc"

    def log_results(self, finished: FinishedRun) -> None:
        if self.there.down:
            raise OSError(28, "No space left on device")
        self.got.append(finished)

    def stop(self, failed: bool) -> None:
        self.ends.append(failed)


def test_a_run_that_ends_well_is_finished_and_its_name_is_kept(tmp_path: Path) -> None:
    for known in (None, "abc"):
        tracker = Kept(tmp_path)
        with tracked([tracker]) as (same,):
            assert same is tracker
        assert (tracker.run_ids, tracker.ends) == ([known], [False])
        assert RunFolder(tmp_path).read_trackers() == {"kept": "abc"}


@pytest.mark.parametrize(
    "fault", [UserError("x"), RunError("not finite"), RuntimeError("x"), KeyboardInterrupt(), SystemExit(1)]
)
def test_whatever_ends_a_run_it_has_failed_and_is_raised_on(fault: BaseException, tmp_path: Path) -> None:
    trackers = [Kept(tmp_path), Kept(tmp_path)]
    with pytest.raises(type(fault)), tracked(trackers):
        raise fault
    assert [tracker.ends for tracker in trackers] == [[True], [True]]


def test_one_that_cannot_be_begun_ends_those_before_it(tmp_path: Path) -> None:
    good, bad = Kept(tmp_path), Kept(tmp_path, ConnectionError("nobody answers.\nsecond line"))
    said = r"^logger=kept: The tracker cannot start the run \(nobody answers\); try it again$"
    with pytest.raises(UserError, match=said), tracked([good, bad]):
        raise AssertionError("the run has begun")
    assert (good.ends, bad.ends) == ([True], [])


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^logger=kept needs the extra etude\[kept\]: pip install 'etude\[kept\]'$"):
        Kept(tmp_path, ModuleNotFoundError("no kept")).begin()


@pytest.mark.parametrize("key", ["mlflow", "tensorboard"])
def test_an_extra_that_is_not_installed_is_named(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = getattr(import_module(f"etude.loggers.{key}"), f"{key}_logger")
    for module in (key, "mlflow.tracking", "pytorch_lightning.loggers"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    tracker: Any = made(tmp_path, {"outputs": str(tmp_path)})
    with pytest.raises(UserError, match=rf"etude\[{key}\]"):
        tracker.begin()


def test_curves_that_are_not_taken_are_offered_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Kept(tmp_path)
    with tracked([tracker]), caplog.at_level(logging.WARNING):
        tracker.log_metrics({"loss": 3.0, "epoch": 0}, 1)
        tracker.there.down = True
        for step in (2, 3):
            tracker.log_metrics({"loss": 3.0 - step, "epoch": step - 1}, step)
        (one,) = caplog.messages
        assert one.startswith("The tracker: nobody answers; training continues without it")
        tracker.there.down = False
        tracker.log_finished_run(FinishedRun(RunFolder(tmp_path)))
    assert tracker.there.rows == [({"loss": 3.0 - (s if s > 1 else 0), "epoch": s}, s) for s in (1, 2, 3)]
    assert (len(tracker.got), tracker.step, tracker.ends) == (1, 3, [False])


def test_results_that_are_not_taken_are_said_in_one_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Kept(tmp_path)
    with tracked([tracker]), caplog.at_level(logging.WARNING):
        tracker.there.down = True
        tracker.log_finished_run(FinishedRun(RunFolder(tmp_path)))
    (one,) = caplog.messages
    assert one.startswith("The tracker: [Errno 28] No space left on device; not all results were sent; they are in ")


def test_only_the_first_process_begins_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    tracker = Kept(tmp_path)
    with tracked([tracker]) as begun:
        tracker.log_metrics({"loss": 1.0}, 1)
    assert (begun, tracker.run_ids, tracker.ends, tracker.there.rows, tracker.pending) == ([], [], [], [], [])


def test_long_tags_are_cut_and_stay_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker: Any = wandb_logger(tmp_path, {}, tags=["a", "x" * 64, "x" * 65, "x" * 66, ""])
    tags = tracker._tags()
    assert len(set(tags)) == 4 and max(map(len, tags)) == 64
    assert tags[:2] == ["a", "x" * 64]
    assert "2 tag(s) are longer than 64" in caplog.text
