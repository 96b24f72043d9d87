"""RtcDevice: the real-time clock, which has the time of day and the VM's only timer.

An MC146818 as in PCs (Motorola's data sheet; Intel 82371AB, 3.4; QEMU: hw/rtc/mc146818rtc.c). Nothing runs in
the background: the device computes its registers when the guest reads them, and when the machine calls `tick`
at the time that `due_ns` gives.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from vramtap.machine.layout import PORT_RTC_DATA, PORT_RTC_INDEX
from vramtap.machine.ports import NEVER_NS, RaiseLine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SECONDS: Final = 0
MINUTES: Final = 2
HOURS: Final = 4
WEEKDAY: Final = 6
DAY: Final = 7
MONTH: Final = 8
YEAR: Final = 9
REG_A: Final = 0x0A
REG_B: Final = 0x0B
REG_C: Final = 0x0C
REG_D: Final = 0x0D
CENTURY: Final = 0x32
"""The PC's place for the century; the chip itself has none."""

UIP: Final = 0x80
"""A: the time is about to change and must not be read."""
SET: Final = 0x80
"""B: the time is stopped."""
PIE: Final = 0x40
"""B: the periodic flag raises the line. In C the same bit is the flag."""
UIE: Final = 0x10
"""B: the flag of each new second raises the line. In C the same bit is the flag."""
DM: Final = 0x04
"""B: binary, not BCD."""
HOURS_24: Final = 0x02
"""B: 0 to 23, not 1 to 12 with bit 7 for the afternoon."""
IRQF: Final = 0x80
"""C: a flag is set that B enables."""
VALID: Final = 0x80
"""D: the battery is good."""

_SECOND_NS: Final = 1_000_000_000
_UPDATE_NS: Final = 244_000 + 1_984_000
"""UIP is set for this time before each new second (data sheet: t_BUC + t_UC at 32,768 Hz)."""
_TIME: Final = frozenset((SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY))


class RtcDevice:
    """The index and data ports. Bit 7 of the index, the NMI mask, has no effect.

    The time is the host's, in the host's time zone. A guest cannot change it: what it writes lasts while SET
    is on. The alarm registers can be written but never cause an event. If the periodic flag is still set when
    the next period ends, it stays set and raises no line again before the guest reads C, as in the chip.

    Args:
        raise_line: Called when an enabled flag becomes set.
        now_ns: Clock of `due_ns` and `tick`, nanoseconds.
        wall_ns: Time of day since the epoch, nanoseconds.
    """

    def __init__(
        self,
        raise_line: RaiseLine,
        now_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.ports: Iterable[int] = (PORT_RTC_INDEX, PORT_RTC_DATA)
        self._raise_line = raise_line
        self._now_ns = now_ns
        self._wall_ns = wall_ns
        self._index = 0
        self._bytes = bytearray(128)
        # As firmware leaves it: crystal of 32,768 Hz, periodic rate of 1,024 Hz, BCD, 24 hours.
        self._bytes[REG_A], self._bytes[REG_B] = 0x26, HOURS_24
        self._flags = 0
        self._began_ns = now_ns()
        self._periods = 0
        self._second = wall_ns() // _SECOND_NS

    @property
    def hz(self) -> int:
        """Rate of the periodic flag, Hz; 0 if it is off."""
        rate = self._bytes[REG_A] & 0x0F
        # The two highest rates of a 32,768 Hz crystal are the same as 8 and 9 (data sheet, table 5).
        return 32768 >> (rate + 7 if rate <= 2 else rate) - 1 if rate else 0

    def due_ns(self) -> int:
        """Return when to call `tick` next, on the clock `now_ns`; `NEVER_NS` if no flag is due."""
        due = NEVER_NS
        waiting = self._bytes[REG_B] & ~self._flags
        if waiting & PIE and self.hz:
            due = self._began_ns - (-(self._periods + 1) * _SECOND_NS // self.hz)
        if waiting & UIE and not self._bytes[REG_B] & SET:
            due = min(due, self._now_ns() + _SECOND_NS - self._wall_ns() % _SECOND_NS)
        return due

    def tick(self, now_ns: int) -> None:
        """Set the flags that are due at this time."""
        if self.hz:
            periods = max(0, now_ns - self._began_ns) * self.hz // _SECOND_NS
            if periods > self._periods:
                self._periods = periods
                self._set_flag(PIE)
        if not self._bytes[REG_B] & SET:
            second = self._wall_ns() // _SECOND_NS
            if second != self._second:
                self._second = second
                self._set_flag(UIE)

    def _set_flag(self, flag: int) -> None:
        new = flag & ~self._flags
        self._flags |= flag
        if new & self._bytes[REG_B]:
            self._raise_line()

    def read(self, port: int, size: int) -> int:
        """Return the byte that the index selects; reading C clears its flags."""
        if port == PORT_RTC_INDEX:
            return 0xFF
        index = self._index
        if index == REG_C:
            self.tick(self._now_ns())
            flags, self._flags = self._flags, 0
            return flags | (IRQF if flags & self._bytes[REG_B] else 0)
        if index == REG_A:
            return self._bytes[REG_A] | (UIP if self._is_updating() else 0)
        if index == REG_D:
            return VALID
        if index in _TIME and not self._bytes[REG_B] & SET:
            return self._time(index)
        return self._bytes[index]

    def write(self, port: int, size: int, value: int) -> None:
        """Set the index, or the byte it selects."""
        value &= 0xFF
        if port == PORT_RTC_INDEX:
            self._index = value & 0x7F
        elif self._index == REG_A:
            self._set_rate(value & ~UIP)
        elif self._index == REG_B:
            self._set_control(value)
        elif self._index not in (REG_C, REG_D):
            self._bytes[self._index] = value

    def _set_rate(self, value: int) -> None:
        if value != self._bytes[REG_A]:
            self._bytes[REG_A] = value
            self._start_periods()

    def _start_periods(self) -> None:
        """Start the first period now."""
        self._began_ns, self._periods = self._now_ns(), 0

    def _set_control(self, value: int) -> None:
        before = self._bytes[REG_B]
        if value & SET and not before & SET:
            for index in _TIME:
                self._bytes[index] = self._time(index)
            value &= ~UIE  # the chip clears it (data sheet, register B)
        if before & SET and not value & SET:
            self._second = self._wall_ns() // _SECOND_NS
        if value & PIE and not before & PIE:
            self._start_periods()
        self._bytes[REG_B] = value
        if self._flags & value & ~before:
            # A flag that was set already has become enabled.
            self._raise_line()

    def _is_updating(self) -> bool:
        return self._wall_ns() % _SECOND_NS >= _SECOND_NS - _UPDATE_NS and not self._bytes[REG_B] & SET

    def _time(self, index: int) -> int:
        """Return a register of the time, in the format that B selects."""
        now = time.localtime(self._wall_ns() // _SECOND_NS)
        control = self._bytes[REG_B]
        afternoon = 0
        hour = now.tm_hour
        if not control & HOURS_24:
            afternoon = 0x80 if hour >= 12 else 0
            hour = hour % 12 or 12
        value = {
            SECONDS: min(now.tm_sec, 59),
            MINUTES: now.tm_min,
            HOURS: hour,
            WEEKDAY: (now.tm_wday + 1) % 7 + 1,
            DAY: now.tm_mday,
            MONTH: now.tm_mon,
            YEAR: now.tm_year % 100,
            CENTURY: now.tm_year // 100 % 100,
        }[index]
        if not control & DM:
            value = value // 10 << 4 | value % 10
        return value | (afternoon if index == HOURS else 0)
