"""Processes of jobs, which are forked from a server process or spawned.

The server receives requests and sends responses as lines of JSON over two pipes, which only the sweep and the server
have. It does not train, uses no GPU and opens no logger, so that all side effects of a job end with the job's process.
If the process of the sweep ends for any reason, its jobs end as well.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.machinery
import importlib.util
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from types import ModuleType
from typing import Any

from etude.config.compose import open_hydra
from etude.reports.html import load_template

ENTRY_MODULE = "etude.cli.train"  # its main function runs a job
POLL_SECONDS = 0.5  # on Windows a longer wait cannot be interrupted
KILLED = -int(getattr(signal, "SIGKILL", 9))
PRELOADED_MODULES = (
    "hydra",
    "matplotlib.pyplot",
    "pandas",
    "plotly.offline",
    "pyarrow.dataset",
    "scipy.stats",
    "sklearn.linear_model",
    "sklearn.manifold",
    "sklearn.pipeline",
    "timm",
    "etude.training.callbacks",
    "etude.reports.worst_errors",
    "etude.training.learner",
    "etude.experiment.provenance",
    "etude.experiment.stages",
    "etude.cli.train",
    "etude.data.datamodule",
    "etude.data.sources.demo",
    "etude.reports.comparison.compare",
    "etude.reports.run_report",
    "etude.tasks.targets",
)


@contextmanager
def fork_safe_imports() -> Iterator[None]:
    """Prevent imports of modules that forked processes must not share.

    timm imports the client of Weights & Biases if it is installed. This import creates a temporary folder for all
    forked processes, and the first process that ends removes it. torchmetrics imports ONNX Runtime, which starts
    threads. A forked process does not have these threads, but waits for them at its end. A job that needs one of these
    modules imports it again.
    """
    runtime: Any = ModuleType("onnxruntime")
    runtime.InferenceSession = object
    runtime.__spec__ = importlib.machinery.ModuleSpec("onnxruntime", None)  # for code that only looks for the module
    replaced = {"wandb": None, "onnxruntime": runtime}  # with None, the import fails as if it were not installed
    replaced = {name: module for name, module in replaced.items() if name not in sys.modules}
    sys.modules.update(replaced)
    try:
        yield
    finally:
        for name in replaced:
            del sys.modules[name]


def preload_modules() -> None:
    """Import the modules of a run, and warm the caches of Hydra and of the templates."""
    with fork_safe_imports():
        for name in PRELOADED_MODULES:
            importlib.import_module(name)
    with open_hydra() as composer:  # finds the plugins, and warms the parsers of overrides and interpolations
        composer.compose([])
    for name in ("report.html.j2", "page.html.j2", "macros.html.j2"):
        load_template(name)
    gc.collect()
    gc.freeze()  # otherwise the garbage collector of a job would modify, and therefore copy, the shared memory


def serve(request_fd: int, response_fd: int) -> dict[str, Any] | None:
    """Fork a process for each request until the pipe of requests is closed.

    Args:
        request_fd: File descriptor of the requests: `job`, `arguments`, `log`, `env`.
        response_fd: File descriptor of the responses: `job` and `pid`, later `job` and `code`.

    Returns:
        In a forked process, its request; in the server, None at the end.
    """
    preload_modules()
    signal.pthread_sigmask(
        signal.SIG_BLOCK, [signal.SIGINT]
    )  # otherwise a job that is being forked could lose the signal
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake_read, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(request_fd, selectors.EVENT_READ)
    selector.register(wake_read, selectors.EVENT_READ)
    jobs: dict[int, int] = {}
    rest = b""

    def respond(**response: int) -> None:
        os.write(response_fd, json.dumps(response).encode() + b"\n")

    while True:
        ready = {key.fd for key, _ in selector.select()}
        if wake_read in ready:
            with suppress(BlockingIOError):
                os.read(wake_read, 4096)
        for pid, job in list(jobs.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del jobs[pid]
                kill_group(pid)  # remaining children, such as a second rank
                respond(job=job, code=os.waitstatus_to_exitcode(status))
        if request_fd in ready:
            read = os.read(request_fd, 1 << 16)
            if not read:
                for pid in jobs:
                    kill_group(pid)
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)  # the process may not have a group yet
                return None
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                request = json.loads(line)
                pid = os.fork()
                if not pid:
                    selector.close()
                    signal.set_wakeup_fd(-1)
                    for pipe in (request_fd, response_fd, wake_read, wake_write):
                        os.close(pipe)
                    return request
                jobs[pid] = request["job"]
                respond(job=request["job"], pid=pid)


def kill_group(pid: int) -> None:
    """Kill all remaining processes of a group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def run_job(request: dict[str, Any]) -> int:
    """Run a job in this forked process, as `python -m etude.cli.train ARGUMENTS` in a new session.

    Returns:
        The exit status.
    """
    entry = importlib.import_module(ENTRY_MODULE)
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    if request["log"]:
        log = os.open(request["log"], os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    os.environ.clear()
    os.environ.update(request["env"])
    # Lightning starts further processes of a job with these values of the first process
    sys.modules["__main__"].__spec__ = importlib.util.find_spec(ENTRY_MODULE)
    sys.argv = [str(entry.__file__), *request["arguments"]]
    return int(entry.main())


class JobProcesses:
    """Processes of running jobs.

    Args:
        fork: Whether processes are forked. Where forking is not safe (macOS, Windows) they are spawned.
        environment: Environment of all jobs.
    """

    def __init__(self, fork: bool, environment: Mapping[str, str]) -> None:
        self.fork, self.environment = fork, dict(environment)
        self.pids: dict[int, int] = {}
        self.start_times: dict[int, float] = {}
        self._ended: Queue[tuple[int, int]] = Queue()
        self._server: subprocess.Popen[bytes] | None = None
        self._request_fd = -1
        self._late_signal = ""  # a signal for processes that the server is about to fork
        if fork:
            self._start_server()

    def start(self, job: int, arguments: list[str], log: Path | None, more: Mapping[str, str]) -> None:
        """Start a job.

        Args:
            job: Number of the job.
            arguments: Command-line arguments after `train.py`.
            log: File of the output. None uses the output of this process.
            more: Environment variables of this job.
        """
        env = self.environment | dict(more)
        if self.fork:
            if self._server is None or self._server.poll() is not None:
                self._start_server()
            request = {"job": job, "arguments": arguments, "log": str(log) if log else None, "env": env}
            self.pids[job] = 0  # the real id is in the response
            os.write(self._request_fd, json.dumps(request).encode() + b"\n")
            return
        with log.open("ab") if log else open(os.devnull, "rb") as file:  # noqa: PTH123  # one of the two is not used
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "etude.cli.train", *arguments],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file if log else None,
                stderr=file if log else None,
                start_new_session=True,
            )
        self._record_start(job, process.pid)
        threading.Thread(target=lambda: self._ended.put((job, process.wait())), daemon=True).start()

    def wait(self) -> tuple[int, int, float]:
        """Wait until a job ends.

        Returns:
            Number of the job, exit status (negative for a signal) and duration in seconds.
        """
        while True:
            with suppress(Empty):
                job, code = self._ended.get(timeout=POLL_SECONDS)
                if job in self.pids:
                    send_signal(self.pids.pop(job), "SIGKILL")  # to remaining children, such as a second rank
                    return job, code, time.monotonic() - self.start_times.get(job, time.monotonic())

    def signal(self, name: str) -> None:
        """Send a signal to all running jobs and their children."""
        self._late_signal = name
        for pid in self.pids.values():
            send_signal(pid, name)

    def close(self) -> None:
        """End the server and all running jobs."""
        if self._server is not None:
            with suppress(OSError):
                os.close(self._request_fd)
            if not self.pids:
                self._server.terminate()  # it may still be importing
            self._server.wait()
            self._server = None
        self.signal("SIGKILL")

    def _record_start(self, job: int, pid: int) -> None:
        self.pids[job], self.start_times[job] = pid, time.monotonic()

    def _start_server(self) -> None:
        """Start the server, and a thread that reads its responses."""
        request_read, self._request_fd = os.pipe()
        response_read, response_write = os.pipe()
        command = [sys.executable, "-P", "-m", "etude.sweeps.processes", str(request_read), str(response_write)]
        self._server = subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            pass_fds=(request_read, response_write),
            start_new_session=True,
        )
        os.close(request_read)
        os.close(response_write)
        threading.Thread(target=self._read_responses, args=(response_read,), daemon=True).start()

    def _read_responses(self, response_fd: int) -> None:
        """Read the responses of a server until it ends. If it ends early, its jobs are reported as killed."""
        running: set[int] = set()
        with os.fdopen(response_fd, "rb") as lines:
            for line in lines:
                response = json.loads(line)
                if "pid" in response:
                    running.add(response["job"])
                    self._record_start(response["job"], response["pid"])
                    if self._late_signal:
                        send_signal(response["pid"], self._late_signal)
                else:
                    running.discard(response["job"])
                    self._ended.put((response["job"], response["code"]))
        for job in [*running, *(job for job, pid in self.pids.items() if not pid)]:
            self._ended.put((job, KILLED))


def send_signal(pid: int, name: str) -> None:
    """Send a signal to the group of a process, or to the process if it has no group (yet)."""
    number = getattr(signal, name, signal.SIGTERM)
    with suppress(ProcessLookupError, PermissionError):
        if not pid:
            return
        if hasattr(os, "killpg"):
            try:
                os.killpg(pid, number)
            except ProcessLookupError:
                if name != "SIGKILL":
                    os.kill(pid, number)
        else:
            os.kill(pid, number)


if __name__ == "__main__":
    request = serve(int(sys.argv[1]), int(sys.argv[2]))
    if request:
        try:
            status = run_job(request)
        except KeyboardInterrupt:  # the signal came before the command installed its handlers
            status = 130
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.current_thread():
                thread.join()
        atexit._run_exitfuncs()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # the kernel frees the memory much faster than the interpreter
