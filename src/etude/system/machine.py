"""Resources of the machine: cores, folders and bfloat16."""

from __future__ import annotations

import io
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
PROCESSORS = Path("/proc/cpuinfo")
SOCKET_PATH = 103  # bytes that the path of a Unix socket may have on every system (Linux takes 107)
SOCKET_NAME = len("/pymp-12345678/listener-12345678")  # what multiprocessing appends to the temporary folder
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # tempfile makes a private folder in it


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    `os.cpu_count` counts the cores of the machine. A job of a cluster or a container often has fewer: by its affinity
    (`taskset`, Slurm) or by the quota of a cgroup (Docker, Kubernetes, systemd).
    """
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        with suppress(OSError):
            count = min(count, len(os.sched_getaffinity(0)))
    return max(1, min([count, *(int(quota) for quota in _cgroup_quotas())]))


def why_one_process() -> str | None:
    """Return the reason why no worker processes can be started here, or None if they can.

    Workers need semaphores, which are files in /dev/shm, and Unix sockets, whose paths are limited in length.
    """
    import multiprocessing

    try:
        multiprocessing.Lock()
    except (OSError, ImportError) as error:
        return f"this machine grants no semaphores ({_reason(error)}; on Linux they need a writable /dev/shm)"
    if not _short_socket_folder():
        return f"the path of the temporary folder is too long for sockets ({tempfile.gettempdir()}); set TMPDIR"
    return None


def private_folder(name: str) -> Path | None:
    """Return a folder of this user in the temporary folder, or None if there can be none.

    Its content may be loaded as code (numba's cache), so a folder of another user, or one that others may write to, is
    not taken.

    Args:
        name: What it is for.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    try:
        folder = Path(tempfile.gettempdir()) / f"etude-{name}-{user}"
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        about = folder.lstat()
    except OSError:
        return None
    if not stat.S_ISDIR(about.st_mode) or (hasattr(os, "getuid") and (about.st_uid != user or about.st_mode & 0o022)):
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def use_utf8() -> None:
    """Start this command again in Python's UTF-8 mode where names of files would be decoded as something else.

    In a locale such as C or POSIX, names with letters beyond ASCII get code points that no library for tables or sounds
    takes. Where the streams alone have another encoding, what they cannot print is printed as an escape sequence.
    """
    encoding = sys.getfilesystemencoding().lower().replace("-", "")
    if os.name == "posix" and encoding != "utf8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"  # also of the processes that this one starts
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="backslashreplace")


def provide_home() -> None:
    """Set HOME to a private folder where the user has none: no HOME and no entry in the list of users.

    Libraries that look for their caches and keys below `~` fail there, or create a folder of that name.
    """
    try:
        Path.home()
    except RuntimeError:
        if folder := private_folder("home"):
            os.environ["HOME"] = str(folder)


def has_bfloat16() -> bool | None:
    """Return whether this processor has instructions for bfloat16; None if the system does not say."""
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
    """Yield the cores that the cgroups of this process, and those above them, grant."""
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
        for place in [folder, *folder.parents]:
            if (quota := _quota(place)) is not None:
                yield quota
            if place == root:
                break


def _quota(folder: Path) -> float | None:
    """Return the cores that one cgroup grants, or None if it has no limit."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        if (file := folder / "cpu.max").is_file():  # version 2: "<quota or max> <period>", microseconds
            quota, period = file.read_text(encoding="ascii").split()
            return None if quota == "max" else float(quota) / float(period)
        quota_us = float((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period_us = float((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
        return quota_us / period_us if quota_us > 0 else None
    return None


def _short_socket_folder() -> bool:
    """Have multiprocessing put its sockets where their paths are short enough; return whether that is possible."""
    from multiprocessing import util

    if _fits(tempfile.gettempdir()):
        return True
    for folder in (os.environ.get("XDG_RUNTIME_DIR", ""), *SHORT_FOLDERS):
        if folder and _fits(folder) and os.access(folder, os.W_OK | os.X_OK):
            before, tempfile.tempdir = tempfile.tempdir, folder
            try:
                # it keeps the folder that it makes first, hands it to the processes that it starts, and removes it
                return _fits(str(Path(util.get_temp_dir()).parent))
            except OSError:
                continue
            finally:
                tempfile.tempdir = before
    return False


def _fits(folder: str) -> bool:
    return len(os.fsencode(folder)) + SOCKET_NAME <= SOCKET_PATH


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
