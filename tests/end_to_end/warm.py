"""`python train.py ...` without the wait for its imports: forked from a process that did nothing but import.

What must not be shared by processes is not among them; see `etude.sweeps.processes.fork_safe_imports`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = (
    "hydra, matplotlib.pyplot, pandas, pytorch_lightning, sklearn.linear_model, etude.training.learner, etude.cli.train"
)
NEST = f"""
import json, os, runpy, signal, sys

from etude.sweeps.processes import fork_safe_imports

with fork_safe_imports():
    import {MODULES}

assert not {{"wandb", "onnxruntime"}} & set(sys.modules)
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.setsid()  # a group of its own, as a shell gives it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.alarm(300)
    for number, path in enumerate([os.devnull, asked["out"], asked["err"]]):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), number)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = [asked["script"], *asked["words"]]
    more = asked["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [os.path.dirname(asked["script"]), *filter(None, more)]
    runpy.run_path(asked["script"], run_name="__main__")
    sys.exit()
"""


class Nest:
    """Starts commands one after the other, each in a process of its own.

    Args:
        environment: That of the process that imports.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NEST],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, folder: Path, environment: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
        """Run `python train.py WORDS` in a folder, to its end.

        Args:
            folder: Where it runs.
            environment: All of its environment.
            words: What follows `train.py`.

        Returns:
            Exit status (that of a signal is negative) and what was printed, as of `subprocess.run`.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        with tempfile.TemporaryDirectory() as home:
            out, err = Path(home, "out"), Path(home, "err")
            asked = {"script": str(ROOT / "train.py"), "words": words, "cwd": str(folder), "env": dict(environment)}
            self.process.stdin.write(json.dumps(asked | {"out": str(out), "err": str(err)}) + "\n")
            self.process.stdin.flush()
            status = int(self.process.stdout.readline())
            return subprocess.CompletedProcess(words, status, out.read_text(), err.read_text())

    def end(self) -> None:
        """Close it."""
        self.process.communicate()
