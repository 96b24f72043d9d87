"""Timerfd: repeat, expire, stop, take and close."""

from __future__ import annotations

import errno
import math
import resource
import select
import threading

import pytest

from vramtap.errors import KernelError
from vramtap.linux.timerfd import Timerfd

NEVER_S = 1e6
"""Longer than any test."""


def readable(timer: Timerfd) -> bool:
    return bool(select.select([timer], [], [], 0)[0])


def test_repeating_timer_expires_repeatedly() -> None:
    with Timerfd(blocking=True) as timer:
        timer.repeat(1e-4)
        assert sum(timer.take() for _ in range(3)) >= 3


def test_timer_before_expiry_returns_zero_without_waiting() -> None:
    with Timerfd(blocking=False) as timer:
        assert timer.take() == 0
        timer.repeat(NEVER_S)
        assert timer.take() == 0
        assert not readable(timer)


def test_expire_fires_once_immediately() -> None:
    with Timerfd(blocking=False) as timer:
        timer.repeat(NEVER_S)
        timer.expire()
        assert select.select([timer], [], [], 60)[0]
        assert timer.take() == 1
        assert timer.take() == 0


def test_stop_clears_expiry() -> None:
    with Timerfd(blocking=False) as timer:
        timer.expire()
        assert select.select([timer], [], [], 60)[0]
        timer.stop()
        assert not readable(timer)
        assert timer.take() == 0


def test_thread_can_set_timer_while_another_waits() -> None:
    with Timerfd(blocking=True) as timer:
        taken: list[int] = []
        waiting = threading.Thread(target=lambda: taken.append(timer.take()))
        waiting.start()
        for _ in range(100):
            timer.repeat(NEVER_S)
            timer.stop()
        assert taken == []
        timer.expire()
        waiting.join(60)
        assert taken == [1]


@pytest.mark.parametrize("interval_s", [0.0, -1.0, math.inf, math.nan])
def test_invalid_interval_is_refused(interval_s: float) -> None:
    with Timerfd(blocking=False) as timer, pytest.raises(ValueError, match="timer interval of"):
        timer.repeat(interval_s)


def test_shortest_interval_is_not_rounded_to_zero() -> None:
    with Timerfd(blocking=True) as timer:
        timer.repeat(1e-12)  # a timer rounded to zero would never expire
        assert timer.take() >= 1


def test_closed_timer_gives_ebadf() -> None:
    timer = Timerfd(blocking=False)
    timer.close()
    for call in (timer.stop, timer.expire, timer.take):
        with pytest.raises(KernelError) as caught:
            call()
        assert caught.value.errno == errno.EBADF


def test_descriptor_limit_raises_emfile() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        with pytest.raises(KernelError, match="EMFILE"):
            Timerfd(blocking=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
