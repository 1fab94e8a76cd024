"""Fork server that runs train.py in child processes of a process with the imports already loaded.

The server imports the modules that the server of a sweep imports (see `etude.sweeps.processes.preload_modules`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVER = """
import atexit, json, os, runpy, signal, sys, threading, traceback

from etude.sweeps.processes import preload_modules

preload_modules()
assert not {"wandb", "onnxruntime"} & set(sys.modules)
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.setsid()  # a separate process group, as in a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.alarm(request["limit"])
    for number, path in enumerate([os.devnull, request["out"], request["err"]]):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), number)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = [request["script"], *request["arguments"]]
    python_path = request["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [os.path.dirname(request["script"]), *filter(None, python_path)]
    try:
        runpy.run_path(request["script"], run_name="__main__")
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if stop.code is not None and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    # like the interpreter at its end, but without the deletion of all objects, which takes longer than a short command
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)
"""


class ForkServer:
    """Process that runs commands one after the other, each in a child process.

    Args:
        environment: Environment variables of the server.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, folder: Path, environment: Mapping[str, str], *arguments: str, limit: int = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run `python train.py <arguments>` in a folder and wait for its end.

        Args:
            folder: Working folder of the process.
            environment: All environment variables of the process.
            *arguments: Command-line arguments after `train.py`.
            limit: Longest duration in seconds. The process is then ended.

        Returns:
            Exit status (negative after a signal) and output, as from `subprocess.run`.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        with tempfile.TemporaryDirectory() as home:
            out, err = Path(home, "out"), Path(home, "err")
            request = {"script": str(ROOT / "train.py"), "arguments": arguments, "cwd": str(folder)}
            request |= {"env": dict(environment), "out": str(out), "err": str(err), "limit": limit}
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            status = int(self.process.stdout.readline())
            return subprocess.CompletedProcess(arguments, status, out.read_text(), err.read_text())

    def close(self) -> None:
        """End the server."""
        self.process.communicate()
