"""Tests of the preparation of packs in several processes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from tests.data.packing.preparation import (
    TARGETS,
    read_files,
    visible_names,
)
from tests.data.readers import read_and_record, read_spectrogram, wait_until

from etude.audio.decode import decode
from etude.audio.log_mel import LogMelChroma
from etude.data.collection import Collection, Reader
from etude.data.pack import Pack, PackOptions
from etude.data.packing import prepare_pack
from etude.data.sources.demo import HOME


def test_processes_and_threads_do_not_change_pack(packs: Path, tmp_path: Path) -> None:
    """Use real clips of ten seconds, for which a difference in the last digit of a sum would be detected."""
    paths = [
        path
        for genre in ("electronic", "metal", "orchestral")
        for path in sorted((HOME / "clips" / genre).iterdir())[:3]
    ]
    (tmp_path / "text.ogg").write_text("no music")
    paths.insert(5, tmp_path / "text.ogg")
    rows = {"id": [path.stem for path in paths], "path": list(map(str, paths)), "group": None, "genre": None}
    source = Collection("real", "Real", pd.DataFrame(rows), TARGETS).check()
    contents = {}
    for name, workers, threads in (("one process", 1, 1), ("two processes", 2, 1), ("threads", 1, 2)):
        torch.set_num_threads(threads)
        contents[name] = read_files(
            prepare_pack(source, LogMelChroma(), PackOptions(packs / name, workers=workers)).folder
        )
    torch.set_num_threads(1)
    assert contents["two processes"] == contents["one process"]
    assert contents["threads"] == contents["one process"]


FORKING = get_context("forkserver")  # forked processes need no imports
SLOW = LogMelChroma(n_mels=16, hop_length=32)  # small hops slow down each clip
MANY = 120
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found in /proc")


def many_files(audio_folder: Path, reader: Reader = read_spectrogram) -> Collection:
    paths = sorted(audio_folder.glob("*.wav"))
    rows = {"id": [path.stem for path in paths], "path": list(map(str, paths)), "group": None, "genre": None}
    return Collection("many", "Many", pd.DataFrame(rows), TARGETS, reader=reader)


def prepare_many_files(audio_folder: Path, packs: Path, workers: int) -> None:
    prepare_pack(many_files(audio_folder), SLOW, PackOptions(packs, workers=workers))


@pytest.fixture(scope="module")
def audio_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of many short files."""
    audio_folder = tmp_path_factory.mktemp("audio")
    audio = decode(sorted((HOME / "clips" / "metal").iterdir())[0], 22050)
    for i in range(MANY):
        soundfile.write(audio_folder / f"{i:03}.wav", audio[1500 * i :][: 8000 + 20 * i], 22050)
    return audio_folder


@pytest.fixture
def start_process() -> Iterator[Callable[..., ForkServerProcess]]:
    """Return a function that starts a process, and kill remaining processes at the end."""
    FORKING.set_forkserver_preload(["pandas", "pyarrow.parquet", "soundfile", "torch", "etude.data.packing"])
    started: list[ForkServerProcess] = []

    def start(function: Callable[..., None], *args: Any) -> ForkServerProcess:
        process = FORKING.Process(target=function, args=args)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def child_processes(pid: int | None) -> list[int]:
    """Return the descendants of a process."""
    try:
        direct = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return direct + [descendant for child in direct for descendant in child_processes(child)]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def exit_in_time(workers: list[int], seconds: float) -> bool:
    """Return whether workers exit after their parent was killed, and kill those that do not."""
    exited = wait_until(lambda: not any(map(is_running, workers)), seconds)
    for pid in workers:
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
    return exited


def count_journal_lines(packs: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in packs.glob(".*.part/journal.jsonl"))


@needs_proc
@pytest.mark.parametrize(
    ("workers", "kills"),
    [(1, 4), *(pytest.param(workers, kills, marks=pytest.mark.full) for workers, kills in ((2, 4), (1, 10), (2, 10)))],
)
def test_killed_process_is_resumed_without_loss(
    workers: int,
    kills: int,
    audio_folder: Path,
    packs: Path,
    tmp_path: Path,
    start_process: Callable[..., ForkServerProcess],
) -> None:
    """Kill the process several times, after a random number of clips or while workers start."""
    expected = read_files(
        prepare_pack(many_files(audio_folder), SLOW, PackOptions(tmp_path / "expected", workers=1)).folder
    )
    rng = np.random.default_rng(workers)
    moments = rng.integers(1, 12, kills) if workers == 1 else rng.permutation([0] * (kills - 2) + [1, 9])
    n_partial, workers_exited = 0, True
    for more in moments.tolist():
        before = count_journal_lines(packs)
        process = start_process(prepare_many_files, audio_folder, packs, workers)

        def ready(process: ForkServerProcess = process, target: int = before + more, starting: bool = not more) -> bool:
            return not process.is_alive() or (
                bool(child_processes(process.pid)) if starting else count_journal_lines(packs) >= target
            )

        assert wait_until(ready)
        os.kill(process.pid or 0, signal.SIGSTOP)  # so that it starts no further workers
        workers_of_process = child_processes(process.pid)
        process.kill()
        process.join()
        if more:
            workers_exited = exit_in_time(workers_of_process, seconds=10 if workers_exited else 0) and workers_exited
        exit_in_time(workers_of_process, seconds=0)
        n_partial += 0 < count_journal_lines(packs) < MANY
        for pack in packs.glob("many-*"):  # the process finished before it was killed
            assert read_files(pack) == expected
            shutil.rmtree(packs)
    assert n_partial >= 2
    assert workers_exited
    process = start_process(prepare_many_files, audio_folder, packs, workers)
    process.join()
    assert process.exitcode == 0
    (pack,) = packs.glob("many-*")
    assert read_files(pack) == expected
    assert visible_names(packs) == [pack.name]
    Pack(pack).verify()
    assert workers_exited  # otherwise surviving workers would keep their memory


def prepare_first(audio_folder: Path, packs: Path) -> None:
    prepare_pack(many_files(audio_folder, read_and_record), SLOW, PackOptions(packs, workers=1))


def prepare_second(audio_folder: Path, packs: Path) -> None:
    (audio_folder / "both").touch()
    prepare_pack(many_files(audio_folder, read_and_record), SLOW, PackOptions(packs, workers=1)).verify()


def test_one_of_two_processes_prepares_pack(
    audio_folder: Path, packs: Path, tmp_path: Path, start_process: Callable[..., ForkServerProcess]
) -> None:
    """Start the second process while the first reads its sixth clip."""
    shutil.copytree(audio_folder, copy := tmp_path / "copy")
    processes = [start_process(prepare_first, copy, packs)]
    assert wait_until(lambda: count_journal_lines(packs) > 0)
    processes.append(start_process(prepare_second, copy, packs))
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sorted((copy / "calls").read_text().split()) == [f"{i:03}" for i in range(MANY)]
    (pack,) = packs.glob("many-*")
    assert read_files(pack) == read_files(
        prepare_pack(many_files(copy), SLOW, PackOptions(tmp_path / "expected", workers=1)).folder
    )
