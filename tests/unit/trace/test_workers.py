"""Who does the jobs of tuning: processes here, and what is said where a cluster is not."""

from __future__ import annotations

import signal
import socket
import sys
from types import ModuleType, SimpleNamespace
from typing import Self, cast

import pytest

from vramtap.errors import NotFound, VramtapError
from vramtap.pages import NO_PAGES, PageRuns
from vramtap.policy.costs import REFERENCE
from vramtap.policy.decide import Parameters
from vramtap.trace import trace as trace_module
from vramtap.trace import workers as module
from vramtap.trace.trace import Trace, TraceBuilder
from vramtap.trace.tune import Job, Member, work
from vramtap.trace.workers import cluster, cores


def blinking(period: int, pages: int = 40) -> Trace:
    builder = TraceBuilder(pages)
    for look in range(100):
        builder.add((look + 1) * 16_000_000, NO_PAGES if look % period else PageRuns([(3, 7)]))
    return builder.build({})


FLEET = [Member(blinking(period), REFERENCE) for period in (1, 5, 30)]


def test_each_core_does_what_would_be_done_here() -> None:
    jobs: list[Job] = [(member, what) for member in range(3) for what in (8, Parameters(tile_pages=8))]
    with cores(FLEET, 2) as workers:
        found = dict(workers.run(jobs))
        again = dict(workers.run(jobs[:2]))
    assert found == {(member, what): work(FLEET[member], what) for member, what in jobs}
    assert again == {job: found[job] for job in jobs[:2]}


def test_what_fails_in_a_process_fails_here() -> None:
    # So many pages and looks that one page a tile is more than is counted.
    builder = TraceBuilder(trace_module.MAX_PAGES)
    for look in range(trace_module.MAX_CELLS // trace_module.MAX_PAGES + 1):
        builder.add(look, NO_PAGES)
    with (
        pytest.raises(VramtapError, match="more than"),
        cores([Member(builder.build({}), REFERENCE)], 1) as workers,
    ):
        list(workers.run([(0, Parameters(tile_pages=1))]))


def test_without_dask_one_line_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(VramtapError, match=r"pip install 'vramtap\[tune\]'"), cluster(FLEET, "tcp://x:1"):
        pytest.fail("it was entered")


@pytest.mark.parametrize("address", ["no-such-kind://here", "tcp://127.0.0.1:{port}"])
def test_where_no_scheduler_answers_it_is_said(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_S", 0.5)
    with socket.socket() as taken:
        # Bound and not listening: who connects is refused.
        taken.bind(("127.0.0.1", 0))
        named = address.format(port=taken.getsockname()[1])
        with pytest.raises(NotFound, match="no scheduler answers"), cluster(FLEET, named):
            pytest.fail("it was entered")


class FakeFuture:
    """A job that has failed."""

    def __init__(self, status: str, error: Exception) -> None:
        self.status = status
        self._error = error

    def exception(self) -> Exception:
        return self._error


class FakeClient:
    """Of a cluster that answers as its address says."""

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
        ("misses-module", "a worker failed: No module named 'vramtap' .*installed there"),
        ("lost", "a worker failed: lost"),
        ("too-small", "tiles: are too small"),
    ],
)
def test_what_goes_wrong_in_a_cluster_is_said(
    address: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = SimpleNamespace(Client=FakeClient, as_completed=lambda futures, loop: iter(futures))
    monkeypatch.setitem(sys.modules, "distributed", cast("ModuleType", fake))
    with pytest.raises(VramtapError, match=said), cluster(FLEET, address) as workers:
        list(workers.run([(0, 8)]))


def test_a_terminals_ctrl_c_is_for_who_started_the_processes() -> None:
    with cores(FLEET, 1) as workers:
        assert isinstance(workers, module._Cores)
        assert workers._pool.submit(signal.getsignal, signal.SIGINT).result() is signal.SIG_IGN
