"""Map of one function over many jobs, in worker processes or over a Ray cluster.

Whatever runs them, results come in the order of the jobs and only a few are under way at a time, so that memory does
not grow with the collection and the result does not depend on how it was made.
"""

from __future__ import annotations

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
from itertools import islice
from multiprocessing import context, spawn
from typing import TYPE_CHECKING, Any, TypeVar

from etude.errors import UserError
from etude.system import signals
from etude.system.machine import usable_cores, why_one_process

if TYPE_CHECKING:
    from concurrent.futures import Executor


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


log = logging.getLogger(__name__)
Job = TypeVar("Job")
Result = TypeVar("Result")
SHARD = 8  # jobs that travel together: enough to hide the way there and back
AHEAD = 3  # shards of each worker that are under way or wait to be taken


def run(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int | None = None,
    ray: str | None = None,
    shard: int = SHARD,
    meanwhile: bool = False,
) -> Iterator[Result]:
    """Results of all jobs, in order.

    Args:
        function: A function of a module.
        jobs: What it is called with.
        workers: Processes; none means one per usable core, or with Ray as many as the cluster has.
        ray: Address of a Ray cluster, `local` to start one here; none uses processes of this machine.
        shard: Jobs that travel together; fewer where a result is large.
        meanwhile: Whether this process does jobs itself until the first of the others is there.

    Raises:
        UserError: A worker died, or Ray is asked for and not there.
    """
    if ray is not None:
        return _ray(function, jobs, workers, ray, shard)
    count = _count(len(jobs), workers)
    return _processes(function, jobs, count, shard, meanwhile) if count > 1 else _alone(function, jobs)


def ready(jobs: int, workers: int | None = None) -> None:
    """Begin with what `run` will need for so many jobs, while the caller still has something else to do."""
    if _count(jobs, workers) > 1:
        _context()


def _count(jobs: int, workers: int | None) -> int:
    """Return the number of processes for so many jobs: none with less than a shard, one where no more can start."""
    count = min(workers or usable_cores(), -(-jobs // SHARD))
    if count > 1 and (reason := why_one_process()):
        _say_once(f"one process does all the work: {reason}")
        return 1
    return count


@lru_cache
def _say_once(message: str) -> None:
    log.warning("%s", message)


def _alone(function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
    """In this process, with one thread: more add up in another order, and the last digit of a frame differs.

    Whoever takes the results has all threads between them.
    """
    import torch
    from threadpoolctl import ThreadpoolController

    pools = ThreadpoolController()
    for job in jobs:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with pools.limit(limits=1):
                result = function(job)
        finally:
            torch.set_num_threads(before)
        yield result


def _processes(
    function: Callable[[Job], Result], jobs: Sequence[Job], count: int, shard: int, meanwhile: bool
) -> Iterator[Result]:
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    if refers_to_main(function, jobs[0]):
        log.info("one process: what it calls is defined in the script itself, which workers do not import")
        yield from _alone(function, jobs)
        return
    pool = ProcessPoolExecutor(count, mp_context=_context(), initializer=_quiet)
    rest = iter(jobs)
    try:
        if meanwhile:
            start = threading.Thread(target=_started, args=(pool,), daemon=True)
            start.start()
            yield from _alone(function, _while(start.is_alive, rest))
        yield from _window(
            lambda some: pool.submit(_shard, function, some), lambda job: job.result(), rest, count, shard
        )
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, perhaps for want of memory; start again with fewer (workers=1) and it goes on"
        ) from error
    except KeyboardInterrupt:
        signals.kill_children()  # or the pool waits for what they are doing
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _started(pool: Executor) -> None:
    """Wait for the first worker; whoever sends a job waits too."""
    with suppress(Exception):  # a pool that is broken or ended says so to the next who asks
        pool.submit(os.getpid).result()


def _while(going: Callable[[], bool], jobs: Iterator[Job]) -> Iterator[Job]:
    """Jobs, for as long as something goes on; the others stay where they are."""
    while going() and (one := list(islice(jobs, 1))):
        yield from one


def _context() -> Any:
    """How workers begin: not forked from this process, because a fork of one that holds threads or a GPU can hang.

    On Linux they are forked from one that has nothing but their imports, and begins with them here; elsewhere each
    begins anew.
    """
    if sys.platform != "linux":
        return SpawnContext()
    from multiprocessing import forkserver

    context = ForkServerContext()
    context.set_forkserver_preload(["etude.data.preload"])
    forkserver.ensure_running()
    return context


def _ray(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int | None, address: str, shard: int
) -> Iterator[Result]:
    try:
        import ray
    except ImportError as error:
        raise UserError("ray: is not installed; get it with pip install 'etude[ray]'") from error

    begun = not ray.is_initialized()
    if begun:
        where: dict[str, Any] = {"num_cpus": workers} if address == "local" else {"address": address}
        ray.init(**where, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        count = workers or int(ray.cluster_resources().get("CPU", 1))
        task: Any = ray.remote(num_cpus=1, max_retries=3)(_shard_alone)
        yield from _window(lambda some: task.remote(function, some), _got, jobs, count, shard)
    finally:
        if begun:
            ray.shutdown()


def _got(result: Any) -> Any:
    """A result of Ray, or what its job raised, without Ray's own words around it."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(result)
    except RayTaskError as error:
        raise error.cause from None


def _window(
    submit: Callable[[list[Job]], Any], take: Callable[[Any], list[Result]], jobs: Iterable[Job], count: int, size: int
) -> Iterator[Result]:
    """Submit shards, a few ahead, and take their results in order."""
    rest, under_way = iter(jobs), deque[Any]()
    while True:
        while len(under_way) < AHEAD * count and (shard := list(islice(rest, size))):
            under_way.append(submit(shard))
        if not under_way:
            return
        yield from take(under_way.popleft())


def _shard(function: Callable[[Job], Result], jobs: list[Job]) -> list[Result]:
    return [function(job) for job in jobs]


def _shard_alone(function: Callable[[Job], Result], jobs: list[Job]) -> list[Result]:
    """A shard in a process that somebody else started."""
    _one_thread()
    return _shard(function, jobs)


def _quiet() -> None:
    """A worker of ours: Ctrl-C is the first process's to answer, and C libraries say nothing into its progress bar."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    _one_thread()


def _end_with_parent() -> None:
    """A pool's workers outlive a parent that is killed."""
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    if parent := parent_process():
        wait([parent.sentinel])
        os._exit(1)


def _one_thread() -> None:
    """A process per core needs no threads."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)
