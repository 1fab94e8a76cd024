"""Tests of failing trackers and of the status that trackers receive."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import Logger

from etude.errors import RunError, UserError
from etude.loggers.base import Tracker, tensorboard_logger, tracked
from etude.loggers.finished_run import FinishedRun
from etude.loggers.mlflow import mlflow_logger
from etude.loggers.wandb import wandb_logger
from etude.runs.folder import RunFolder


class Inner(Logger):
    """Logger that stores metrics, and raises while `down`."""

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


class StubTracker(Tracker):
    key, title, advice = "kept", "The tracker", "try it again"

    def __init__(self, folder: Path, fault: BaseException | None = None) -> None:
        super().__init__(folder, {})
        self.logger, self.fault, self.ends, self.run_ids, self.results = Inner(), fault, [], [], []  # type: ignore[var-annotated]

    def start(self, run_id: str | None) -> tuple[Logger, str]:
        if self.fault:
            raise self.fault
        self.run_ids.append(run_id)
        return self.logger, run_id or "abc"

    def log_results(self, finished: FinishedRun) -> None:
        if self.logger.down:
            raise OSError(28, "No space left on device")
        self.results.append(finished)

    def stop(self, failed: bool) -> None:
        self.ends.append(failed)


def test_finished_run_has_its_status_and_its_id_is_stored(tmp_path: Path) -> None:
    for run_id in (None, "abc"):
        tracker = StubTracker(tmp_path)
        with tracked([tracker]) as (same,):
            assert same is tracker
        assert (tracker.run_ids, tracker.ends) == ([run_id], [False])
        assert RunFolder(tmp_path).read_trackers() == {"kept": "abc"}


@pytest.mark.parametrize(
    "fault", [UserError("x"), RunError("not finite"), RuntimeError("x"), KeyboardInterrupt(), SystemExit(1)]
)
def test_run_that_raises_has_failed(fault: BaseException, tmp_path: Path) -> None:
    trackers = [StubTracker(tmp_path), StubTracker(tmp_path)]
    with pytest.raises(type(fault)), tracked(trackers):
        raise fault
    assert [tracker.ends for tracker in trackers] == [[True], [True]]


def test_tracker_that_cannot_start_ends_the_started_ones(tmp_path: Path) -> None:
    good, bad = StubTracker(tmp_path), StubTracker(tmp_path, ConnectionError("nobody answers.\nsecond line"))
    message = r"^logger=kept: The tracker cannot start the run \(nobody answers\); try it again$"
    with pytest.raises(UserError, match=message), tracked([good, bad]):
        raise AssertionError("the run has started")
    assert (good.ends, bad.ends) == ([True], [])


def test_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^logger=kept needs the extra etude\[kept\]: pip install 'etude\[kept\]'$"):
        StubTracker(tmp_path, ModuleNotFoundError("no kept")).begin()


@pytest.mark.parametrize(("key", "factory"), [("mlflow", mlflow_logger), ("tensorboard", tensorboard_logger)])
def test_missing_extra_is_named(key: str, factory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (key, "mlflow.tracking", "pytorch_lightning.loggers"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    tracker: Any = factory(tmp_path, {"outputs": str(tmp_path)})
    with pytest.raises(UserError, match=rf"etude\[{key}\]"):
        tracker.begin()


def test_unsent_curves_are_sent_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = StubTracker(tmp_path)
    with tracked([tracker]), caplog.at_level(logging.WARNING):
        tracker.log_metrics({"loss": 3.0, "epoch": 0}, 1)
        tracker.logger.down = True
        for step in (2, 3):
            tracker.log_metrics({"loss": 3.0 - step, "epoch": step - 1}, step)
        (text,) = caplog.messages
        assert text.startswith("The tracker: nobody answers; training continues without it")
        tracker.logger.down = False
        tracker.log_finished_run(FinishedRun(RunFolder(tmp_path)))
    assert tracker.logger.rows == [({"loss": 3.0 - (s if s > 1 else 0), "epoch": s}, s) for s in (1, 2, 3)]
    assert (len(tracker.results), tracker.step, tracker.ends) == (1, 3, [False])


def test_unsent_results_log_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = StubTracker(tmp_path)
    with tracked([tracker]), caplog.at_level(logging.WARNING):
        tracker.logger.down = True
        tracker.log_finished_run(FinishedRun(RunFolder(tmp_path)))
    (text,) = caplog.messages
    assert text.startswith("The tracker: [Errno 28] No space left on device; not all results were sent; they are in ")


def test_only_the_first_process_starts_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    tracker = StubTracker(tmp_path)
    with tracked([tracker]) as started:
        tracker.log_metrics({"loss": 1.0}, 1)
    assert (started, tracker.run_ids, tracker.ends, tracker.logger.rows, tracker.pending) == ([], [], [], [], [])


def test_long_tags_are_shortened_and_unique(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker: Any = wandb_logger(tmp_path, {}, tags=["a", "x" * 64, "x" * 65, "x" * 66, ""])
    tags = tracker._tags()
    assert len(set(tags)) == 4 and max(map(len, tags)) == 64
    assert tags[:2] == ["a", "x" * 64]
    assert "2 tag(s) are longer than 64" in caplog.text
