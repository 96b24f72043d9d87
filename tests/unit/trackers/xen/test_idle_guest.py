"""Leaving a question out because the guest has not run since: only while that is certain."""

from __future__ import annotations

from vramtap.errors import TargetGone
from vramtap.trackers.xen.idle_guest import BACKSTOP_S, IdleGuestFilter


class Times:
    """Processor times of domains; None: the domain has ended."""

    def __init__(self) -> None:
        self.of: dict[int, int | None] = {3: 1000}

    def __call__(self, domid: int) -> int:
        time_ns = self.of[domid]
        if time_ns is None:
            raise TargetGone("xc_domain_getinfolist", f"domain {domid}")
        return time_ns


def test_before_anything_was_asked_nothing_is_sure() -> None:
    assert not IdleGuestFilter(Times()).is_idle(0.0)


def test_a_guest_that_has_not_run_since_is_still() -> None:
    times = Times()
    still = IdleGuestFilter(times)
    still.before_fetch(3, 0.0)
    assert still.is_idle(0.1)
    times.of[3] = 1001
    assert not still.is_idle(0.2)
    still.before_fetch(3, 0.3)
    assert still.is_idle(0.4)


def test_what_runs_between_two_questions_is_noticed_though_it_ran_no_more() -> None:
    times = Times()
    still = IdleGuestFilter(times)
    still.before_fetch(3, 0.0)
    times.of[3] = 2000
    assert not still.is_idle(0.1)
    assert not still.is_idle(0.2), "nobody has asked the log since"


def test_it_is_asked_all_the_same_after_a_while() -> None:
    still = IdleGuestFilter(Times())
    still.before_fetch(3, 5.0)
    assert still.is_idle(5.0 + BACKSTOP_S / 2)
    assert not still.is_idle(5.0 + BACKSTOP_S)


def test_a_domain_that_has_ended_or_never_run_is_not_still() -> None:
    times = Times()
    still = IdleGuestFilter(times)
    times.of[3] = 0
    still.before_fetch(3, 0.0)
    assert not still.is_idle(0.1)
    times.of[3] = None
    still.before_fetch(3, 0.2)
    assert not still.is_idle(0.3)


def test_another_domain_begins_anew() -> None:
    times = Times()
    times.of[4] = 1000
    still = IdleGuestFilter(times)
    assert not still.before_fetch(3, 0.0)
    assert not still.before_fetch(4, 0.1), "the same time of another domain means nothing"
    assert still.before_fetch(4, 0.2)


def test_once_contradicted_it_is_never_believed_again() -> None:
    still = IdleGuestFilter(Times())
    still.before_fetch(3, 0.0)
    assert still.is_idle(0.1)
    still.distrust()
    assert not still.is_idle(0.2)
    still.before_fetch(3, 0.3)
    assert not still.is_idle(0.4)
