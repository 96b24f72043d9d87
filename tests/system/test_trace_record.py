"""Tests of `trace record` and `tune`: how a recording ends, and a search on a cluster."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Final

import pytest

from support.program import Lines, run, started
from support.testbed.supervise import spawn, stop
from support.testbed.xclient import XClient
from support.testbed.xvfb import Xvfb
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns
from vramtap.trace.store import load, save
from vramtap.trace.trace import Trace, TraceBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WIDTH, HEIGHT = 640, 480


def written(trace: Trace) -> PageRuns:
    """Return all pages that were written in any interval."""
    return PageRuns(trace.runs.astype("int64"))


@pytest.fixture
def server() -> Iterator[Xvfb]:
    """An X server with an empty screen."""
    with Xvfb(width=WIDTH, height=HEIGHT) as server:
        yield server


def test_ctrl_c_ends_the_recording_of_an_x_server_and_saves_it(server: Xvfb, tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    with started("trace", "record", server.url, "-o", out, "--seconds", "3600") as child:
        line = child.line()
        assert line is not None
        assert re.fullmatch(rf"{server.url}: recording \d+ pages; Ctrl-C ends it", line)
        with XClient(server.display) as client:
            client.fill(0, 100, WIDTH, 10, 0x123456)
        finished = child.finish(signal.SIGINT)
    assert finished.status == 0
    assert "ended: stopped" in finished.out
    trace = load(out)
    offset = int(trace.meta["mode"].rpartition(" ")[2])
    first = (offset % PAGE_SIZE + 100 * WIDTH * 4) // PAGE_SIZE
    last = -(-(offset % PAGE_SIZE + 110 * WIDTH * 4) // PAGE_SIZE)
    assert written(trace) == PageRuns([(first, last)])
    assert trace.meta["ended"] == "stopped"


def test_the_end_of_the_x_server_ends_the_recording(server: Xvfb, tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    with started("trace", "record", server.url, "-o", out, "--seconds", "3600") as child:
        assert child.line() is not None
        server.kill()
        finished = child.finish(None)
    assert finished.status == 0
    assert load(out).intervals >= 1
    assert "after 3600 s" not in load(out).meta["ended"]


def test_ctrl_c_ends_the_recording_of_the_built_in_vm_and_saves_it(tmp_path: Path) -> None:
    out = tmp_path / "machine.parquet"
    target = "demo:?workload=typing&mode=320x200&cpu=unicorn"
    with started("trace", "record", target, "-o", out, "--seconds", "3600") as child:
        assert child.line() is not None
        finished = child.finish(signal.SIGINT)
    assert finished.status == 0
    trace = load(out)
    assert trace.meta["clock"] == "guest"
    assert trace.meta["ended"] == "stopped"
    assert all(trace.written(look) for look in range(trace.intervals))


def test_a_desktop_is_recorded_in_real_time(tmp_path: Path) -> None:
    out = tmp_path / "desktop.parquet"
    finished = run("trace", "record", "demo:?cpu=unicorn", "-o", out, "--seconds", "1.5", "--json")
    assert finished.status == 0
    (said,) = finished.lines
    trace = load(out)
    assert said["intervals"] == trace.intervals
    assert trace.meta["clock"] == "host"
    # The desktop's caret blinks twice a second.
    assert written(trace)


# A cluster


@contextlib.contextmanager
def dask(module: str, *arguments: str) -> Iterator[Lines]:
    """Run one of Dask's programs on loopback. The lines are its log."""
    command = [sys.executable, "-m", f"distributed.cli.{module}", "--host", "127.0.0.1", "--no-dashboard"]
    with tempfile.TemporaryFile() as nothing:
        process = spawn([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            yield Lines(process, nothing)
        finally:
            stop(process, gently_s=5)


_ADDRESS: Final = re.compile(r"Scheduler at:\s+(tcp://127\.0\.0\.1:\d+)")


def address_of(scheduler: Lines) -> str:
    """Return the address in the scheduler's log."""
    while (line := scheduler.line()) is not None:
        if found := _ADDRESS.search(line):
            return found[1]
    raise AssertionError(f"the scheduler's log has no address: {scheduler.lines}")


def test_tune_on_a_cluster_gives_the_same_result_as_on_one_core(tmp_path: Path) -> None:
    files = []
    for name, period in (("caret", 30), ("typing", 2)):
        builder = TraceBuilder(64)
        for look in range(120):
            pages = NO_PAGES if look % period else PageRuns([(look % 50, look % 50 + 9)])
            builder.add((look + 1) * 16_000_000, pages)
        files.append(tmp_path / f"{name}.parquet")
        save(files[-1], builder.build({"name": name}))
    with dask("dask_scheduler", "--port", "0") as scheduler:
        address = address_of(scheduler)
        with dask("dask_worker", address, "--nthreads", "1", "--no-nanny"):
            clustered = run("tune", *files, "--scheduler", address, "--json")
    assert clustered.status == 0, clustered.err
    alone = run("tune", *files, "--jobs", "1", "--json")
    assert json.loads(clustered.out) == json.loads(alone.out)
