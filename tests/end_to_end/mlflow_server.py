"""MLflow server for tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path


class MLflowServer:
    """Local `mlflow server` with SQLite, in a separate process group.

    Args:
        folder: Folder of the database, the artifacts and the log.

    Attributes:
        uri: Address of the server.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}"
        arguments = ["server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--default-artifact-root"]
        arguments += [f"file://{folder}/artifacts", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        self.log = (folder / "server.log").open("w")
        environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
        environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # without the additional server of jobs
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *arguments],
            stdout=self.log, stderr=self.log, env=environment, start_new_session=True, cwd=folder,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as response:
                    if response.status == 200:
                        return
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        self.close()
        raise AssertionError((folder / "server.log").read_text())

    def close(self) -> None:
        """End the server and its child processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
