"""Workers for tuning: processes on this machine, or a Dask cluster."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import multiprocessing
import os
import signal
from typing import TYPE_CHECKING, Any, Final

from vramtap.errors import NotFound, VramtapError
from vramtap.trace.tune import Job, Member, Workers, work

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONNECT_S: Final = 10.0
"""Longest time for the scheduler to answer, and for a worker to appear, seconds."""


@contextlib.contextmanager
def cores(members: Sequence[Member], processes: int | None = None) -> Iterator[Workers]:
    """Run processes on this machine, each with a copy of all traces, until the block ends.

    Args:
        members: The fleet.
        processes: Number of processes; None for one on each core that this process may use.
    """
    count = processes or len(os.sched_getaffinity(0))
    with concurrent.futures.ProcessPoolExecutor(
        count,
        # Not forked: a forked process would have copies of locks that other threads of this process hold.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_initialize,
        initargs=(tuple(members),),
    ) as pool:
        try:
            yield _Cores(pool)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_fleet: tuple[Member, ...] = ()
"""The traces, in a process of the pool."""


def _initialize(members: tuple[Member, ...]) -> None:
    global _fleet
    _fleet = members
    # A terminal sends Ctrl-C to this process as well. The parent process ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _work_in_pool(job: Job) -> float:
    member, what = job
    return work(_fleet[member], what)


class _Cores:
    def __init__(self, pool: concurrent.futures.ProcessPoolExecutor) -> None:
        self._pool = pool

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, float]]:
        futures = {self._pool.submit(_work_in_pool, job): job for job in jobs}
        for done in concurrent.futures.as_completed(futures):
            yield futures[done], done.result()


@contextlib.contextmanager
def cluster(members: Sequence[Member], address: str) -> Iterator[Workers]:
    """Use the workers of a Dask cluster until the block ends. The traces are sent once.

    Dask's messages are pickles, and a pickle can run code on the receiving machine. Use only a cluster of
    your own.

    Args:
        members: The fleet.
        address: Address of the scheduler (`tcp://127.0.0.1:8786`), in any form that Dask accepts.

    Raises:
        VramtapError: Dask is not installed, or a worker failed.
        NotFound: No scheduler answers there, or it has no worker.
    """
    try:
        # Only a part of the package is typed; the names used here are not.
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise VramtapError("tune", "dask", "is not installed", "pip install 'vramtap[tune]'") from error
    try:
        client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise NotFound("tune", address, "no scheduler answers there", "start one: dask scheduler") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError as error:
            raise NotFound(
                "tune", address, "it has no worker", f"start one: dask worker {address}"
            ) from error
        yield _Cluster(distributed, client, address, client.scatter(list(members), broadcast=True))


class _Cluster:
    def __init__(self, distributed: Any, client: Any, address: str, fleet: list[Any]) -> None:  # noqa: ANN401 - dask has no types
        self._as_completed = distributed.as_completed
        self._client = client
        self._address = address
        self._fleet = fleet

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, float]]:
        # With `pure`, Dask would keep the failure of a job that failed because a module was missing.
        futures = {self._client.submit(work, self._fleet[job[0]], job[1], pure=False): job for job in jobs}
        for done in self._as_completed(list(futures), loop=self._client.loop):
            if done.status != "finished":
                cause = done.exception() if done.status == "error" else done.status
                if isinstance(cause, VramtapError):
                    raise cause
                reason, remedy = f"a worker failed: {cause}", "install this version of vramtap on the worker"
                raise VramtapError("tune", self._address, reason, remedy)
            yield futures[done], float(done.result())
