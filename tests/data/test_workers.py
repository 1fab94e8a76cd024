"""Tests of the parallel map over jobs."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver, spawn
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import soundfile
import torch
from tests.data.readers import (
    LAST,
    describe_process,
    exit_at_13,
    raise_at_13,
    read_existing_spectrogram,
    record_job,
    square,
)

from etude.audio.decode import decode
from etude.audio.log_mel import LogMelChroma
from etude.data import workers
from etude.data.collection import Collection
from etude.data.pack import PackOptions
from etude.data.packing import prepare_pack
from etude.data.sources.demo import HOME
from etude.data.workers import AHEAD, SHARD, map_jobs
from etude.errors import UserError

ROOT = str(Path(__file__).parents[2])


@pytest.mark.parametrize(("workers", "count"), [*((1, count) for count in (0, 1, 8, 9, 30)), (2, 0), (2, 8), (None, 8)])
def test_few_jobs_or_one_worker_use_no_process(workers: int | None, count: int) -> None:
    # a lambda cannot be pickled
    results = map_jobs(lambda number: (number**2, os.getpid()), list(range(count)), workers)
    assert list(results) == [(number**2, os.getpid()) for number in range(count)]


def test_without_semaphores_jobs_run_in_this_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(multiprocessing, "Lock", refuse)
    workers._warn_once.cache_clear()
    for _ in range(2):
        assert set(map_jobs(lambda _: os.getpid(), list(range(30)), 2)) == {os.getpid()}
    assert caplog.text.count("using one process") == 1
    assert "Read-only file system" in caplog.text


def test_none_uses_process_for_each_usable_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "usable_cores", lambda: 1)
    assert set(map_jobs(lambda _: os.getpid(), list(range(30)), None)) == {os.getpid()}


def test_serial_jobs_run_lazily() -> None:
    started: list[int] = []

    def note(number: int) -> int:
        started.append(number)
        return number

    results = map_jobs(note, list(range(100)), 1)
    assert started == []
    assert next(results) == 0
    assert started == [0]


def test_exception_of_serial_job_reaches_caller() -> None:
    results = map_jobs(raise_at_13, list(range(40)), 1)
    assert [next(results) for _ in range(13)] == list(range(13))
    with pytest.raises(LookupError, match=r"^job 13$"):
        next(results)


class RecordedJobs(Sequence[tuple[str, int]]):
    """Sequence of jobs that records how many were taken."""

    def __init__(self, file: Path, count: int) -> None:
        self.file, self.count, self.taken = file, count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        if index >= self.count:
            raise IndexError
        self.taken = max(self.taken, index + 1)
        return str(self.file), index


def assert_in_order(results: Iterator[tuple[int, int]], jobs: RecordedJobs) -> None:
    """Check the order, the number of jobs ahead and the threads up to the shard of the job that raises."""
    complete = LAST // SHARD * SHARD
    for index in range(complete):
        assert next(results) == (index, 1)
        assert jobs.taken <= AHEAD * 2 * SHARD + SHARD * (index // SHARD)
    with pytest.raises(UserError) as caught:
        next(results)
    assert str(caught.value) == f"job {LAST} must be repaired"  # one line without a remote traceback
    started = [int(line) for line in jobs.file.read_text().split()]
    assert len(started) == len(set(started))  # no job is repeated
    assert set(range(complete)) <= set(started) <= set(range(complete + AHEAD * 2 * SHARD))


def test_processes_keep_order_with_few_jobs_ahead(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    jobs = RecordedJobs(tmp_path / "done", 400)
    assert_in_order(map_jobs(record_job, jobs, 2), jobs)
    assert torch.get_num_threads() == before


@pytest.mark.skipif(sys.platform != "linux", reason="only there are workers forked")
def test_workers_are_forked_from_server_with_imports() -> None:
    first, second = (list(map_jobs(describe_process, list(range(4 * SHARD)), 2)) for _ in range(2))
    parents = {parent for _, parent, _ in first + second}
    assert len(parents) == 1 and os.getpid() not in parents  # one server for all calls, not this process
    assert {worker for worker, *_ in first}.isdisjoint(worker for worker, *_ in second)
    assert all(imported for *_, imported in first)


def test_this_process_runs_jobs_until_workers_start() -> None:
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # so that workers need time to start
    done = list(map_jobs(describe_process, list(range(5000)), 2, meanwhile=True))
    process_ids = [worker for worker, *_ in done]
    n_own = process_ids.count(os.getpid())
    assert len(done) == 5000 and n_own >= 1
    assert process_ids[:n_own] == [os.getpid()] * n_own  # only at the beginning
    assert list(map_jobs(square, list(range(3000)), 2, meanwhile=True)) == [number**2 for number in range(3000)]


def test_dead_worker_gives_error_message() -> None:
    with pytest.raises(UserError, match=r"^a worker process died, .*--workers 1$"):
        list(map_jobs(exit_at_13, list(range(40)), 2))


def test_missing_ray_gives_installation_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"^ray: is not installed; install it with pip install 'etude\[ray\]'"):
        list(map_jobs(square, [1], ray="local"))


@pytest.mark.full
def test_ray_gives_same_results_and_is_shut_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check order, jobs ahead, exceptions and the bytes of a pack on a Ray cluster of two workers."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", ROOT)  # import path of the readers
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    numbers = map_jobs(square, list(range(60)), 2, "local")
    try:
        assert next(numbers) == 0
        assert ray.cluster_resources()["CPU"] == 2
        jobs = RecordedJobs(tmp_path / "done", 400)
        assert_in_order(map_jobs(record_job, jobs, 2, "local"), jobs)

        source = collection_of_files(tmp_path)
        packs = [prepare_pack(source, LogMelChroma(), PackOptions(tmp_path / name, workers=count, ray=address))
                for name, count, address in (("processes", 1, None), ("ray", 2, "local"))]  # fmt: skip
        from_processes, from_ray = ({path.name: path.read_bytes() for path in pack.folder.iterdir()} for pack in packs)
        assert len(packs[0].index) == 19  # the last file is missing
        assert from_ray == from_processes

        assert ray.is_initialized()  # an existing cluster is not shut down
        assert list(numbers) == [number**2 for number in range(1, 60)]
    finally:
        numbers.close()  # type: ignore[attr-defined]
    assert not ray.is_initialized()


def collection_of_files(home: Path) -> Collection:
    audio = decode(sorted((HOME / "clips" / "metal").iterdir())[0], 22050)
    paths = [home / f"{i:02}.wav" for i in range(20)]
    for i, path in enumerate(paths[:-1]):
        soundfile.write(path, audio[9000 * i :][: 9000 + 500 * i], 22050)
    rows = {"id": [path.stem for path in paths], "path": list(map(str, paths)), "group": None, "genre": ["x", "y"] * 10}
    targets = {"genre": {"kind": "label", "classes": ["x", "y"]}}
    return Collection("files", "Files", pd.DataFrame(rows), targets, reader=read_existing_spectrogram)


def test_worker_does_not_import_main(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ModuleType("__main__")
    script.__file__, script.__spec__ = "script.py", None
    monkeypatch.setitem(sys.modules, "__main__", script)
    assert "init_main_from_path" in spawn.get_preparation_data("worker")
    with workers._without_main():
        assert not {"init_main_from_path", "init_main_from_name"} & set(spawn.get_preparation_data("worker"))
    assert "init_main_from_path" in spawn.get_preparation_data("worker")


def test_function_of_script_runs_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ModuleType("__main__")
    exec("import os\ndef where(number): return number, os.getpid()", script.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", script)
    assert not workers.refers_to_main(os.getpid, 1)
    results = list(workers.map_jobs(script.where, list(range(40)), workers=2))
    assert results == [(number, os.getpid()) for number in range(40)]
