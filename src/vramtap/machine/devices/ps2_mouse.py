"""Ps2Mouse: a mouse with a wheel that the guest enables; motions for a slow guest are merged.

Sources: IBM PS/2 Hardware Interface Technical Reference, "Mouse"; Microsoft: "IntelliMouse" wheel protocol
(sample rates 200, 100, 80, then id 3); QEMU: hw/input/ps2.c.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

MAX_MOTIONS: Final = 64
"""Most motions with different buttons that wait for the guest."""
_MAX_DISTANCE: Final = 1 << 16
"""Longest motion in counts: more than twice any screen."""
_MAX_NOTCHES: Final = 64
_MAX_ANSWERS: Final = 16
_LONGEST: Final = 127
"""Most counts of an axis in one packet. Nine bits could hold 255, but some drivers read only eight."""
_NOTCHES: Final = 7
"""Most notches of the wheel in one packet: a signed number of four bits."""

_ACK: Final = 0xFA
_RESEND: Final = 0xFE
_SCALE_1, _SCALE_2, _RESOLUTION, _STATUS, _STREAM, _READ = 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xEB
_UNWRAP, _WRAP, _REMOTE, _IDENTIFY, _RATE = 0xEC, 0xEE, 0xF0, 0xF2, 0xF3
_ENABLE, _DISABLE, _DEFAULTS, _RESET = 0xF4, 0xF5, 0xF6, 0xFF
_WHEEL_RATES: Final = (200, 100, 80)
_ID_PLAIN, _ID_WHEEL = 0, 3


@dataclass(slots=True)
class _Motion:
    """A motion not yet sent, with the buttons held during it."""

    dx: int
    dy: int
    dz: int
    buttons: int
    to_border: bool = False
    """It ends at a border of the screen, so later motions must not be added to it."""

    def add(self, dx: int, dy: int, dz: int) -> None:
        self.dx = _bounded(self.dx + dx, _MAX_DISTANCE)
        self.dy = _bounded(self.dy + dy, _MAX_DISTANCE)
        self.dz = _bounded(self.dz + dz, _MAX_NOTCHES)


class Ps2Mouse:
    """A mouse. It does not lock: its controller does.

    It acknowledges and stores 2:1 scaling but does not apply it, so that the guest's pointer follows the
    host's exactly.
    """

    def __init__(self) -> None:
        self.epoch: int = 0
        """Number of resets and enables so far: each may have moved the guest's pointer anywhere."""
        self._answers: deque[int] = deque()
        self._motions: deque[_Motion] = deque()
        self._rest: deque[int] = deque()
        self._enabled = self._remote = self._wrap = False
        self._scale_2 = False
        self._buttons = 0
        self._resolution, self._rate = 2, 100
        self._rates: deque[int] = deque(maxlen=len(_WHEEL_RATES))
        self._id = _ID_PLAIN
        self._awaiting: int | None = None

    @property
    def reporting(self) -> bool:
        """Whether motions are accepted: the guest has enabled them, or polls for each."""
        return self._enabled or self._remote

    def move(self, dx: int, dy: int, dz: int, buttons: int) -> None:
        """See `Ps2Device.move`. If too many motions wait, the last two are merged and clicks may be lost."""
        buttons &= 0x07
        changed, self._buttons = self._buttons != buttons, buttons
        if not self.reporting:
            return
        dz = dz if self._id == _ID_WHEEL else 0
        if not (dx or dy or dz or changed):
            return
        last = self._motions[-1] if self._motions else None
        if last is not None and not last.to_border and (not changed or len(self._motions) >= MAX_MOTIONS):
            last.add(dx, dy, dz)
            last.buttons = buttons
        else:
            motion = _Motion(0, 0, 0, buttons)
            motion.add(dx, dy, dz)
            self._motions.append(motion)

    def home(self, dx: int, dy: int) -> None:
        """See `Ps2Device.home`."""
        if not self.reporting:
            return
        # Make room for this motion and one after it, which may not be merged.
        if len(self._motions) >= MAX_MOTIONS - 1:
            self._motions.clear()
        motion = _Motion(0, 0, 0, self._buttons, to_border=True)
        motion.add(dx, dy, 0)
        self._motions.append(motion)

    def next(self) -> int | None:
        """Return the next byte for the guest; None if there is none."""
        if self._rest:
            return self._rest.popleft()
        if self._answers:
            return self._answers.popleft()
        if self._enabled and not self._remote and not self._wrap and self._motions:
            self._rest.extend(self._packet())
            return self._rest.popleft()
        return None

    def _packet(self) -> bytes:
        """Return the first motion, or as much of it as fits into a packet."""
        motion = self._motions[0] if self._motions else _Motion(0, 0, 0, self._buttons)
        dx, dy = _bounded(motion.dx, _LONGEST), _bounded(motion.dy, _LONGEST)
        dz = _bounded(motion.dz, _NOTCHES)
        motion.add(-dx, -dy, -dz)
        if self._motions and not (motion.dx or motion.dy or motion.dz):
            self._motions.popleft()
        up = -dy  # a packet counts upwards
        head = 0x08 | motion.buttons | (0x10 if dx < 0 else 0) | (0x20 if up < 0 else 0)
        packet = bytes([head, dx & 0xFF, up & 0xFF])
        return packet + bytes([dz & 0xFF]) if self._id == _ID_WHEEL else packet

    def _answer(self, *values: int) -> None:
        if len(self._answers) + len(values) <= _MAX_ANSWERS:
            self._answers.extend(values)

    def command(self, value: int) -> None:
        """Accept a byte that the guest sent."""
        command, self._awaiting = self._awaiting, None
        if self._wrap and value not in (_UNWRAP, _RESET):
            self._answer(value)
        elif command == _RATE:
            self._set_rate(value)
        elif command == _RESOLUTION:
            self._resolution = value & 3
            self._answer(_ACK)
        elif value in (_RATE, _RESOLUTION):
            self._awaiting = value
            self._answer(_ACK)
        elif value == _READ:
            self._answer(_ACK, *self._packet())
        elif value == _STATUS:
            self._answer(_ACK, self._status(), self._resolution, self._rate)
        elif value == _IDENTIFY:
            self._answer(_ACK, self._id)
        elif value == _RESET:
            self._reset()
            self._id = _ID_PLAIN
            self._answer(_ACK, 0xAA, self._id)
        else:
            self._answer(_ACK if self._switch(value) else _RESEND)

    def _switch(self, value: int) -> bool:
        """Execute a command that only changes a setting; return whether it is one."""
        if value == _ENABLE:
            self._enabled = True
            self.epoch += 1
        elif value == _DISABLE:
            self._enabled = False
            self._motions.clear()
        elif value == _DEFAULTS:
            self._reset()
        elif value in (_REMOTE, _STREAM):
            self._remote = value == _REMOTE
        elif value in (_WRAP, _UNWRAP):
            self._wrap = value == _WRAP
        elif value in (_SCALE_1, _SCALE_2):
            self._scale_2 = value == _SCALE_2
        else:
            return False
        return True

    def _reset(self) -> None:
        self._answers.clear()
        self._motions.clear()
        self._rest.clear()
        self._enabled = self._remote = self._wrap = self._scale_2 = False
        self._resolution, self._rate = 2, 100
        self.epoch += 1

    def _set_rate(self, value: int) -> None:
        self._rate = value
        self._rates.append(value)
        if tuple(self._rates) == _WHEEL_RATES:
            self._id = _ID_WHEEL
        self._answer(_ACK)

    def _status(self) -> int:
        """Return the status byte: mode, reporting, scaling, then the left, middle and right buttons."""
        left, right, middle = (self._buttons >> bit & 1 for bit in range(3))
        flags = self._remote << 6 | self._enabled << 5 | self._scale_2 << 4
        return flags | left << 2 | middle << 1 | right


def _bounded(value: int, limit: int) -> int:
    return max(-limit, min(limit, value))
