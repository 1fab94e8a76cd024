"""Cores, worker processes, private folders, text encoding, garbage collection and bfloat16 support of the machine.

`SharedObject` sends an object with large tensors, such as a network, to worker processes.
"""

from __future__ import annotations

import atexit
import gc
import io
import mmap
import os
import pickle
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
PROCESSORS = Path("/proc/cpuinfo")
MAX_SOCKET_PATH = 103  # bytes; limit for the path of a Unix socket on all systems (Linux allows 107)
SOCKET_NAME_LENGTH = len("/pymp-12345678/listener-12345678")  # multiprocessing appends it to the temporary folder
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # alternatives, in which tempfile creates a private folder
ALIGNMENT = 64  # bytes, of tensors in shared memory


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    `os.cpu_count` returns the cores of the machine. A cluster job or a container often has fewer, limited by its
    affinity (`taskset`, Slurm) or by the quota of a cgroup (Docker, Kubernetes, systemd).
    """
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        with suppress(OSError):
            count = min(count, len(os.sched_getaffinity(0)))
    return max(1, min([count, *(int(quota) for quota in _cgroup_quotas())]))


def why_one_process() -> str | None:
    """Return the reason why this machine cannot start worker processes, or None if it can.

    Workers need semaphores, which are files in /dev/shm, and Unix sockets, whose path length is limited.
    """
    import multiprocessing

    try:
        multiprocessing.Lock()
    except (OSError, ImportError) as error:
        return (
            f"this machine does not provide semaphores ({_error_reason(error)}; on Linux they need a writable /dev/shm)"
        )
    if not _short_socket_folder():
        return f"the path of the temporary folder is too long for sockets ({tempfile.gettempdir()}); set TMPDIR"
    return None


class SharedObject(Generic[Value]):
    """Object that worker processes receive when they start, with tensors in memory that all of them share.

    Therefore the weights of a network need the same memory for any number of workers. The memory is anonymous: it is
    not limited by the size of /dev/shm, and is freed with the last process that uses it. The workers must not rely on
    changes of the tensors, because a worker that writes to a tensor gets its own copy of these pages.

    Args:
        value: Object that can be pickled. Its tensors are copied once.

    Attributes:
        value: The object.

    Raises:
        OSError: This system has no anonymous memory. Only Linux has it.
        Exception: The object cannot be pickled, or is defined in the script, which workers do not import.
    """

    def __init__(self, value: Value) -> None:
        if sys.platform != "linux":
            raise OSError("this system has no anonymous shared memory")
        self.value = value
        self._memory = os.fdopen(os.memfd_create("etude"), "wb")  # closed with this object
        self._pickled = _pickle_without_tensors(value, self._memory)
        if b"__main__" in self._pickled:
            raise pickle.PicklingError("it is defined in the script, which workers do not import")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the object for a process that is just starting, which receives the file descriptor of the memory."""
        from multiprocessing import context, reduction

        starts_process = context.get_spawning_popen() is not None
        return _unpickle_shared, (self._pickled, reduction.DupFd(self._memory.fileno()) if starts_process else None)


def _pickle_without_tensors(value: Any, memory: io.BufferedWriter) -> bytes:
    """Pickle an object, and write its tensors to a file. The pickle contains their positions in this file."""
    import torch

    class TensorPickler(pickle.Pickler):
        def persistent_id(self, item: Any) -> Any:
            kind = type(item)
            if kind not in (torch.Tensor, torch.nn.Parameter) or not item.is_cpu or item.layout != torch.strided:
                return None
            memory.write(bytes(-memory.tell() % ALIGNMENT))
            start, data = memory.tell(), item.detach().contiguous().flatten()
            if data.numel():
                memory.write(data.view(torch.uint8).numpy())
            return start, item.dtype, tuple(item.shape), kind is torch.nn.Parameter

    memory.write(bytes(ALIGNMENT))  # an empty file cannot be mapped
    pickled = io.BytesIO()
    TensorPickler(pickled, pickle.HIGHEST_PROTOCOL).dump(value)
    memory.flush()
    return pickled.getvalue()


def _unpickle_shared(pickled: bytes, descriptor: Any) -> SharedObject[Any]:
    """Return the object in a process that was started with it. The tensors are views of the mapped memory."""
    import torch

    file = descriptor.detach()
    mapped = torch.frombuffer(mmap.mmap(file, os.fstat(file).st_size, access=mmap.ACCESS_COPY), dtype=torch.uint8)
    os.close(file)

    class TensorUnpickler(pickle.Unpickler):
        def persistent_load(self, place: Any) -> Any:
            start, dtype, shape, is_parameter = place
            n_bytes = torch.Size(shape).numel() * dtype.itemsize
            tensor = mapped[start : start + n_bytes].view(dtype).view(shape)
            return torch.nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor

    shared = SharedObject.__new__(SharedObject)
    shared.value = TensorUnpickler(io.BytesIO(pickled)).load()
    return shared


def private_folder(name: str) -> Path | None:
    """Return a private folder of this user in the temporary folder, or None if it cannot be created.

    Its content may be loaded as code (numba's cache). Therefore the folder is not used if it belongs to another user,
    or if other users may write to it.

    Args:
        name: Purpose of the folder, which is part of its name.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    try:
        folder = Path(tempfile.gettempdir()) / f"etude-{name}-{user}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(status.st_mode) or (
        hasattr(os, "getuid") and (status.st_uid != user or status.st_mode & 0o022)
    ):
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def use_utf8() -> None:
    """Restart this command in Python's UTF-8 mode if file names have another encoding.

    In a locale such as C or POSIX, Python decodes non-ASCII file names to code points that libraries for tables and
    audio do not accept. If only the standard streams have another encoding, characters outside of this encoding are
    printed as escape sequences.
    """
    encoding = sys.getfilesystemencoding().lower().replace("-", "")
    if os.name == "posix" and encoding != "utf8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"  # inherited by child processes
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Use one thread for torch. Several threads add numbers in another order, which changes the last digit of a sum."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Suspend the garbage collector, for code that creates many objects of which few are garbage.

    During the import of torch and Lightning, a quarter of the time is spent on searching their objects for garbage.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def exclude_from_garbage_collection() -> None:
    """Exclude all objects of this process from later collections, which would search them again and again.

    This is for commands after their imports, and not for the Python API, whose caller has objects too.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)  # otherwise libraries report leaks as the interpreter ends


def provide_home() -> None:
    """Set HOME to a private folder if the user has no home.

    Such a user has neither HOME nor an entry in the user database. Libraries with caches or keys below `~` would fail,
    or create a folder named `~`.
    """
    try:
        Path.home()
    except RuntimeError:
        if folder := private_folder("home"):
            os.environ["HOME"] = str(folder)


def has_bfloat16() -> bool | None:
    """Return whether this processor has bfloat16 instructions, or None if unknown."""
    try:
        text = PROCESSORS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    lines = [
        line.split(":", 1)[1] for line in text.splitlines() if line.startswith(("flags", "Features")) and ":" in line
    ]
    if not lines:
        return None
    return any(flag in lines[0].split() for flag in ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"))


def _cgroup_quotas() -> Iterator[float]:
    """Yield the numbers of cores allowed by the cgroups of this process and their parents."""
    try:
        lines = OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUPS if not controllers else CGROUPS / controllers
        if controllers and not root.is_dir():
            root = CGROUPS / "cpu"
        folder = root / path.lstrip("/")
        for cgroup in [folder, *folder.parents]:
            if (quota := _quota(cgroup)) is not None:
                yield quota
            if cgroup == root:
                break


def _quota(folder: Path) -> float | None:
    """Return the number of cores allowed by one cgroup, or None if it has no limit."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        if (file := folder / "cpu.max").is_file():  # version 2: "<quota or max> <period>", microseconds
            quota, period = file.read_text(encoding="ascii").split()
            return None if quota == "max" else float(quota) / float(period)
        quota_us = float((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period_us = float((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
        return quota_us / period_us if quota_us > 0 else None
    return None


def _short_socket_folder() -> bool:
    """Select a folder with a short path for the sockets of multiprocessing, and return whether one was found."""
    from multiprocessing import util

    if _fits_socket_path(tempfile.gettempdir()):
        return True
    for folder in (os.environ.get("XDG_RUNTIME_DIR", ""), *SHORT_FOLDERS):
        if folder and _fits_socket_path(folder) and os.access(folder, os.W_OK | os.X_OK):
            before, tempfile.tempdir = tempfile.tempdir, folder
            try:
                # multiprocessing keeps the first folder that it creates, shares it with child processes and removes it
                return _fits_socket_path(str(Path(util.get_temp_dir()).parent))
            except OSError:
                continue
            finally:
                tempfile.tempdir = before
    return False


def _fits_socket_path(folder: str) -> bool:
    return len(os.fsencode(folder)) + SOCKET_NAME_LENGTH <= MAX_SOCKET_PATH


def _error_reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
