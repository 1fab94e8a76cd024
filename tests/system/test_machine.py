"""Cores, worker processes, private folders, home and text encoding of unusual machines."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import sys
import tempfile
from multiprocessing import connection, process, util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from etude.system import machine


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Simulate a machine with eight cores and no limits, and return the folder of its cgroups."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "own")
    return tmp_path


def write_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def reset_socket_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make multiprocessing select the folder of its sockets again."""
    current: Any = process.current_process()
    monkeypatch.setattr(current, "_config", {key: value for key, value in current._config.items() if key != "tempdir"})


def test_cores_of_a_machine_without_limits(eight_cores: Path) -> None:
    assert machine.usable_cores() == 8


def test_cores_follow_the_affinity(eight_cores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert machine.usable_cores() == 1


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        (
            "4:memory:/x\n2:cpu,cpuacct:/y\n",
            {"cpu,cpuacct/y/cpu.cfs_quota_us": "400000", "cpu,cpuacct/y/cpu.cfs_period_us": "100000"},
            4,
        ),
        ("2:cpu,cpuacct:/y\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("0::/\n", {"cpu.max": "nonsense"}, 8),
    ],
)
def test_cores_follow_the_quota_of_a_cgroup(eight_cores: Path, own: str, files: dict[str, str], cores: int) -> None:
    write_file(eight_cores / "own", own)
    for name, text in files.items():
        write_file(eight_cores / "cgroup" / name, text)
    assert machine.usable_cores() == cores


def test_one_process_without_semaphores(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    assert machine.why_one_process() is None
    monkeypatch.setattr(multiprocessing, "Lock", refuse)
    assert "Read-only file system" in str(machine.why_one_process())


def test_sockets_are_outside_of_a_long_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    reset_socket_folder(monkeypatch)
    assert machine.why_one_process() is None
    assert tempfile.gettempdir() == str(long)
    with connection.Listener(family="AF_UNIX"):  # in the selected folder
        pass
    assert not str(util.get_temp_dir()).startswith(str(long))


def test_one_process_without_a_short_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    reset_socket_folder(monkeypatch)
    monkeypatch.setattr(machine, "SHORT_FOLDERS", (str(tmp_path / "missing"),))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert "set TMPDIR" in str(machine.why_one_process())


def test_private_folder_belongs_to_this_user_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = machine.private_folder("cache")
    assert folder is not None and folder.stat().st_mode & 0o777 == 0o700
    assert machine.private_folder("cache") == folder
    folder.chmod(0o777)
    assert machine.private_folder("cache") is None
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert machine.private_folder("cache") is None


def test_home_is_provided_for_a_user_without_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", "/somewhere")
    machine.provide_home()
    assert os.environ["HOME"] == "/somewhere"
    monkeypatch.delenv("HOME")
    pwd = pytest.importorskip("pwd")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    machine.provide_home()
    assert Path(os.environ["HOME"]).parent == tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [("flags\t: fpu avx512_bf16\n", True), ("flags\t: fpu avx2\n", False), ("Features : bf16\n", True), ("", None)],
)
def test_bfloat16_is_read_from_the_flags_of_the_processor(
    text: str, expected: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "cpuinfo", text)
    monkeypatch.setattr(machine, "PROCESSORS", tmp_path / "cpuinfo")
    assert machine.has_bfloat16() is expected


def test_command_restarts_once_if_file_names_are_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: started.append(arguments))
    monkeypatch.delenv("PYTHONUTF8", raising=False)
    machine.use_utf8()
    assert not started
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    machine.use_utf8()
    machine.use_utf8()
    assert started == [[sys.executable, *sys.orig_argv[1:]]]
    assert os.environ["PYTHONUTF8"] == "1"


def test_ascii_stream_prints_escape_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    machine.use_utf8()
    print("± é", flush=True)  # noqa: T201
    assert raw.getvalue() == b"\\xb1 \\xe9\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only there is anonymous shared memory")
def test_shared_object_contains_its_tensors_once() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv1d(64, 99, 3), nn.BatchNorm1d(99), nn.Linear(7, 300)).eval()
    network.register_buffer("empty", torch.empty(0, 2))
    network[1].running_mean.copy_(torch.randn(99))
    shared = machine.SharedObject(network)
    n_bytes = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    assert len(shared._pickled) < n_bytes // 10
    copies = [machine._unpickle_shared(shared._pickled, Descriptor(shared._memory.fileno())) for _ in range(2)]
    x = torch.randn(2, 64, 9)
    for copy in copies:
        assert copy.value.state_dict().keys() == network.state_dict().keys() and copy.value.empty.shape == (0, 2)
        torch.testing.assert_close(copy.value(x), network(x), rtol=0, atol=0)
        assert not any(parameter.requires_grad for parameter in copy.value.parameters())
        assert all(value.data_ptr() % machine.ALIGNMENT == 0 for value in copy.value.state_dict().values())
    copies[0].value[2].weight.zero_()  # a process that writes changes its own copy alone
    torch.testing.assert_close(copies[1].value(x), network(x), rtol=0, atol=0)


@pytest.mark.skipif(sys.platform != "linux", reason="only there is anonymous shared memory")
def test_object_of_the_script_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ModuleType("__main__")
    exec("class Network: pass", script.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", script)
    with pytest.raises(pickle.PicklingError, match="is defined in the script"):
        machine.SharedObject(script.Network())


class Descriptor:
    """File descriptor that was sent to this process."""

    def __init__(self, number: int) -> None:
        self.number = number

    def detach(self) -> int:
        """Return the descriptor, which the receiver closes."""
        return os.dup(self.number)
