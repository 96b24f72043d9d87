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
from vramtap.targets.x11.connection import XConnection
from vramtap.targets.x11.keymap import Key, Keymap, Stroke

if TYPE_CHECKING:
    from collections.abc import Callable

    from vramtap.keyboard.events import KeyEvent, PointerEvent
    from vramtap.targets.x11.server import Display

BUTTONS: Final = 7
"""Number of buttons in RFB's mask: 1 to 3, the wheel 4 and 5, and 6 and 7 for the wheel to the sides."""
MAX_KEYSYM: Final = (1 << 29) - 1
"""The three highest bits of a keysym are zero (X protocol, appendix A)."""
MAX_COORDINATE: Final = (1 << 15) - 1
"""Largest coordinate in the protocol."""
CLOSE_TIMEOUT_S: Final = 1.0
"""Time limit for releasing the keys, seconds. A server that does not answer is left as it is."""

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

log: logging.Logger = logging.getLogger(__name__)


class XInput:
    """Keyboard and pointer of an X server, over a connection of its own that one thread uses.

    vramtap types the keysym that the client sent, with the key that has it in the server's own map, and
    presses or releases Shift around the key if the map requires it. If the map lacks the keysym, vramtap
    assigns it to a spare key, which sends nothing otherwise. `close` undoes these assignments. The scancode
    chooses between keys that send the same keysym, and decides if the client sent no keysym.

    Args:
        connection: Connection to the server; `close` closes it.
        close_timeout_s: Time limit for releasing the keys in `close`, seconds.
    """

    def __init__(self, connection: XConnection, *, close_timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        self._connection = connection
        self._close_timeout_s = close_timeout_s
        self._core: Any = connection.xcb.core
        self._test: Any = connection.xcb(_xtest.key)
        self._worker = ThreadPoolExecutor(1, "vramtap-xinput")
        self._keymap: Keymap | None = None
        self._columns = 2
        self._held: dict[int, KeyEvent] = {}
        self._assigned: OrderedDict[int, int] = OrderedDict()
        self._buttons = 0
        self._pointed: tuple[int, int] | None = None
        self._closed = False
        self.lost: bool = False
        """Whether the server has closed the connection. Events after that are dropped."""

    @classmethod
    def connect(cls, display: Display, *, close_timeout_s: float = CLOSE_TIMEOUT_S) -> XInput | None:
        """Connect to a server; return None if it has no XTEST extension.

        Raises:
            AttachError: as `XConnection`.
        """
        connection = XConnection(display)
        name = b"XTEST"
        try:
            with connection.guarded():
                present = connection.xcb.core.QueryExtension(len(name), name).reply().present
        except BaseException:
            connection.close()
            raise
        if present:
            return cls(connection, close_timeout_s=close_timeout_s)
        log.warning("%s takes no input: its server has no XTEST extension", display)
        connection.close()
        return None

    async def key(self, event: KeyEvent) -> None:
        """Press or release a key; see `Input`."""
        await self._do(self._press if event.down else self._release, event)

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        """Move the pointer and set the buttons; see `Input`."""
        await self._do(self._point, event)

    async def release_all(self) -> None:
        """Release every key and button that is held; see `Input`."""
        await self._do(self._release_held)

    async def close(self) -> None:
        """Release all keys and buttons, undo the assignments of spare keys, and disconnect."""
        try:
            async with asyncio.timeout(self._close_timeout_s):
                await self._do(self._restore)
        except TimeoutError:
            log.warning("%s does not answer; keys may stay pressed", self._connection.display)
        self._closed = True
        # Cut the connection first, so that a call that still waits in the thread fails.
        self._connection.sever()
        await asyncio.to_thread(self._worker.shutdown, cancel_futures=True)
        self._connection.close()

    async def _do(self, action: Callable[..., None], *arguments: object) -> None:
        if not self._closed:
            await asyncio.get_running_loop().run_in_executor(self._worker, self._run, action, *arguments)

    # The methods below run in the worker's thread.

    def _run(self, action: Callable[..., None], *arguments: object) -> None:
        if self.lost:
            return
        try:
            self._read_events()
            action(*arguments)
            self._connection.xcb.flush()
        except _ProtocolError as error:
            log.warning("%s: input refused: %r", self._connection.display, error)
        except _ConnectionError:
            self.lost = True
            log.info("%s: no more input: the server closed the connection", self._connection.display)

    def _read_events(self) -> None:
        """Read the server's events: its map has changed, or it refused a request."""
        while True:
            try:
                event = self._connection.xcb.poll_for_event()
            except _ProtocolError as error:
                log.warning("%s: input refused: %r", self._connection.display, error)
                continue
            if event is None:
                return
            if isinstance(event, _xproto.MappingNotifyEvent):
                self._keymap = None

    def _map(self) -> Keymap:
        """Return the server's map; read it again after it has changed."""
        if self._keymap is None:
            setup = self._connection.xcb.get_setup()
            first, last = int(setup.min_keycode), int(setup.max_keycode)
            mapping = self._core.GetKeyboardMapping(first, last - first + 1)
            modifiers = self._core.GetModifierMapping().reply()
            answer = mapping.reply()
            self._columns = max(1, int(answer.keysyms_per_keycode))
            each = max(1, int(modifiers.keycodes_per_modifier))
            self._keymap = Keymap(
                first,
                _rows([int(keysym) for keysym in answer.keysyms], self._columns),
                _rows([int(keycode) for keycode in modifiers.keycodes], each),
            )
            # The client that changed the map may have used the spare keys.
            for keycode, keysym in [*self._assigned.items()]:
                if self._keymap.find(keysym, prefer=keycode) != Key(keycode, shifted=False):
                    del self._assigned[keycode]
        return self._keymap

    def _press(self, event: KeyEvent) -> None:
        keymap = self._map()
        position = x11_keycode_of_scancode(event.scancode)
        state = int(self._core.QueryPointer(self._connection.root).reply().mask)
        stroke = keymap.plan(event.keysym, state, prefer=position)
        if stroke is None and NO_SYMBOL < event.keysym <= MAX_KEYSYM:
            stroke = self._assign(keymap, event.keysym)
        if stroke is None and position is not None and keymap.has(position):
            stroke = Stroke(position)
        if stroke is None:
            log.info("%s: no key for keysym %#x", self._connection.display, event.keysym)
            return
        if stroke.keycode in self._held:
            # The server itself repeats a held key.
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
        # A client names the key by the keysym it would send now. That is another keysym if Shift was
        # released first, so the key is also searched by its scancode and by its place on the map.
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

    def _assign(self, keymap: Keymap, keysym: int) -> Stroke | None:
        """Assign a keysym to a spare key; if all are taken, to the one that was used longest ago."""
        for keycode, given in self._assigned.items():
            if given == keysym:
                self._assigned.move_to_end(keycode)
                return Stroke(keycode)
        free = [keycode for keycode in keymap.spare() if keycode not in self._assigned]
        free += [keycode for keycode in self._assigned if keycode not in self._held]
        if not free:
            return None
        # In both columns, so that Shift has no effect.
        self._core.ChangeKeyboardMapping(1, free[0], 2, [keysym, keysym])
        self._assigned[free[0]] = keysym
        self._assigned.move_to_end(free[0])
        return Stroke(free[0])

    def _pressed(self, keycodes: list[int]) -> list[int]:
        """Return which of these keys are down, including those that other clients pressed."""
        keys = self._core.QueryKeymap().reply().keys
        return [keycode for keycode in keycodes if int(keys[keycode // 8]) >> keycode % 8 & 1]

    def _point(self, event: PointerEvent) -> None:
        x, y = (max(0, min(MAX_COORDINATE, at)) for at in (event.x, event.y))
        # Programs must not see a motion before a click at the pointer's position.
        if (x, y) != self._pointed or not self._pointer_is_at(x, y):
            self._test.FakeInput(_MOTION, _ABSOLUTE, _NOW, self._connection.root, x, y, 0)
        self._pointed = (x, y)
        self._set_buttons(event.buttons)

    def _pointer_is_at(self, x: int, y: int) -> bool:
        pointer = self._core.QueryPointer(self._connection.root).reply()
        return bool(pointer.same_screen) and (int(pointer.root_x), int(pointer.root_y)) == (x, y)

    def _set_buttons(self, buttons: int) -> None:
        changed = self._buttons ^ buttons
        for bit in range(BUTTONS):
            if changed >> bit & 1:
                self._fake(_BUTTON_PRESS if buttons >> bit & 1 else _BUTTON_RELEASE, bit + 1)
        self._buttons = buttons

    def _release_held(self) -> None:
        for keycode in [*self._held]:
            del self._held[keycode]
            self._fake(_KEY_RELEASE, keycode)
        self._set_buttons(0)

    def _restore(self) -> None:
        self._release_held()
        for keycode in self._assigned:
            self._core.ChangeKeyboardMapping(1, keycode, 2, [NO_SYMBOL, NO_SYMBOL])
        self._assigned.clear()
        # Wait for an answer: then all earlier requests are done, and the connection may be cut.
        self._core.GetInputFocus().reply()

    def _fake(self, kind: int, detail: int) -> None:
        self._test.FakeInput(kind, detail, _NOW, self._connection.root, 0, 0, 0)


def _rows(values: list[int], each: int) -> list[list[int]]:
    return [values[at : at + each] for at in range(0, len(values), each)]
