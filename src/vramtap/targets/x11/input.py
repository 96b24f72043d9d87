"""Keyboard and pointer of an X server, through its XTEST extension."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import xcffib
import xcffib.xproto
import xcffib.xtest

from vramtap.keyboard.keys import x11_keycode_of_scancode
from vramtap.keyboard.keysyms import NO_SYMBOL
from vramtap.targets.x11.connection import Display, Link
from vramtap.targets.x11.keymap import Key, Keymap, Stroke

if TYPE_CHECKING:
    from collections.abc import Callable

    from vramtap.keyboard.events import KeyEvent, PointerEvent

BUTTONS: Final = 7
"""Bits of RFB's mask that have a button: 1 to 3, the wheel's 4 and 5, and 6 and 7 for its sides."""
MAX_KEYSYM: Final = (1 << 29) - 1
"""The three highest bits of a keysym are zero (X protocol, appendix A)."""
MAX_COORDINATE: Final = (1 << 15) - 1
"""What the protocol carries."""
CLOSE_TIMEOUT_S: Final = 1.0
"""For letting go of the keys; a server that does not answer is left as it is."""

_KEY_PRESS: Final = 2
_KEY_RELEASE: Final = 3
_BUTTON_PRESS: Final = 4
_BUTTON_RELEASE: Final = 5
_MOTION: Final = 6
_ABSOLUTE: Final = 0
_NOW: Final = 0

_xproto: Final[Any] = xcffib.xproto
_xtest: Final[Any] = xcffib.xtest
_ConnectionError: Final[Any] = xcffib.ConnectionException
_ProtocolError: Final[Any] = xcffib.ProtocolException

log = logging.getLogger(__name__)


class XInput:
    """Input for an X server, over a connection of its own that one thread uses.

    What the user meant is the keysym: it is typed as the server's own map has it, with Shift pressed or let
    go around the key where the map wants it. A keysym that the map lacks is put on a key that sends
    nothing; such keys are emptied again by `close`. The scancode chooses between keys that send the same,
    and speaks where the client had no keysym.

    Args:
        link: Connected; closed with this.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._core: Any = link.connection.core
        self._test: Any = link.connection(_xtest.key)
        self._worker = ThreadPoolExecutor(1, "vramtap-xinput")
        self._keymap: Keymap | None = None
        self._columns = 2
        self._held: dict[int, KeyEvent] = {}
        self._borrowed: OrderedDict[int, int] = OrderedDict()
        self._buttons = 0
        self._pointed: tuple[int, int] | None = None
        self._closed = False
        self.lost = False
        """Whether the server has closed the connection; what is sent then is dropped."""

    @classmethod
    def connect(cls, display: Display) -> XInput | None:
        """Connect to a server; None if it has no XTEST.

        Raises:
            AttachError: see `Link`.
        """
        link = Link(display)
        name = b"XTEST"
        try:
            with link.guarded():
                present = link.connection.core.QueryExtension(len(name), name).reply().present
        except BaseException:
            link.close()
            raise
        if present:
            return cls(link)
        log.warning("%s: no XTEST, so no input", display)
        link.close()
        return None

    async def key(self, event: KeyEvent) -> None:
        """Press or release a key; see `Input`."""
        await self._do(self._press if event.down else self._release, event)

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        """Move the pointer and set the buttons; see `Input`."""
        await self._do(self._point, event)

    async def release_all(self) -> None:
        """Let go of every key and button still held; see `Input`."""
        await self._do(self._let_go)

    async def close(self) -> None:
        """Let go of everything, empty the keys that were borrowed, disconnect."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._do(self._give_back)
        except TimeoutError:
            log.warning("%s: does not answer; keys may stay pressed", self._link.display)
        self._closed = True
        # Cut first: a call that still waits must fail before the thread that makes it is waited for.
        self._link.sever()
        await asyncio.to_thread(self._worker.shutdown, cancel_futures=True)
        self._link.close()

    async def _do(self, action: Callable[..., None], *arguments: object) -> None:
        if not self._closed:
            await asyncio.get_running_loop().run_in_executor(self._worker, self._guard, action, *arguments)

    # From here on, everything runs in the worker's thread.

    def _guard(self, action: Callable[..., None], *arguments: object) -> None:
        if self.lost:
            return
        try:
            self._drain()
            action(*arguments)
            self._link.connection.flush()
        except _ProtocolError as error:
            log.warning("%s: input refused: %r", self._link.display, error)
        except _ConnectionError:
            self.lost = True
            log.info("%s: input lost, the server closed the connection", self._link.display)

    def _drain(self) -> None:
        """Take in what the server says: that its map has changed, or that it did not like a request."""
        while True:
            try:
                event = self._link.connection.poll_for_event()
            except _ProtocolError as error:
                log.warning("%s: input refused: %r", self._link.display, error)
                continue
            if event is None:
                return
            if isinstance(event, _xproto.MappingNotifyEvent):
                self._keymap = None

    def _map(self) -> Keymap:
        """The server's map, asked for again after it has changed."""
        if self._keymap is None:
            setup = self._link.connection.get_setup()
            first, last = int(setup.min_keycode), int(setup.max_keycode)
            asked = self._core.GetKeyboardMapping(first, last - first + 1)
            modifiers = self._core.GetModifierMapping().reply()
            answer = asked.reply()
            self._columns = max(1, int(answer.keysyms_per_keycode))
            each = max(1, int(modifiers.keycodes_per_modifier))
            self._keymap = Keymap(
                first,
                _rows([int(keysym) for keysym in answer.keysyms], self._columns),
                _rows([int(keycode) for keycode in modifiers.keycodes], each),
            )
            # Whoever changed the map may have used the keys that we had.
            for keycode, keysym in [*self._borrowed.items()]:
                if self._keymap.find(keysym, prefer=keycode) != Key(keycode, False):
                    del self._borrowed[keycode]
        return self._keymap

    def _press(self, event: KeyEvent) -> None:
        keymap = self._map()
        position = x11_keycode_of_scancode(event.scancode)
        state = int(self._core.QueryPointer(self._link.root).reply().mask)
        stroke = keymap.plan(event.keysym, state, prefer=position)
        if stroke is None and NO_SYMBOL < event.keysym <= MAX_KEYSYM:
            stroke = self._borrow(keymap, event.keysym)
        if stroke is None and position is not None and keymap.has(position):
            stroke = Stroke(position)
        if stroke is None:
            log.info("%s: no key for keysym %#x", self._link.display, event.keysym)
            return
        if stroke.keycode in self._held:
            # The server repeats a held key by itself.
            return
        around: list[int] = []
        if stroke.shift is not None:
            shifts = keymap.shift_keys()
            around = shifts[:1] if stroke.shift else self._pressed(shifts)
        before, after = (_KEY_PRESS, _KEY_RELEASE) if stroke.shift else (_KEY_RELEASE, _KEY_PRESS)
        for keycode in around:
            self._fake(before, keycode)
        self._held[stroke.keycode] = event
        self._fake(_KEY_PRESS, stroke.keycode)
        for keycode in around:
            self._fake(after, keycode)

    def _release(self, event: KeyEvent) -> None:
        # A client names the key by what it would send now, which is another keysym if Shift was let go
        # first: the key may have to be known by its place on the keyboard or on the map.
        tests: tuple[Callable[[int, KeyEvent], bool], ...] = (
            lambda _, pressed: pressed.scancode != 0 and pressed.scancode == event.scancode,
            lambda _, pressed: pressed.keysym == event.keysym,
            lambda keycode, _: self._sends(keycode, event.keysym),
        )
        for test in tests:
            for keycode, pressed in self._held.items():
                if test(keycode, pressed):
                    del self._held[keycode]
                    self._fake(_KEY_RELEASE, keycode)
                    return

    def _sends(self, keycode: int, keysym: int) -> bool:
        key = self._map().find(keysym, prefer=keycode)
        return key is not None and key.keycode == keycode

    def _borrow(self, keymap: Keymap, keysym: int) -> Stroke | None:
        """Put a keysym on a key that sends nothing; the one used longest ago, when all are taken."""
        for keycode, given in self._borrowed.items():
            if given == keysym:
                self._borrowed.move_to_end(keycode)
                return Stroke(keycode)
        free = [keycode for keycode in keymap.spare() if keycode not in self._borrowed]
        free += [keycode for keycode in self._borrowed if keycode not in self._held]
        if not free:
            return None
        # In both columns, so that Shift does not matter.
        self._core.ChangeKeyboardMapping(1, free[0], 2, [keysym, keysym])
        self._borrowed[free[0]] = keysym
        self._borrowed.move_to_end(free[0])
        return Stroke(free[0])

    def _pressed(self, keycodes: list[int]) -> list[int]:
        """Which of these keys are down, whoever pressed them."""
        keys = self._core.QueryKeymap().reply().keys
        return [keycode for keycode in keycodes if int(keys[keycode // 8]) >> keycode % 8 & 1]

    def _point(self, event: PointerEvent) -> None:
        x, y = (max(0, min(MAX_COORDINATE, at)) for at in (event.x, event.y))
        # A click where the pointer stands already is no motion to the programs - if it still stands there.
        if (x, y) != self._pointed or not self._pointer_is_at(x, y):
            self._test.FakeInput(_MOTION, _ABSOLUTE, _NOW, self._link.root, x, y, 0)
        self._pointed = (x, y)
        self._set_buttons(event.buttons)

    def _pointer_is_at(self, x: int, y: int) -> bool:
        pointer = self._core.QueryPointer(self._link.root).reply()
        return bool(pointer.same_screen) and (int(pointer.root_x), int(pointer.root_y)) == (x, y)

    def _set_buttons(self, buttons: int) -> None:
        changed = self._buttons ^ buttons
        for bit in range(BUTTONS):
            if changed >> bit & 1:
                self._fake(_BUTTON_PRESS if buttons >> bit & 1 else _BUTTON_RELEASE, bit + 1)
        self._buttons = buttons

    def _let_go(self) -> None:
        for keycode in [*self._held]:
            del self._held[keycode]
            self._fake(_KEY_RELEASE, keycode)
        self._set_buttons(0)

    def _give_back(self) -> None:
        self._let_go()
        for keycode in self._borrowed:
            self._core.ChangeKeyboardMapping(1, keycode, 2, [NO_SYMBOL, NO_SYMBOL])
        self._borrowed.clear()
        # An answer says that all before it has been done: the connection is cut next.
        self._core.GetInputFocus().reply()

    def _fake(self, kind: int, detail: int) -> None:
        self._test.FakeInput(kind, detail, _NOW, self._link.root, 0, 0, 0)


def _rows(values: list[int], each: int) -> list[list[int]]:
    return [values[at : at + each] for at in range(0, len(values), each)]
