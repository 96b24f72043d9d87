"""Keyboard and pointer of a QEMU guest, through QMP's input-send-event."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from vramtap.keyboard.us_layout import UsKeyboard

if TYPE_CHECKING:
    from vramtap.keyboard.events import KeyEvent, PointerEvent
    from vramtap.keyboard.us_layout import Stroke
    from vramtap.targets.qemu.commands import Commands

ABS_MAX: Final = 0x7FFF
"""Largest value of an absolute axis (QEMU: include/ui/input.h, INPUT_EVENT_ABS_MAX)."""
MICE_CACHE_S: Final = 1.0
"""How long the answer of `query-mice` is used. It changes when the guest loads a tablet driver."""

_BUTTONS: Final = ("left", "middle", "right", "wheel-up", "wheel-down", "wheel-left", "wheel-right")
_Event = dict[str, object]


class QemuInput:
    """Sends a client's keys and pointer to the guest. `UsKeyboard` chooses the keys.

    Args:
        monitor: Runs the commands.
    """

    def __init__(self, monitor: Commands) -> None:
        self._monitor = monitor
        self._keyboard = UsKeyboard()
        self._buttons = 0
        self._position: tuple[int, int] | None = None
        self._absolute = False
        self._mice_read_s = float("-inf")

    async def key(self, event: KeyEvent) -> None:
        """Press or release a key; see `Input`."""
        strokes = self._keyboard.strokes(event)
        if strokes:
            await self._send([_key(stroke) for stroke in strokes])

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        """Move the pointer and set the buttons; see `Input`."""
        events: list[_Event] = []
        if await self._is_absolute():
            events += [_axis("abs", "x", event.x * ABS_MAX // max(1, width - 1))]
            events += [_axis("abs", "y", event.y * ABS_MAX // max(1, height - 1))]
        elif self._position is not None:
            motion = event.x - self._position[0], event.y - self._position[1]
            events += [_axis("rel", name, by) for name, by in zip("xy", motion, strict=True) if by]
        self._position = event.x, event.y
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
        """Release every key and button that is held; see `Input`."""
        events = [_key(stroke) for stroke in self._keyboard.release_all()]
        events += self._button_events(0)
        if events:
            await self._send(events)

    async def _is_absolute(self) -> bool:
        """Return whether the guest's pointing device takes positions (a tablet) or motions (a mouse)."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._mice_read_s > MICE_CACHE_S:
            mice = await self._monitor.execute("query-mice")
            self._absolute = isinstance(mice, list) and any(map(_is_current_tablet, mice))
            self._mice_read_s = now_s
        return self._absolute

    async def _send(self, events: list[_Event]) -> None:
        await self._monitor.execute("input-send-event", {"events": events})


def _is_current_tablet(mouse: object) -> bool:
    """Return whether an entry of `query-mice` (QEMU: qapi/ui.json, MouseInfo) is in use and absolute."""
    return isinstance(mouse, dict) and mouse.get("current") is True and mouse.get("absolute") is True


def _key(stroke: Stroke) -> _Event:
    return {"type": "key", "data": {"down": stroke.down, "key": {"type": "qcode", "data": stroke.qcode}}}


def _axis(kind: str, axis: str, value: int) -> _Event:
    return {"type": kind, "data": {"axis": axis, "value": value}}
