"""Throttle: each further wrong password doubles the wait."""

from __future__ import annotations

import pytest

from vramtap.servers.vnc.throttle import FIRST_WAIT_S, FREE_FAILURES, MAX_ADDRESSES, MAX_WAIT_S, Throttle


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail(throttle: Throttle, address: str, times: int) -> None:
    for _ in range(times):
        throttle.record_failure(address)


def test_wait_doubles_with_each_failure_after_the_free_ones(clock: Clock) -> None:
    throttle = Throttle(clock)
    fail(throttle, "192.0.2.1", FREE_FAILURES)
    assert throttle.wait_s("192.0.2.1") == 0
    waits = []
    for _ in range(20):
        throttle.record_failure("192.0.2.1")
        waits.append(throttle.wait_s("192.0.2.1"))
    assert waits[:3] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert waits[-1] == MAX_WAIT_S
    assert throttle.wait_s("192.0.2.2") == 0


def test_wait_ends_with_time_and_success_resets_the_count(clock: Clock) -> None:
    throttle = Throttle(clock)
    fail(throttle, "192.0.2.1", FREE_FAILURES + 1)
    clock.now_s += FIRST_WAIT_S - 1
    assert throttle.wait_s("192.0.2.1") == 1
    clock.now_s += 1
    assert throttle.wait_s("192.0.2.1") == 0
    throttle.record_success("192.0.2.1")
    fail(throttle, "192.0.2.1", FREE_FAILURES)
    assert throttle.wait_s("192.0.2.1") == 0


def test_addresses_of_one_ipv6_network_count_as_one(clock: Clock) -> None:
    throttle = Throttle(clock)
    for host in range(FREE_FAILURES + 1):
        throttle.record_failure(f"2001:db8::{host}")
    assert throttle.wait_s("2001:db8::ffff") == FIRST_WAIT_S
    assert throttle.wait_s("2001:db8:0:1::1") == 0
    fail(throttle, "fe80::1%eth0", FREE_FAILURES + 1)
    assert throttle.wait_s("fe80::2%eth0") == FIRST_WAIT_S


def test_oldest_failure_is_forgotten_when_the_table_is_full(clock: Clock) -> None:
    throttle = Throttle(clock)
    fail(throttle, "192.0.2.1", FREE_FAILURES + 1)
    fail(throttle, "192.0.2.2", FREE_FAILURES + 1)
    for number in range(MAX_ADDRESSES - 1):
        throttle.record_failure(f"10.0.{number // 256}.{number % 256}")
    assert throttle.wait_s("192.0.2.1") == 0
    assert throttle.wait_s("192.0.2.2") > 0
