"""How the process of a job is made: forked from a server that has its imports behind it, or started anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue

TICK = 0.5  # seconds; on Windows nothing interrupts a longer wait
GONE = -int(getattr(signal, "SIGKILL", 9))


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
                [sys.executable, "-P", "-m", "etude.train", *words],
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
        command = [sys.executable, "-P", "-m", "etude.sweeps.server", str(theirs), str(mine)]
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
