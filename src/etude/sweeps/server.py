"""A process that has imported everything and does nothing but fork: a job costs its own work, not its imports.

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
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

ENTRY = "etude.train"  # the module whose main runs a job
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
    "etude.callbacks",
    "etude.keep",
    "etude.learner",
    "etude.record",
    "etude.experiment",
    "etude.train",
    "etude.data.module",
    "etude.data.sources.demo",
    "etude.results.compare",
    "etude.results.report",
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
    from hydra.types import RunMode

    from etude.compose.opened import opened
    from etude.results.template import template

    with opened() as hydra:  # finds the plug-ins, and warms what reads overrides and interpolations
        hydra.compose_config("train", [], RunMode.RUN)
    for name in ("report.html.j2", "page.html.j2", "macros.html.j2"):
        template(name)
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
    """Be the job: `python -m etude.train WORDS` in a session of its own."""
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
