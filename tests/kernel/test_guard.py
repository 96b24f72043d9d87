"""The full userfaultfd and its watchdog, in another process on the real kernel."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.scribe import PAGE, Scribe
from support.testbed.nobody import NOBODY
from support.testbed.require import require
from vramtap.errors import TargetGone
from vramtap.linux.inject import fetch_guarded
from vramtap.linux.procfs import comm, status_field, vm_flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vramtap.linux.watchdog import Watchdog

PAGES = 16
WAIT_S = 10.0
"""Time limit, against hangs."""
LATE_S = 0.005
"""Time to wait for an answer that must not come."""


@contextmanager
def guarded(scribe: Scribe) -> Iterator[Watchdog]:
    """Protect all memory of the scribe, with a watchdog."""
    end = scribe.address + scribe.pages * PAGE
    fetched = fetch_guarded(scribe.pid, scribe.address, end)
    os.close(fetched.fd)
    watchdog = fetched.watchdog
    assert watchdog is not None, fetched.refusal
    assert fetched.refusal == ""
    try:
        watchdog.guard.register(scribe.address, end)
        assert watchdog.ready()
        watchdog.guard.protect(scribe.address, end)
        yield watchdog
    finally:
        watchdog.close()


@pytest.fixture
def scribe() -> Iterator[Scribe]:
    with Scribe(PAGES) as made:
        yield made


def protected(pid: int) -> bool:
    return any("uw" in flags for _, flags in vm_flags(pid))


def readable(fd: int, timeout_s: float = WAIT_S) -> bool:
    return bool(select.select([fd], [], [], timeout_s)[0])


def ends(pid: int) -> bool:
    """Wait for the end of a process, child or not; return whether it ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return readable(descriptor)
    finally:
        os.close(descriptor)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_held_write_is_released_and_reported(scribe: Scribe) -> None:
    with guarded(scribe) as watchdog:
        assert not watchdog.fired
        assert not readable(watchdog.fileno(), 0)
        scribe.write(5 * PAGE, 1)
        assert readable(watchdog.fileno())
        assert watchdog.fired
        assert watchdog.wait_released(WAIT_S)
        assert watchdog.alive


def test_watchdog_is_ready_again_after_each_fault(scribe: Scribe) -> None:
    end = scribe.address + PAGES * PAGE
    with guarded(scribe) as watchdog:
        for number in range(20):
            scribe.write(number % PAGES * PAGE, number)
            assert watchdog.fired
            assert watchdog.wait_released(WAIT_S)
            until_s = time.monotonic() + WAIT_S
            while not watchdog.ready():
                assert time.monotonic() < until_s
            assert not watchdog.fired
            # The watchdog has lifted the range by now, and does not lift the new protection.
            watchdog.guard.protect(scribe.address, end)


def test_fault_handling_can_be_rehearsed(scribe: Scribe) -> None:
    with guarded(scribe) as watchdog:
        for _ in range(5):
            took_us = watchdog.rehearse(WAIT_S)
            assert took_us is not None
            assert took_us > 0
        scribe.write(0, 1)


def test_main_process_answers_for_stopped_watchdog(scribe: Scribe) -> None:
    with guarded(scribe) as watchdog:
        stop(watchdog.pid)
        assert watchdog.rehearse(LATE_S) is None
        scribe.begin_write(PAGE, 1)
        assert readable(watchdog.fileno())
        assert watchdog.fired
        assert not watchdog.wait_released(LATE_S)
        assert watchdog.alive
        watchdog.guard.lift(scribe.address, scribe.address + PAGES * PAGE)
        scribe.finish()


def test_unregister_wakes_no_writer_but_wake_does(scribe: Scribe) -> None:
    """The reason for the order of calls in a hand-over."""
    end = scribe.address + PAGES * PAGE
    with guarded(scribe) as watchdog:
        stop(watchdog.pid)
        scribe.begin_write(PAGE, 1)
        assert readable(watchdog.fileno())
        watchdog.guard.unregister(scribe.address, end)
        assert not protected(scribe.pid)
        watchdog.guard.wake(scribe.address, end)
        scribe.finish()


def test_killed_watchdog_is_detected(scribe: Scribe) -> None:
    with guarded(scribe) as watchdog:
        kill(watchdog.pid)
        assert readable(watchdog.fileno())
        assert not watchdog.alive
        assert watchdog.fired
        assert not watchdog.wait_released(WAIT_S)
        assert not watchdog.ready()
        assert watchdog.rehearse(WAIT_S) is None
        assert protected(scribe.pid), "the main process still holds the userfaultfd"
    assert not protected(scribe.pid)
    scribe.write(0, 1)


@pytest.mark.parametrize("stopped", [True, False])
def test_close_releases_writer_and_ends_watchdog(scribe: Scribe, stopped: bool) -> None:
    with guarded(scribe) as watchdog:
        pid = watchdog.pid
        if stopped:
            stop(pid)
        scribe.begin_write(PAGE, 1)
        assert readable(watchdog.fileno())
    scribe.finish()
    assert not protected(scribe.pid)
    assert not Path(f"/proc/{pid}").exists(), "close waits for its end"


def test_close_leaves_no_descriptor_in_target_or_vramtap(scribe: Scribe) -> None:
    ours, theirs = (set(os.listdir(f"/proc/{pid}/fd")) for pid in (os.getpid(), scribe.pid))
    with guarded(scribe) as watchdog:
        assert set(os.listdir(f"/proc/{scribe.pid}/fd")) == theirs
        assert not os.get_inheritable(watchdog.guard.fileno())
        assert not os.get_inheritable(watchdog.fileno())
    del watchdog
    assert set(os.listdir(f"/proc/{scribe.pid}/fd")) == theirs
    assert set(os.listdir("/proc/self/fd")) == ours


def test_signals_to_vramtap_do_not_reach_watchdog(scribe: Scribe) -> None:
    with guarded(scribe) as watchdog:
        assert os.getsid(watchdog.pid) == watchdog.pid
        assert int(status_field(watchdog.pid, "SigBlk") or "", 16).bit_count() >= 60
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
            os.kill(watchdog.pid, number)
        scribe.write(PAGE, 1)
        assert watchdog.wait_released(WAIT_S)
        assert comm(watchdog.pid) == "vramtap-guard"


def test_watchdog_answers_without_reader(scribe: Scribe) -> None:
    end = scribe.address + PAGES * PAGE
    with guarded(scribe) as watchdog:
        for number in range(300):
            watchdog.guard.protect(scribe.address, end)
            scribe.write(number % PAGES * PAGE, number % 256)
        assert watchdog.wait_released(WAIT_S)


def test_watchdog_outlives_target(scribe: Scribe) -> None:
    with guarded(scribe) as watchdog:
        scribe.end()
        assert watchdog.alive
        assert not watchdog.fired
        with pytest.raises(TargetGone):
            watchdog.guard.lift(scribe.address, scribe.address + PAGE)


def test_killed_main_process_ends_watchdog_and_protection(scribe: Scribe) -> None:
    code = (
        "import sys\n"
        "from vramtap.linux.inject import fetch_guarded\n"
        "pid, start, end = map(int, sys.argv[1:])\n"
        "watchdog = fetch_guarded(pid, start, end).watchdog\n"
        "watchdog.guard.register(start, end)\n"
        "watchdog.guard.protect(start, end)\n"
        "print(watchdog.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    end = scribe.address + PAGES * PAGE
    with subprocess.Popen(
        [sys.executable, "-c", code, str(scribe.pid), str(scribe.address), str(end)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    ) as asker:
        assert asker.stdout is not None
        assert asker.stderr is not None
        watchdog = int(asker.stdout.readline())
        assert protected(scribe.pid)
        scribe.write(0, 1)  # leaves a signal that the main process does not read
        asker.kill()
        assert ends(watchdog)
        assert not protected(scribe.pid)
        scribe.write(PAGE, 1)
        assert asker.stderr.read() == "", "the watchdog shares it"


def test_target_without_capability_has_no_watchdog_but_a_reason() -> None:
    unprivileged = Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip()
    require(unprivileged == "0", "vm.unprivileged_userfaultfd=1 allows every user a full userfaultfd")
    require(os.geteuid() == 0, "only root can change to an unprivileged user")
    with Scribe(PAGES, user=NOBODY) as scribe:
        theirs = set(os.listdir(f"/proc/{scribe.pid}/fd"))
        fetched = fetch_guarded(scribe.pid, scribe.address, scribe.address + PAGES * PAGE)
        os.close(fetched.fd)
        assert fetched.watchdog is None
        assert "EPERM" in fetched.refusal
        assert "CAP_SYS_PTRACE" in fetched.refusal
        assert set(os.listdir(f"/proc/{scribe.pid}/fd")) == theirs
