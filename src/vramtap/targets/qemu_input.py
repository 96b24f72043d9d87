"""Keyboard and pointer of a QEMU guest, through QMP's input-send-event."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, cast

from vramtap.targets.contract import KeyEvent, PointerEvent
from vramtap.targets.keys import QemuKey, qcode_of_scancode, qemu_key_of_keysym
from vramtap.targets.qmp import Monitor

ABS_MAX: Final = 0x7FFF
"""Largest value of an absolute axis (QEMU: include/ui/input.h, INPUT_EVENT_ABS_MAX)."""
MICE_FRESH_S: Final = 1.0
"""How long the answer of `query-mice` is believed: it changes when the guest loads a tablet driver."""

_BUTTONS: Final = ("left", "middle", "right", "wheel-up", "wheel-down", "wheel-left", "wheel-right")
_SHIFTS: Final = frozenset({"shift", "shift_r"})

log = logging.getLogger(__name__)
_Event = dict[str, object]


class QemuInput:
    """Sends a client's keys and pointer into the guest.

    A client that names keys by position (scancodes) is followed to the letter. One that names them by
    meaning (keysyms) is taken to look at a US keyboard: where the guest's Shift would turn the key into
    another character (a client that types `A` without holding Shift), Shift is pressed or let go around
    it. Lock keys are assumed off when the input is opened.

    Args:
        monitor: Connected.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._held: dict[tuple[int, int], str] = {}
        self._buttons = 0
        self._at: tuple[int, int] | None = None
        self._caps = False
        self._absolute = False
        self._asked_s = float("-inf")

    async def key(self, event: KeyEvent) -> None:
        """Press or release a key; see `Input`."""
        ident = (event.scancode, 0 if event.scancode else event.keysym)
        if not event.down:
            code = self._held.pop(ident, None)
            if code is not None and code not in self._held.values():
                await self._send([_key(code, down=False)])
            return
        key = self._find(event)
        if key is None:
            log.info("no key for keysym %#x scancode %#x: dropped", event.keysym, event.scancode)
            return
        if key.qcode == "caps_lock" and ident not in self._held:
            self._caps = not self._caps
        around = self._shifts_around(key)
        self._held[ident] = key.qcode
        await self._send([*around, _key(key.qcode, down=True), *_undone(around)])

    def _find(self, event: KeyEvent) -> QemuKey | None:
        if event.scancode:
            code = qcode_of_scancode(event.scancode)
            if code is not None:
                return QemuKey(code)
        return qemu_key_of_keysym(event.keysym)

    def _shifts_around(self, key: QemuKey) -> list[_Event]:
        """What to do to Shift before the key, so that it types what was meant."""
        held = sorted(_SHIFTS.intersection(self._held.values()))
        if key.shift is None:
            return []
        letter = len(key.qcode) == 1 and key.qcode.isalpha()
        wanted = key.shift != (self._caps and letter)
        if wanted and not held:
            return [_key("shift", down=True)]
        return [] if wanted else [_key(code, down=False) for code in held]

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        """Move the pointer and set the buttons; see `Input`."""
        events: list[_Event] = []
        if await self._is_absolute():
            events += [_axis("abs", "x", event.x * ABS_MAX // max(1, width - 1))]
            events += [_axis("abs", "y", event.y * ABS_MAX // max(1, height - 1))]
        elif self._at is not None:
            moved = event.x - self._at[0], event.y - self._at[1]
            events += [_axis("rel", name, by) for name, by in zip("xy", moved, strict=True) if by]
        self._at = event.x, event.y
        events += self._button_events(event.buttons)
        if events:
            await self._send(events)

    def _button_events(self, buttons: int) -> list[_Event]:
        changed, self._buttons = self._buttons ^ buttons, buttons
        return [
            {"type": "btn", "data": {"button": name, "down": bool(buttons >> bit & 1)}}
            for bit, name in enumerate(_BUTTONS)
            if changed >> bit & 1
        ]

    async def release_all(self) -> None:
        """Let go of every key and button; see `Input`."""
        events = [_key(code, down=False) for code in sorted(set(self._held.values()))]
        events += self._button_events(0)
        self._held.clear()
        if events:
            await self._send(events)

    async def _is_absolute(self) -> bool:
        """Whether the guest's current pointing device takes positions (a tablet) or motions (a mouse)."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._asked_s > MICE_FRESH_S:
            mice = await self._monitor.execute("query-mice")
            self._absolute = isinstance(mice, list) and any(map(_is_current_tablet, mice))
            self._asked_s = now_s
        return self._absolute

    async def _send(self, events: list[_Event]) -> None:
        await self._monitor.execute("input-send-event", {"events": events})


def _is_current_tablet(mouse: object) -> bool:
    """Whether an entry of `query-mice` (QEMU: qapi/ui.json, MouseInfo) takes positions and is in use."""
    return isinstance(mouse, dict) and mouse.get("current") is True and mouse.get("absolute") is True


def _key(code: str, *, down: bool) -> _Event:
    return {"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": code}}}


def _axis(kind: str, axis: str, value: int) -> _Event:
    return {"type": kind, "data": {"axis": axis, "value": value}}


def _undone(events: list[_Event]) -> list[_Event]:
    """The opposite of key events, in reverse order."""
    undone: list[_Event] = []
    for event in reversed(events):
        data = cast(dict[str, object], event["data"])
        undone.append({"type": "key", "data": {**data, "down": not data["down"]}})
    return undone
