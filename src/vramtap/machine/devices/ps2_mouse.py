"""The PS/2 mouse, with a wheel once the guest has knocked for it; motions a slow guest has missed are merged.

Sources: IBM PS/2 Hardware Interface Technical Reference, "Mouse"; Microsoft: "IntelliMouse" wheel protocol
(sample rates 200, 100, 80, then id 3); QEMU: hw/input/ps2.c.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

MAX_MOTIONS: Final = 64
"""Motions with different buttons that wait for a guest that does not read."""
_MAX_DISTANCE: Final = 1 << 16
"""Counts a motion may have: twice any screen."""
_MAX_NOTCHES: Final = 64
_MAX_ANSWERS: Final = 16
_LONGEST: Final = 127
"""Counts an axis in one packet. Nine bits could carry 255, but drivers that take eight exist."""
_NOTCHES: Final = 7
"""Of the wheel in one packet: four bits with their sign."""

_ACK: Final = 0xFA
_RESEND: Final = 0xFE
_SCALE_1, _SCALE_2, _RESOLUTION, _STATUS, _STREAM, _READ = 0xE6, 0xE7, 0xE8, 0xE9, 0xEA, 0xEB
_UNWRAP, _WRAP, _REMOTE, _IDENTIFY, _RATE = 0xEC, 0xEE, 0xF0, 0xF2, 0xF3
_ENABLE, _DISABLE, _DEFAULTS, _RESET = 0xF4, 0xF5, 0xF6, 0xFF
_KNOCK: Final = (200, 100, 80)
_ID_PLAIN, _ID_WHEEL = 0, 3


@dataclass(slots=True)
class _Motion:
    """Counts not yet sent, with the buttons that were held meanwhile."""

    dx: int
    dy: int
    dz: int
    buttons: int
    apart: bool = False
    """It ends at a border of the screen, so that what comes after must not be added to it."""

    def add(self, dx: int, dy: int, dz: int) -> None:
        self.dx = _bounded(self.dx + dx, _MAX_DISTANCE)
        self.dy = _bounded(self.dy + dy, _MAX_DISTANCE)
        self.dz = _bounded(self.dz + dz, _MAX_NOTCHES)


class Ps2Mouse:
    """A mouse; not locked: the controller does that.

    The 2:1 scaling is answered and kept, not done: the host's pointer is to be followed exactly.
    """

    def __init__(self) -> None:
        self.epoch = 0
        """Counts what may have put the guest's pointer elsewhere: resets, and enabling anew."""
        self._answers: deque[int] = deque()
        self._motions: deque[_Motion] = deque()
        self._rest: deque[int] = deque()
        self._enabled = self._remote = self._wrap = False
        self._scale_2 = False
        self._buttons = 0
        self._resolution, self._rate = 2, 100
        self._rates: deque[int] = deque(maxlen=len(_KNOCK))
        self._id = _ID_PLAIN
        self._awaiting: int | None = None

    @property
    def reporting(self) -> bool:
        """Whether motions are taken: the guest has enabled them, or asks for each."""
        return self._enabled or self._remote

    def move(self, dx: int, dy: int, dz: int, buttons: int) -> None:
        """See `Ps2Device.move`. Where too many wait, the last two are made one, and clicks may be lost."""
        buttons &= 0x07
        changed, self._buttons = self._buttons != buttons, buttons
        if not self.reporting:
            return
        dz = dz if self._id == _ID_WHEEL else 0
        if not (dx or dy or dz or changed):
            return
        last = self._motions[-1] if self._motions else None
        if last is not None and not last.apart and (not changed or len(self._motions) >= MAX_MOTIONS):
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
        # Room for this one and one after it, which may not be added to it.
        if len(self._motions) >= MAX_MOTIONS - 1:
            self._motions.clear()
        motion = _Motion(0, 0, 0, self._buttons, apart=True)
        motion.add(dx, dy, 0)
        self._motions.append(motion)

    def next(self) -> int | None:
        """The next byte for the guest; None if there is nothing to say."""
        if self._rest:
            return self._rest.popleft()
        if self._answers:
            return self._answers.popleft()
        if self._enabled and not self._remote and not self._wrap and self._motions:
            self._rest.extend(self._packet())
            return self._rest.popleft()
        return None

    def _packet(self) -> bytes:
        """The first motion, or as much of it as a packet holds."""
        motion = self._motions[0] if self._motions else _Motion(0, 0, 0, self._buttons)
        dx, dy = _bounded(motion.dx, _LONGEST), _bounded(motion.dy, _LONGEST)
        dz = _bounded(motion.dz, _NOTCHES)
        motion.add(-dx, -dy, -dz)
        if self._motions and not (motion.dx or motion.dy or motion.dz):
            self._motions.popleft()
        up = -dy  # the mouse counts upwards
        head = 0x08 | motion.buttons | (0x10 if dx < 0 else 0) | (0x20 if up < 0 else 0)
        packet = bytes([head, dx & 0xFF, up & 0xFF])
        return packet + bytes([dz & 0xFF]) if self._id == _ID_WHEEL else packet

    def _answer(self, *values: int) -> None:
        if len(self._answers) + len(values) <= _MAX_ANSWERS:
            self._answers.extend(values)

    def command(self, value: int) -> None:
        """A byte the guest sent."""
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
        """Commands that change a setting and say no more; returns whether it is one."""
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
        if tuple(self._rates) == _KNOCK:
            self._id = _ID_WHEEL
        self._answer(_ACK)

    def _status(self) -> int:
        """As the mouse packs it: mode, reporting, scaling, then left, middle, right."""
        left, right, middle = (self._buttons >> bit & 1 for bit in range(3))
        flags = self._remote << 6 | self._enabled << 5 | self._scale_2 << 4
        return flags | left << 2 | middle << 1 | right


def _bounded(value: int, limit: int) -> int:
    return max(-limit, min(limit, value))
