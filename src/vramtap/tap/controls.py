"""Controls: keyboard and pointer of a target, for programs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from vramtap.errors import UsageError
from vramtap.keyboard.events import KeyEvent, PointerEvent
from vramtap.keyboard.keysyms import keysym_of_char, keysym_of_name

if TYPE_CHECKING:
    from vramtap.display.screen import Screen
    from vramtap.keyboard.events import Input
    from vramtap.targets.base import Target

_BUTTONS: Final = {"left": 1 << 0, "middle": 1 << 1, "right": 1 << 2}
"""Masks of the buttons (RFC 6143, section 7.5.5)."""
MAX_CLICKS: Final = 100
"""Clicks of one call of `click`."""


class Controls:
    """Keyboard and pointer of a target, for programs.

    Every method returns when the target has taken the event. A call that presses and releases several keys
    finishes before another call begins.
    """

    target: Target
    screen: Screen

    def __init__(self) -> None:
        self._in_order = asyncio.Lock()
        self._position = 0, 0
        self._buttons = 0

    async def press(self, keys: str, *, hold: bool = False) -> None:
        """Press a key or a combination of keys, and release it again.

        Args:
            keys: Names joined by `+`, in the order in which they go down: `a`, `enter`, `ctrl+alt+delete`.
            hold: Leave the keys down until `release`.

        Raises:
            UsageError: a name is unknown, or the target takes no input.
            TargetGone: the target has ended.
        """
        keysyms = _keysyms(keys)
        device = self._device("press")
        async with self._in_order:
            for keysym in keysyms:
                await device.key(KeyEvent(keysym=keysym, down=True))
            if not hold:
                for keysym in reversed(keysyms):
                    await device.key(KeyEvent(keysym=keysym, down=False))

    async def release(self, keys: str = "") -> None:
        """Release keys that `press(..., hold=True)` has left down.

        Args:
            keys: As in `press`; all keys and buttons by default.

        Raises:
            UsageError: a name is unknown, or the target takes no input.
            TargetGone: the target has ended.
        """
        keysyms = _keysyms(keys) if keys else []
        device = self._device("release")
        async with self._in_order:
            for keysym in reversed(keysyms):
                await device.key(KeyEvent(keysym=keysym, down=False))
            if not keysyms:
                self._buttons = 0
                await device.release_all()

    async def type(self, text: str) -> None:
        r"""Type text, one key after the other. A line feed (`\n`) types Enter, a tab Tab.

        Args:
            text: Any characters. A target drops those that its keyboard lacks, with a line in the log.

        Raises:
            UsageError: the text has a control character, or the target takes no input.
            TargetGone: the target has ended.
        """
        keysyms = [keysym_of_char(char) for char in text]
        device = self._device("type")
        async with self._in_order:
            for keysym in keysyms:
                await device.key(KeyEvent(keysym=keysym, down=True))
                await device.key(KeyEvent(keysym=keysym, down=False))

    async def move(self, x: int, y: int) -> None:
        """Move the pointer.

        Args:
            x: Column in pixels, from the left.
            y: Row in pixels, from the top.

        Raises:
            UsageError: the place is not on the screen, or the target takes no input.
            TargetGone: the target has ended.
        """
        device = self._device("move")
        self._check_place("move", x, y)
        async with self._in_order:
            self._position = x, y
            await self._point(device)

    async def click(
        self, x: int | None = None, y: int | None = None, *, button: str = "left", count: int = 1
    ) -> None:
        """Click a button of the pointer.

        Args:
            x: Column in pixels; where the pointer is by default.
            y: Row in pixels; where the pointer is by default.
            button: `left`, `middle` or `right`.
            count: 2 for a double click; at most `MAX_CLICKS`.

        Raises:
            UsageError: the place is not on the screen, the button or count is unknown, or the target takes no
                input.
            TargetGone: the target has ended.
        """
        device = self._device("click")
        if button not in _BUTTONS:
            raise UsageError("click", button, "no such button", f"one of {', '.join(_BUTTONS)}")
        if not 1 <= count <= MAX_CLICKS:
            raise UsageError("click", f"{count} times", "out of range", f"1 to {MAX_CLICKS}")
        at = self._position[0] if x is None else x, self._position[1] if y is None else y
        self._check_place("click", *at)
        async with self._in_order:
            self._position = at
            await self._point(device)
            for _ in range(count):
                for buttons in (self._buttons | _BUTTONS[button], self._buttons & ~_BUTTONS[button]):
                    self._buttons = buttons
                    await self._point(device)

    async def _point(self, device: Input) -> None:
        x, y = self._position
        await device.pointer(PointerEvent(x, y, self._buttons), self.screen.width, self.screen.height)

    def _check_place(self, operation: str, x: int, y: int) -> None:
        width, height = self.screen.width, self.screen.height
        if not (0 <= x < width and 0 <= y < height):
            raise UsageError(operation, f"({x}, {y})", f"not on the screen of {width}x{height} pixels")

    def _device(self, operation: str) -> Input:
        if self.target.input is None:
            raise UsageError(operation, self.target.url, "this target takes no keyboard or pointer input")
        return self.target.input


def _keysyms(keys: str) -> list[int]:
    """Return the keysyms of names joined by `+`. A `+` where a name should stand is the plus key."""
    names, rest = [], keys
    while rest:
        # The first character belongs to the name, so that `ctrl++` is Ctrl and plus.
        more, plus, after = rest[1:].partition("+")
        names.append(rest[0] + more)
        rest = after
        if plus and not rest:
            raise UsageError("press", keys, "a key is missing after the last +")
    if not names:
        raise UsageError("press", repr(keys), "no key", "a name such as a, enter or ctrl+c")
    return [keysym_of_name(name) for name in names]
