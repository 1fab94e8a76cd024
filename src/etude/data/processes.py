"""Worker processes that do not import the script which started them."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import context, spawn
from typing import Any

_LOCK = threading.Lock()
MAIN = ("init_main_from_path", "init_main_from_name")


@contextmanager
def _without_main() -> Iterator[None]:
    """Prepare a process without the module `__main__` of this one."""
    with _LOCK:
        kept = spawn.get_preparation_data

        def prepared(name: str) -> dict[str, Any]:
            return {key: value for key, value in kept(name).items() if key not in MAIN}

        spawn.get_preparation_data = prepared
        try:
            yield
        finally:
            spawn.get_preparation_data = kept


class SpawnProcess(context.SpawnProcess):
    """Process that begins anew."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with _without_main():
            return context.SpawnProcess._Popen(process_obj)  # type: ignore[attr-defined]


class SpawnContext(context.SpawnContext):
    """Context whose processes do not import the script that started them.

    By default each worker imports that script, and one that calls `etude.run` without a main guard would run once more
    in each of them.
    """

    Process = SpawnProcess  # type: ignore[assignment]


if sys.platform != "win32":

    class ForkServerProcess(context.ForkServerProcess):
        """Process that is forked from a server."""

        @staticmethod
        def _Popen(process_obj: Any) -> Any:
            with _without_main():
                return context.ForkServerProcess._Popen(process_obj)  # type: ignore[attr-defined]

    class ForkServerContext(context.ForkServerContext):
        """As SpawnContext, with processes that are forked from a server."""

        Process = ForkServerProcess  # type: ignore[assignment]


def refers_to_main(*values: Any) -> bool:
    """Return whether a worker needs the module `__main__` to read some values."""
    try:
        return b"__main__" in pickle.dumps(values)
    except Exception:  # what cannot be pickled is reported where it is sent
        return False
