"""Processes of jobs, forked from a server or started anew.

It is asked in lines of JSON and answers in such lines, over two pipes that only the sweep and it have. It never trains,
uses no GPU and opens no logger, so that whatever a job does to its process is gone with that process. When the sweep is
gone, however it ended, so are its jobs.
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

ENTRY = "etude.cli.train"  # the module whose main runs a job
TICK = 0.5  # seconds; on Windows nothing interrupts a longer wait
GONE = -int(getattr(signal, "SIGKILL", 9))
MODULES = (
    "hydra",
    "matplotlib.pyplot",
    "pandas",
    "plotly.offline",
    "pyarrow.dataset",
    "pytorch_lightning",
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
def forkable() -> Iterator[None]:
    """Imports without those that must not be shared by the processes that are forked later.

    timm imports the client of Weights & Biases where it is installed: on its import it makes a folder for its files,
    which the first process to end takes away from all others. torchmetrics imports ONNX Runtime: that begins threads,
    which no fork has, and waits for them at the end. Whoever wants one of them later imports it anew.
    """
    runtime: Any = ModuleType("onnxruntime")
    runtime.InferenceSession = object
    runtime.__spec__ = importlib.machinery.ModuleSpec("onnxruntime", None)  # who only asks whether it is there
    absent = {"wandb": None, "onnxruntime": runtime}  # an import of the first fails, as if it were not there
    absent = {name: module for name, module in absent.items() if name not in sys.modules}
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def preload() -> None:
    """Import what a run needs."""
    with forkable():
        for name in MODULES:
            importlib.import_module(name)
    with open_hydra() as composer:  # finds the plug-ins, and warms what reads overrides and interpolations
        composer.compose([])
    for name in ("report.html.j2", "page.html.j2", "macros.html.j2"):
        load_template(name)
    gc.collect()
    gc.freeze()  # what is there stays, and a job that looks through it would copy all of its memory


def serve(asked: int, answers: int) -> dict[str, Any] | None:
    """Fork a process for each request until there are no more.

    Args:
        asked: File descriptor that requests come from: `job`, `words`, `log`, `env`.
        answers: And that answers go to: `job` and `pid`, later `job` and `code`.

    Returns:
        In a forked process, its request; none in this one, at the end.
    """
    preload()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # one for a job that is just being made is not lost
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(awake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(asked, selectors.EVENT_READ)
    selector.register(awake, selectors.EVENT_READ)
    jobs: dict[int, int] = {}
    rest = b""

    def say(**answer: int) -> None:
        os.write(answers, json.dumps(answer).encode() + b"\n")

    while True:
        ready = {key.fd for key, _ in selector.select()}
        if awake in ready:
            with suppress(BlockingIOError):
                os.read(awake, 4096)
        for pid, job in list(jobs.items()):
            gone, status = os.waitpid(pid, os.WNOHANG)
            if gone:
                del jobs[pid]
                end(pid)  # what it left behind, such as a second rank
                say(job=job, code=os.waitstatus_to_exitcode(status))
        if asked in ready:
            read = os.read(asked, 1 << 16)
            if not read:
                for pid in jobs:
                    end(pid)
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)  # it may not have a group yet
                return None
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                request = json.loads(line)
                pid = os.fork()
                if not pid:
                    selector.close()
                    signal.set_wakeup_fd(-1)
                    for pipe in (asked, answers, awake, wake):
                        os.close(pipe)
                    return request
                jobs[pid] = request["job"]
                say(job=request["job"], pid=pid)


def end(pid: int) -> None:
    """Kill the group of a process, whoever of it is still there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def become(request: dict[str, Any]) -> int:
    """Be the job: `python -m etude.cli.train WORDS` in a session of its own."""
    entry = importlib.import_module(ENTRY)
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
    # Lightning starts the further processes of a job by what these say of the first
    sys.modules["__main__"].__spec__ = importlib.util.find_spec(ENTRY)
    sys.argv = [str(entry.__file__), *request["words"]]
    return int(entry.main())


class Starter:
    """Starts jobs and tells of their ends.

    Args:
        fork: Whether processes are forked; where it is not safe (macOS, Windows) they are started anew.
        environment: Of all jobs.
    """

    def __init__(self, fork: bool, environment: Mapping[str, str]) -> None:
        self.fork, self.environment = fork, dict(environment)
        self.pids: dict[int, int] = {}
        self.begun: dict[int, float] = {}
        self._ends: Queue[tuple[int, int]] = Queue()
        self._server: subprocess.Popen[bytes] | None = None
        self._ask = -1
        self._late = ""  # a signal for those that the server is about to make
        if fork:
            self._serve()

    def start(self, job: int, words: list[str], log: Path | None, more: Mapping[str, str]) -> None:
        """Start a job.

        Args:
            job: Its number.
            words: Its command line after `train.py`.
            log: Where its output goes; none: where that of this process goes.
            more: Its own environment beside that of all.
        """
        env = self.environment | dict(more)
        if self.fork:
            if self._server is None or self._server.poll() is not None:
                self._serve()
            request = {"job": job, "words": words, "log": str(log) if log else None, "env": env}
            self.pids[job] = 0  # it is told with the answer
            os.write(self._ask, json.dumps(request).encode() + b"\n")
            return
        with log.open("ab") if log else open(os.devnull, "rb") as file:  # noqa: PTH123  # one of the two is not used
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "etude.cli.train", *words],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file if log else None,
                stderr=file if log else None,
                start_new_session=True,
            )
        self._made(job, process.pid)
        threading.Thread(target=lambda: self._ends.put((job, process.wait())), daemon=True).start()

    def wait(self) -> tuple[int, int, float]:
        """Wait until a job ends: its number, exit status (that of a signal is negative) and how long it took (s)."""
        while True:
            with suppress(Empty):
                job, code = self._ends.get(timeout=TICK)
                if job in self.pids:
                    signalled(self.pids.pop(job), "SIGKILL")  # what it left behind, such as a second rank
                    return job, code, time.monotonic() - self.begun.get(job, time.monotonic())

    def signal(self, name: str) -> None:
        """Send a signal to all that run, and to what they started."""
        self._late = name
        for pid in self.pids.values():
            signalled(pid, name)

    def close(self) -> None:
        """Let the server go; it takes what still runs along."""
        if self._server is not None:
            with suppress(OSError):
                os.close(self._ask)
            if not self.pids:
                self._server.terminate()  # it may still be importing
            self._server.wait()
            self._server = None
        self.signal("SIGKILL")

    def _made(self, job: int, pid: int) -> None:
        self.pids[job], self.begun[job] = pid, time.monotonic()

    def _serve(self) -> None:
        theirs, self._ask = os.pipe()
        answers, mine = os.pipe()
        command = [sys.executable, "-P", "-m", "etude.sweeps.processes", str(theirs), str(mine)]
        self._server = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.DEVNULL, pass_fds=(theirs, mine), start_new_session=True
        )
        os.close(theirs)
        os.close(mine)
        threading.Thread(target=self._listen, args=(answers,), daemon=True).start()

    def _listen(self, answers: int) -> None:
        """Hear the server out; when it is gone before its time, so are its jobs."""
        mine: set[int] = set()
        with os.fdopen(answers, "rb") as lines:
            for line in lines:
                answer = json.loads(line)
                if "pid" in answer:
                    mine.add(answer["job"])
                    self._made(answer["job"], answer["pid"])
                    if self._late:
                        signalled(answer["pid"], self._late)
                else:
                    mine.discard(answer["job"])
                    self._ends.put((answer["job"], answer["code"]))
        for job in [*mine, *(job for job, pid in self.pids.items() if not pid)]:
            self._ends.put((job, GONE))


def signalled(pid: int, name: str) -> None:
    """Send a signal to the group of a process, or to the process where it has none (yet)."""
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
    mine = serve(int(sys.argv[1]), int(sys.argv[2]))
    if mine:
        try:
            status = become(mine)
        except KeyboardInterrupt:  # it came before the command had its handlers
            status = 130
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.current_thread():
                thread.join()
        atexit._run_exitfuncs()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # all else is the kernel's to clear away, which it does in no time
