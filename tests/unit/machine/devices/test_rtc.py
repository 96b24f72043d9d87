"""RtcDevice, with time controlled by the test."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.machine.devices.rtc import (
    CENTURY,
    DAY,
    DM,
    HOURS,
    HOURS_24,
    IRQF,
    MINUTES,
    MONTH,
    PIE,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
    SECONDS,
    SET,
    UIE,
    UIP,
    WEEKDAY,
    YEAR,
    RtcDevice,
)
from vramtap.machine.layout import PORT_RTC_DATA, PORT_RTC_INDEX
from vramtap.machine.ports import NEVER_NS

SECOND_NS = 10**9
RATES = {3: 8192, 6: 1024, 10: 64, 15: 2, 1: 256, 2: 128}


class Guest:
    """A guest that uses the clock."""

    def __init__(self, wall_s: float = 1_800_000_000.25) -> None:
        self.now_ns = 12_345
        self.wall_ns = int(wall_s * 4) * SECOND_NS // 4
        self.raised = 0
        self.device = RtcDevice(self._raise, lambda: self.now_ns, lambda: self.wall_ns)

    def _raise(self) -> None:
        self.raised += 1

    def pass_ns(self, ns: int) -> None:
        self.now_ns += ns
        self.wall_ns += ns

    def get(self, index: int) -> int:
        self.device.write(PORT_RTC_INDEX, 1, index | 0x80)
        return self.device.read(PORT_RTC_DATA, 1)

    def set(self, index: int, value: int) -> None:
        self.device.write(PORT_RTC_INDEX, 1, index)
        self.device.write(PORT_RTC_DATA, 1, value)

    def sleep(self) -> int:
        """Sleep until the clock is due, and return for how long."""
        due = self.device.due_ns()
        assert due != NEVER_NS
        slept = due - self.now_ns
        self.pass_ns(slept)
        self.device.tick(self.now_ns)
        return slept


def at(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S"))


def test_time_is_the_hosts_in_bcd() -> None:
    guest = Guest(at("2031-12-29 23:58:07"))
    registers = (CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS, WEEKDAY)
    assert [guest.get(index) for index in registers] == [0x20, 0x31, 0x12, 0x29, 0x23, 0x58, 0x07, 2]
    assert guest.get(REG_D) == 0x80


@pytest.mark.parametrize(
    ("clock", "binary", "digits"),
    [("00", 12, 0x12), ("01", 1, 0x01), ("12", 0x8C, 0x92), ("23", 0x8B, 0x91)],
)
def test_twelve_hours_and_binary(clock: str, binary: int, digits: int) -> None:
    guest = Guest(at(f"2031-01-05 {clock}:00:00"))
    guest.set(REG_B, DM)
    assert guest.get(HOURS) == binary
    assert guest.get(CENTURY) == 20
    guest.set(REG_B, 0)
    assert guest.get(HOURS) == digits
    guest.set(REG_B, DM | HOURS_24)
    assert guest.get(HOURS) == int(clock)


def test_set_bit_stops_the_time() -> None:
    guest = Guest(at("2031-01-05 10:00:00"))
    guest.set(REG_B, SET | HOURS_24)
    guest.pass_ns(5 * SECOND_NS)
    assert guest.get(SECONDS) == 0
    guest.set(SECONDS, 0x33)
    assert guest.get(SECONDS) == 0x33
    guest.set(REG_B, HOURS_24)
    assert guest.get(SECONDS) == 5


def test_update_in_progress_is_set_before_each_second() -> None:
    guest = Guest(1_800_000_000.0)
    assert not guest.get(REG_A) & UIP
    guest.pass_ns(SECOND_NS - 1_000_000)
    assert guest.get(REG_A) & UIP
    guest.pass_ns(1_000_000)
    assert not guest.get(REG_A) & UIP


@pytest.mark.parametrize(("rate", "hz"), RATES.items())
def test_periods_follow_each_other_without_drift(rate: int, hz: int) -> None:
    guest = Guest()
    guest.set(REG_A, 0x20 | rate)
    guest.set(REG_B, PIE | HOURS_24)
    began = guest.now_ns
    for period in range(1, 100):
        guest.sleep()
        assert guest.now_ns == began - (-period * SECOND_NS // hz)
        assert guest.raised == period
        assert guest.get(REG_C) & ~UIE == IRQF | PIE
        assert guest.get(REG_C) == 0


def test_missed_periods_are_one_flag() -> None:
    guest = Guest()
    guest.set(REG_A, 0x2A)
    guest.set(REG_B, PIE | HOURS_24)
    guest.sleep()
    assert guest.device.due_ns() == NEVER_NS, "no further event until the flag is read"
    guest.pass_ns(10 * SECOND_NS)
    guest.device.tick(guest.now_ns)
    assert guest.raised == 1
    assert guest.get(REG_C) & ~UIE == IRQF | PIE
    assert guest.get(REG_C) == 0
    assert 0 < guest.device.due_ns() - guest.now_ns <= SECOND_NS // 64
    assert guest.raised == 1


def test_polled_periodic_flag_raises_no_line() -> None:
    guest = Guest()
    guest.set(REG_A, 0x2A)
    assert guest.device.due_ns() == NEVER_NS
    guest.get(REG_C)
    guest.pass_ns(SECOND_NS // 64)
    assert guest.get(REG_C) & PIE
    assert guest.raised == 0


def test_enabling_a_set_flag_raises_the_line() -> None:
    guest = Guest()
    guest.pass_ns(SECOND_NS)
    guest.device.tick(guest.now_ns)
    guest.set(REG_B, UIE | HOURS_24)
    assert guest.raised == 1
    assert guest.get(REG_C) & (IRQF | UIE) == IRQF | UIE


def test_each_new_second_raises_the_line() -> None:
    guest = Guest(1_800_000_000.25)
    guest.get(REG_C)
    guest.set(REG_B, UIE | HOURS_24)
    assert guest.sleep() == SECOND_NS * 3 // 4
    assert guest.raised == 1
    assert guest.get(REG_C) & UIE
    assert guest.sleep() == SECOND_NS
    guest.get(REG_C)
    guest.set(REG_B, SET | UIE)
    assert guest.device.due_ns() == NEVER_NS
    assert guest.get(REG_B) == SET, "SET clears UIE"


def test_rate_zero_has_no_periods() -> None:
    guest = Guest()
    guest.set(REG_A, 0x20)
    guest.set(REG_B, PIE)
    assert guest.device.hz == 0
    assert guest.device.due_ns() == NEVER_NS


def test_other_registers_are_memory() -> None:
    guest = Guest()
    guest.set(0x40, 0x5A)
    guest.set(REG_D, 0)
    guest.set(REG_C, 0xFF)
    assert guest.get(0x40) == 0x5A
    assert guest.get(REG_D) == 0x80
    assert guest.get(REG_C) & 0x0F == 0


@given(
    st.lists(
        st.tuples(
            st.integers(0, 255),
            st.integers(0, 0xFFFF_FFFF),
            st.sampled_from([1, 2, 4]),
            st.integers(0, 3 * SECOND_NS),
        ),
        max_size=40,
    )
)
def test_random_writes_keep_values_valid_and_due_time_ahead(
    traffic: list[tuple[int, int, int, int]],
) -> None:
    guest = Guest()
    for index, value, size, ns in traffic:
        guest.device.write(PORT_RTC_INDEX, size, index)
        guest.device.write(PORT_RTC_DATA, size, value & (1 << 8 * size) - 1)
        assert 0 <= guest.device.read(PORT_RTC_DATA, size) <= 0xFF
        guest.pass_ns(ns)
        guest.device.tick(guest.now_ns)
        assert guest.device.due_ns() > guest.now_ns
