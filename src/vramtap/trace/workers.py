"""Who does the jobs of tuning: the cores of this machine, or a Dask cluster."""

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
"""For a scheduler to answer and a worker to be there."""


@contextlib.contextmanager
def cores(members: Sequence[Member], processes: int | None = None) -> Iterator[Workers]:
    """A process for each core, with all traces in each.

    Args:
        members: The fleet.
        processes: How many; by default as many as cores may be used.
    """
    count = processes or len(os.sched_getaffinity(0))
    with concurrent.futures.ProcessPoolExecutor(
        count,
        # Forked from here they would share locks that our threads may hold.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_settle,
        initargs=(tuple(members),),
    ) as pool:
        try:
            yield _Cores(pool)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_fleet: tuple[Member, ...] = ()
"""In a process of the pool: its copy of the traces."""


def _settle(members: tuple[Member, ...]) -> None:
    global _fleet
    _fleet = members
    # A terminal's Ctrl-C reaches us as well; whoever started us ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _here(job: Job) -> float:
    member, what = job
    return work(_fleet[member], what)


class _Cores:
    def __init__(self, pool: concurrent.futures.ProcessPoolExecutor) -> None:
        self._pool = pool

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, float]]:
        asked = {self._pool.submit(_here, job): job for job in jobs}
        for done in concurrent.futures.as_completed(asked):
            yield asked[done], done.result()


@contextlib.contextmanager
def cluster(members: Sequence[Member], address: str) -> Iterator[Workers]:
    """The workers of a Dask cluster, to which the traces are sent once.

    Dask's messages are pickles: who can send them can run code here and there. The cluster must be one's own.

    Args:
        members: The fleet.
        address: Of its scheduler (`tcp://127.0.0.1:8786`); what Dask takes.

    Raises:
        VramtapError: dask is not installed, or a worker failed.
        NotFound: no scheduler answers there, or it has no worker.
    """
    try:
        # Half of it has types; none of what is used here.
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise VramtapError(
            "tune", "dask", "not installed", "pip install 'vramtap[tune]' brings it"
        ) from error
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
        # Not `pure`: a job that failed once for want of a module would be remembered as failed.
        asked = {self._client.submit(work, self._fleet[job[0]], job[1], pure=False): job for job in jobs}
        for done in self._as_completed(list(asked), loop=self._client.loop):
            if done.status != "finished":
                why = done.exception() if done.status == "error" else done.status
                if isinstance(why, VramtapError):
                    raise why
                raise VramtapError(
                    "tune", self._address, f"a worker failed: {why}", "this vramtap is to be installed there"
                )
            yield asked[done], float(done.result())
