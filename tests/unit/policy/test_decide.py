"""Policies: pure and deterministic, and each does what its name says."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.random_policy import RandomPolicy
from vramtap.policy.costs import REFERENCE
from vramtap.policy.decide import (
    CompareAlways,
    LogAlways,
    OnlinePolicy,
    Parameters,
    Policy,
    State,
)
from vramtap.trace.reference_policies import QemuBackOff, XenTwoSeconds

if TYPE_CHECKING:
    from collections.abc import Callable

TILES = 4
SIZES = np.array([8, 8, 8, 5], dtype=np.int64)
NOTHING = np.zeros(TILES, dtype=np.int64)
MAKERS: list[Callable[[], Policy]] = [
    OnlinePolicy,
    LogAlways,
    CompareAlways,
    XenTwoSeconds,
    QemuBackOff,
    lambda: RandomPolicy(7),
]
DIRTY = st.lists(st.tuples(*(st.integers(0, int(size)) for size in SIZES)), max_size=40)
every_policy = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make().name)


def _decided(state: State) -> tuple[list[bool], bool, float]:
    return state.unprotected.tolist(), state.armed, state.rest_s


@every_policy
@settings(deadline=None)
@given(DIRTY)
def test_policies_are_pure_and_deterministic(
    make: Callable[[], Policy], scans: list[tuple[int, ...]]
) -> None:
    one, other = make(), make()
    state, again = one.start(SIZES, REFERENCE), other.start(SIZES, REFERENCE)
    for scan in scans:
        dirty = np.array(scan, dtype=np.int64)
        before = _decided(state)
        after, twice = one.step(state, dirty), one.step(state, dirty)
        again = other.step(again, dirty)
        assert _decided(after) == _decided(twice) == _decided(again)
        assert _decided(state) == before
        assert dirty.tolist() == list(scan)
        assert not (after.armed and dirty.any())
        state = after
        if state.armed:
            state, again = one.woken(state, 0.5), other.woken(again, 0.5)
            assert not state.armed


@pytest.mark.parametrize("make", MAKERS[:1] + MAKERS[3:], ids=lambda make: make().name)
def test_all_tiles_are_logged_after_a_wake_up(make: Callable[[], Policy]) -> None:
    policy = make()
    state = policy.start(SIZES, REFERENCE)
    for _ in range(20):
        state = policy.step(state, SIZES)
    assert not policy.woken(state).unprotected.any()


@pytest.mark.parametrize("policy", [OnlinePolicy(), XenTwoSeconds()], ids=lambda policy: policy.name)
def test_state_of_another_policy_raises(policy: Policy) -> None:
    with pytest.raises(TypeError, match="another policy's state"):
        policy.step(State(np.zeros(TILES, dtype=np.bool_)), NOTHING)


def test_refused_arming_is_not_repeated_at_once() -> None:
    policy = OnlinePolicy()
    armed = policy.step(policy.start(SIZES, REFERENCE), NOTHING)
    assert armed.armed
    scans, state = 0, policy.step(armed, NOTHING)
    while not state.armed:
        state, scans = policy.step(state, NOTHING), scans + 1
    whole_us = REFERENCE.arming_us(29) + REFERENCE.waking_us(29)
    assert (scans + 1) * REFERENCE.scan_us > whole_us


def test_policy_without_arms_never_arms() -> None:
    policy = OnlinePolicy(Parameters(arms=False))
    state = policy.start(SIZES, REFERENCE)
    for _ in range(500):
        state = policy.step(state, NOTHING)
        assert not state.armed


def test_blinking_caret_is_armed_once_only() -> None:
    policy = OnlinePolicy(interval_s=1 / 60)
    state = policy.start(np.full(24, 32), REFERENCE)
    nothing, caret = np.zeros(24, dtype=np.int64), np.zeros(24, dtype=np.int64)
    caret[3] = 16
    armings = 0
    for _ in range(40):
        for scan in range(29):
            state = policy.step(state, nothing)
            if state.armed:
                armings += 1
                state = policy.woken(state, (29 - scan) / 60)
                break
        else:
            state = policy.step(state, caret)
    assert armings == 1
    assert not state.unprotected.any()


def test_scan_of_a_settled_extent_returns_the_same_state() -> None:
    policy = OnlinePolicy(Parameters(arms=False))
    state = policy.start(SIZES, REFERENCE)
    state = policy.step(policy.step(state, SIZES), NOTHING)
    for _ in range(60):
        state = policy.step(state, NOTHING)
    assert policy.step(state, NOTHING) is state


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tile_pages", 0),
        ("patience", 0.0),
        ("margin", 0.0),
        ("trust", -1.0),
        ("arm_soonest", 1.5),
        ("forget", 2.0),
        ("patience", float("nan")),
        ("arm_after", float("inf")),
    ],
)
def test_parameter_out_of_range_raises_with_its_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(Parameters(), **{name: value})  # type: ignore[arg-type]  # wrong on purpose


def test_xen_policy_arms_after_two_seconds_without_a_write() -> None:
    policy = XenTwoSeconds(interval_s=0.25)
    state = policy.step(policy.start(SIZES, REFERENCE), SIZES)
    for _ in range(7):
        state = policy.step(state, NOTHING)
        assert not state.armed
    assert policy.step(state, NOTHING).armed
    assert not policy.step(policy.step(state, SIZES), NOTHING).armed


def test_qemu_policy_backs_off_and_halves_the_interval_at_a_change() -> None:
    policy = QemuBackOff()
    state = policy.start(SIZES, REFERENCE)
    assert state.rest_s == pytest.approx(0.030)
    assert policy.step(state, NOTHING).rest_s == pytest.approx(0.080)
    for _ in range(100):
        state = policy.step(state, NOTHING)
    assert state.rest_s == pytest.approx(3.0)
    assert policy.step(state, SIZES).rest_s == pytest.approx(1.5)
    for _ in range(20):
        state = policy.step(state, SIZES)
    assert state.rest_s == pytest.approx(0.030)


def test_random_policy_makes_every_transition() -> None:
    policy = RandomPolicy(3)
    state = policy.start(SIZES, REFERENCE)
    unprotected = logged = armed = 0
    for _ in range(200):
        after = policy.step(state, NOTHING)
        unprotected += int((after.unprotected & ~state.unprotected).sum())
        logged += int((state.unprotected & ~after.unprotected).sum())
        armed += after.armed
        state = policy.woken(after) if after.armed else after
    assert min(unprotected, logged, armed) > 10
