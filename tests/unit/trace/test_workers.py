"""Workers for tuning: local processes, and the errors of a cluster."""

from __future__ import annotations

import signal
import socket
import sys
from types import ModuleType, SimpleNamespace
from typing import Self, cast

import pytest

from support.traces import blinking
from vramtap.errors import NotFound, VramtapError
from vramtap.pages import NO_PAGES
from vramtap.policy.costs import REFERENCE
from vramtap.policy.decide import Parameters
from vramtap.trace import trace as trace_module
from vramtap.trace import workers as module
from vramtap.trace.trace import TraceBuilder
from vramtap.trace.tune import Job, Member, work
from vramtap.trace.workers import cluster, cores

FLEET = [Member(blinking(period, 100), REFERENCE) for period in (1, 5, 30)]


def test_processes_give_the_same_results_as_this_process() -> None:
    jobs: list[Job] = [(member, what) for member in range(3) for what in (8, Parameters(tile_pages=8))]
    with cores(FLEET, 2) as workers:
        found = dict(workers.run(jobs))
        again = dict(workers.run(jobs[:2]))
    assert found == {(member, what): work(FLEET[member], what) for member, what in jobs}
    assert again == {job: found[job] for job in jobs[:2]}


def test_error_in_a_process_is_raised_here() -> None:
    # With one page a tile, so many pages and intervals exceed the limit of cells.
    builder = TraceBuilder(trace_module.MAX_PAGES)
    for number in range(trace_module.MAX_CELLS // trace_module.MAX_PAGES + 1):
        builder.add(number, NO_PAGES)
    with (
        pytest.raises(VramtapError, match="more than"),
        cores([Member(builder.build({}), REFERENCE)], 1) as workers,
    ):
        list(workers.run([(0, Parameters(tile_pages=1))]))


def test_missing_dask_is_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(VramtapError, match=r"pip install 'vramtap\[tune\]'"), cluster(FLEET, "tcp://x:1"):
        pytest.fail("the block was entered")


@pytest.mark.parametrize("address", ["no-such-kind://here", "tcp://127.0.0.1:{port}"])
def test_scheduler_that_does_not_answer_is_an_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 0.5)
    with socket.socket() as taken:
        # The socket is bound and does not listen, so connections are refused.
        taken.bind(("127.0.0.1", 0))
        named = address.format(port=taken.getsockname()[1])
        with pytest.raises(NotFound, match="no scheduler answers"), cluster(FLEET, named):
            pytest.fail("the block was entered")


class FakeFuture:
    """A job that has failed."""

    def __init__(self, status: str, error: Exception) -> None:
        self.status = status
        self._error = error

    def exception(self) -> Exception:
        return self._error


class FakeClient:
    """A client of a cluster that behaves as its address says."""

    loop = None

    def __init__(self, address: str, **options: object) -> None:
        self.address = address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *what: object) -> None:
        self.address = ""

    def wait_for_workers(self, count: int, timeout: float) -> None:
        if self.address == "no-worker":
            raise TimeoutError

    def scatter(self, members: list[Member], broadcast: bool) -> list[Member]:
        assert broadcast
        return members

    def submit(self, do: object, member: Member, what: object, *, pure: bool) -> FakeFuture:
        assert (do, pure) == (work, False)
        error: Exception = VramtapError("trace", "tiles", "are too small")
        if self.address == "misses-module":
            error = ModuleNotFoundError("No module named 'vramtap'")
        status = "lost" if self.address == "lost" else "error"
        return FakeFuture(status, error)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("no-worker", "it has no worker .*dask worker no-worker"),
        ("misses-module", "a worker failed: No module named 'vramtap' .*install this version"),
        ("lost", "a worker failed: lost"),
        ("too-small", "tiles: are too small"),
    ],
)
def test_failure_of_a_cluster_is_an_error(address: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(Client=FakeClient, as_completed=lambda futures, loop: iter(futures))
    monkeypatch.setitem(sys.modules, "distributed", cast("ModuleType", fake))
    with pytest.raises(VramtapError, match=said), cluster(FLEET, address) as workers:
        list(workers.run([(0, 8)]))


def test_processes_ignore_ctrl_c() -> None:
    with cores(FLEET, 1) as workers:
        assert isinstance(workers, module._Cores)
        assert workers._pool.submit(signal.getsignal, signal.SIGINT).result() is signal.SIG_IGN
