"""Parallel map of a function over jobs, in worker processes or on a Ray cluster.

Results come in the order of the jobs, and only a few jobs are in progress at a time. So memory does not grow with the
collection, and the result does not depend on the backend.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import import_module
from itertools import islice
from multiprocessing import context, current_process, spawn
from typing import TYPE_CHECKING, Any, TypeVar

from etude.errors import UserError
from etude.system import signals
from etude.system.machine import one_torch_thread, usable_cores, why_one_process

if TYPE_CHECKING:
    from concurrent.futures import Executor


_LOCK = threading.Lock()
MAIN = ("init_main_from_path", "init_main_from_name")
# Importing torch takes more than a second of CPU time. The fork server imports these modules once for all workers.
PRELOADED_MODULES = (
    "soundfile",
    "soxr",
    "threadpoolctl",
    "torch",
    "etude.audio.log_mel",
    "etude.data.audio_files",
    "etude.data.batches",
)


@contextmanager
def _without_main() -> Iterator[None]:
    """Start processes without importing the `__main__` module of this process."""
    with _LOCK:
        original = spawn.get_preparation_data

        def without_main(name: str) -> dict[str, Any]:
            return {key: value for key, value in original(name).items() if key not in MAIN}

        spawn.get_preparation_data = without_main
        try:
            yield
        finally:
            spawn.get_preparation_data = original


class SpawnProcess(context.SpawnProcess):
    """Spawned process that does not import `__main__`."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  # name of the base class
        with _without_main():
            return context.SpawnProcess._Popen(process_obj)  # type: ignore[attr-defined]


class SpawnContext(context.SpawnContext):
    """Context whose processes do not import the script that started them.

    By default each worker imports that script. A script that calls `etude.run` without a main guard would be run again
    in each worker.
    """

    Process = SpawnProcess  # type: ignore[assignment]


if sys.platform != "win32":

    class ForkServerProcess(context.ForkServerProcess):
        """Process forked from a server that does not import `__main__`."""

        @staticmethod
        def _Popen(process_obj: Any) -> Any:  # noqa: N802  # name of the base class
            with _without_main():
                return context.ForkServerProcess._Popen(process_obj)  # type: ignore[attr-defined]

    class ForkServerContext(context.ForkServerContext):
        """Context like SpawnContext, with processes forked from a server."""

        Process = ForkServerProcess  # type: ignore[assignment]


def refers_to_main(*values: Any) -> bool:
    """Return whether a worker requires the module `__main__` to unpickle the values."""
    try:
        return b"__main__" in pickle.dumps(values)
    except Exception:  # values that cannot be pickled are reported when they are submitted
        return False


log = logging.getLogger(__name__)
Job = TypeVar("Job")
Result = TypeVar("Result")
SHARD = 8  # jobs in one submission: enough to hide the cost of communication
AHEAD = 3  # shards of each worker that are in progress or waiting
_FUNCTION: list[Callable[[Any], Any]] = []  # function that this worker process calls


def map_jobs(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int | None = None,
    ray: str | None = None,
    shard: int = SHARD,
    meanwhile: bool = False,
) -> Iterator[Result]:
    """Yield the results of all jobs in order.

    Args:
        function: A module-level function.
        jobs: Arguments, one for each call.
        workers: Number of processes. None means one per usable core, or with Ray one per core of the cluster.
        ray: Address of a Ray cluster, or `local` to start one. None uses processes of this machine.
        shard: Jobs in one submission; use fewer if results are large.
        meanwhile: Whether this process runs jobs until the first worker has started.

    Raises:
        UserError: A worker died, or Ray is not installed.
    """
    if ray is not None:
        return _run_on_ray(function, jobs, workers, ray, shard)
    count = count_workers(len(jobs), workers)
    return run_in_processes(function, jobs, count, shard, meanwhile) if count > 1 else _run_serially(function, jobs)


def prepare_workers(jobs: int, workers: int | None = None) -> None:
    """Start the server from which `map_jobs` will fork its workers, so that it is ready in time."""
    if count_workers(jobs, workers) > 1:
        _start_context()


def count_workers(jobs: int, workers: int | None) -> int:
    """Return the number of processes for a number of jobs, at most one for each shard."""
    count = min(workers or usable_cores(), -(-jobs // SHARD))
    if count > 1 and (reason := why_one_process()):
        _warn_once(f"using one process: {reason}")
        return 1
    return count


@lru_cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def _run_serially(function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
    """Run jobs in this process with one thread. Between jobs the number of threads is restored for the caller."""
    import torch  # noqa: F401  # so that its thread pools are limited too
    from threadpoolctl import ThreadpoolController

    pools = ThreadpoolController()
    for job in jobs:
        with pools.limit(limits=1), one_torch_thread():
            result = function(job)
        yield result


def run_in_processes(
    function: Callable[[Job], Result], jobs: Sequence[Job], count: int, shard: int, meanwhile: bool
) -> Iterator[Result]:
    """Yield the results of all jobs in order from a number of processes. For the other arguments see `map_jobs`.

    Each worker receives the function once, when it starts. The function may therefore contain a `SharedObject`.
    """
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    if refers_to_main(function, jobs[0]):
        log.info("using one process: the function is defined in the script, which workers do not import")
        yield from _run_serially(function, jobs)
        return
    pool = ProcessPoolExecutor(count, mp_context=_start_context(), initializer=_initialize_worker, initargs=(function,))
    remaining = iter(jobs)
    try:
        if meanwhile:
            start = threading.Thread(target=_wait_for_worker, args=(pool,), daemon=True)
            start.start()
            yield from _run_serially(function, _take_while(start.is_alive, remaining))
        yield from _submit_ahead(
            lambda jobs: pool.submit(_run_shard, None, jobs), lambda job: job.result(), remaining, count, shard
        )
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, perhaps because memory ran out; to resume, repeat etude prepare, explore, "
            "embed or predict with --workers 1"
        ) from error
    except KeyboardInterrupt:
        signals.kill_children()  # otherwise the pool waits for their current jobs
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _wait_for_worker(pool: Executor) -> None:
    """Wait until the first worker has started."""
    with suppress(Exception):  # the next submission raises the error of a broken pool
        pool.submit(os.getpid).result()


def _take_while(condition: Callable[[], bool], jobs: Iterator[Job]) -> Iterator[Job]:
    """Yield jobs while a condition holds, and leave the others in the iterator."""
    while condition() and (taken := list(islice(jobs, 1))):
        yield from taken


def _start_context() -> Any:
    """Return the multiprocessing context of workers.

    Workers are not forked from this process, because the fork of a process with threads or a GPU can hang. On Linux
    this function starts a server process that contains only the imports of the workers. The workers are forked from it.
    On other systems they are spawned.
    """
    if sys.platform != "linux":
        return SpawnContext()
    from multiprocessing import forkserver

    context = ForkServerContext()
    context.set_forkserver_preload([__name__])
    forkserver.ensure_running()
    return context


def _run_on_ray(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int | None, address: str, shard: int
) -> Iterator[Result]:
    try:
        import ray
    except ImportError as error:
        raise UserError("ray: is not installed; install it with pip install 'etude[ray]'") from error

    started = not ray.is_initialized()
    if started:
        address_options: dict[str, Any] = {"num_cpus": workers} if address == "local" else {"address": address}
        ray.init(**address_options, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        count = workers or int(ray.cluster_resources().get("CPU", 1))
        task: Any = ray.remote(num_cpus=1, max_retries=3)(_run_shard_on_ray)
        yield from _submit_ahead(lambda jobs: task.remote(function, jobs), _get_ray_result, jobs, count, shard)
    finally:
        if started:
            ray.shutdown()


def _get_ray_result(result: Any) -> Any:
    """Return a result of Ray, or raise the original exception of its job."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(result)
    except RayTaskError as error:
        raise error.cause from None


def _submit_ahead(
    submit: Callable[[list[Job]], Any], take: Callable[[Any], list[Result]], jobs: Iterable[Job], count: int, size: int
) -> Iterator[Result]:
    """Submit shards, a few ahead, and yield their results in order."""
    remaining, submitted = iter(jobs), deque[Any]()
    while True:
        while len(submitted) < AHEAD * count and (shard := list(islice(remaining, size))):
            submitted.append(submit(shard))
        if not submitted:
            return
        yield from take(submitted.popleft())


def _run_shard(function: Callable[[Any], Any] | None, jobs: list[Any]) -> list[Any]:
    """Run a shard. None stands for the function that this worker process received when it started."""
    return [(function or _FUNCTION[0])(job) for job in jobs]


def _run_shard_on_ray(function: Callable[[Job], Result], jobs: list[Job]) -> list[Result]:
    """Run a shard in a process that Ray started."""
    _use_one_thread()
    return _run_shard(function, jobs)


def _initialize_worker(function: Callable[[Any], Any]) -> None:
    """Initialise a worker process, which will call one function.

    The worker ignores Ctrl-C, because the main process handles it. Messages of C libraries are discarded, because they
    would break the progress bar.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    _use_one_thread()
    _FUNCTION.append(function)


def _exit_with_parent() -> None:
    """Exit when the parent process ends, because workers of a pool outlive a killed parent."""
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    if parent := parent_process():
        wait([parent.sentinel])
        os._exit(1)


def _use_one_thread() -> None:
    """Limit this process to one thread, because there is a process for each core."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


def _is_fork_server() -> bool:
    """Return whether this process is a fork server, and not a process that was forked from it."""
    server = sys.modules.get("multiprocessing.forkserver")  # the server is the program `main(...)` of this module
    main = getattr(sys.modules["__main__"], "main", None)
    return server is not None and main is getattr(server, "main", ...) and current_process().name == "MainProcess"


def _preload_modules() -> None:
    """Import the modules of the workers in the fork server."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C
    for name in PRELOADED_MODULES:
        import_module(name)
    gc.collect()
    gc.freeze()  # a garbage collection in a worker would copy the pages of the imported modules


if _is_fork_server():
    _preload_modules()
