"""IdleGuestFilter: the log is not read only while the guest has certainly not run."""

from __future__ import annotations

from vramtap.errors import TargetGone
from vramtap.trackers.xen.idle_guest import BACKSTOP_S, IdleGuestFilter


class Times:
    """CPU times of domains; None if the domain has ended."""

    def __init__(self) -> None:
        self.of: dict[int, int | None] = {3: 1000}

    def __call__(self, domid: int) -> int:
        time_ns = self.of[domid]
        if time_ns is None:
            raise TargetGone("xc_domain_getinfolist", f"domain {domid}")
        return time_ns


def test_guest_is_not_idle_before_the_first_fetch() -> None:
    assert not IdleGuestFilter(Times()).is_idle(0.0)


def test_guest_that_has_not_run_since_the_fetch_is_idle() -> None:
    times = Times()
    filter_ = IdleGuestFilter(times)
    filter_.before_fetch(3, 0.0)
    assert filter_.is_idle(0.1)
    times.of[3] = 1001
    assert not filter_.is_idle(0.2)
    filter_.before_fetch(3, 0.3)
    assert filter_.is_idle(0.4)


def test_guest_that_ran_since_the_fetch_stays_not_idle() -> None:
    times = Times()
    filter_ = IdleGuestFilter(times)
    filter_.before_fetch(3, 0.0)
    times.of[3] = 2000
    assert not filter_.is_idle(0.1)
    assert not filter_.is_idle(0.2), "the log was not read since"


def test_log_is_read_after_the_backstop_whatever_the_cpu_time_says() -> None:
    filter_ = IdleGuestFilter(Times())
    filter_.before_fetch(3, 5.0)
    assert filter_.is_idle(5.0 + BACKSTOP_S / 2)
    assert not filter_.is_idle(5.0 + BACKSTOP_S)


def test_domain_that_has_ended_or_never_run_is_not_idle() -> None:
    times = Times()
    filter_ = IdleGuestFilter(times)
    times.of[3] = 0
    filter_.before_fetch(3, 0.0)
    assert not filter_.is_idle(0.1)
    times.of[3] = None
    filter_.before_fetch(3, 0.2)
    assert not filter_.is_idle(0.3)


def test_cpu_time_of_another_domain_is_not_compared() -> None:
    times = Times()
    times.of[4] = 1000
    filter_ = IdleGuestFilter(times)
    assert not filter_.before_fetch(3, 0.0)
    assert not filter_.before_fetch(4, 0.1), "the same time of another domain means nothing"
    assert filter_.before_fetch(4, 0.2)


def test_distrusted_filter_never_says_idle() -> None:
    filter_ = IdleGuestFilter(Times())
    filter_.before_fetch(3, 0.0)
    assert filter_.is_idle(0.1)
    filter_.distrust()
    assert not filter_.is_idle(0.2)
    filter_.before_fetch(3, 0.3)
    assert not filter_.is_idle(0.4)
