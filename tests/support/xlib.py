"""`XlibListener`: the input events of an X display, as a program with libX11 reads them."""

from __future__ import annotations

import ctypes
import selectors
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from types import TracebackType

_KEY_EVENTS: Final = {2: True, 3: False}
_BUTTON_EVENTS: Final = {4: True, 5: False}
_MOTION: Final = 6
_MAPPING_NOTIFY: Final = 34
_MASK: Final = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6  # keys, buttons, motion
_INPUT_ONLY: Final = 2
_OVERRIDE_REDIRECT: Final = 1 << 9
_REVERT_TO_POINTER_ROOT: Final = 1


class Event(NamedTuple):
    """An event, as XLookupString reads it.

    Args:
        kind: `key`, `button` or `motion`.
        down: True for a press, False for a release and for motion.
        detail: Keysym, number of the button, or 0.
        x: Column of the pointer.
        y: Row of the pointer.
    """

    kind: str
    down: bool
    detail: int
    x: int
    y: int


class _InputEvent(ctypes.Structure):
    """The common fields of XKeyEvent, XButtonEvent and XMotionEvent (Xlib.h)."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("serial", ctypes.c_ulong),
        ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p),
        ("window", ctypes.c_ulong),
        ("root", ctypes.c_ulong),
        ("subwindow", ctypes.c_ulong),
        ("time", ctypes.c_ulong),
        ("x", ctypes.c_int),
        ("y", ctypes.c_int),
        ("x_root", ctypes.c_int),
        ("y_root", ctypes.c_int),
        ("state", ctypes.c_uint),
        ("detail", ctypes.c_uint),
        ("same_screen", ctypes.c_int),
    )


class _Event(ctypes.Union):
    _fields_ = (("type", ctypes.c_int), ("input", _InputEvent), ("pad", ctypes.c_long * 24))


class _Attributes(ctypes.Structure):
    """XSetWindowAttributes (Xlib.h)."""

    _fields_ = (
        ("pixmaps", ctypes.c_ulong * 4),
        ("gravities", ctypes.c_int * 3),
        ("planes", ctypes.c_ulong * 2),
        ("save_under", ctypes.c_int),
        ("event_mask", ctypes.c_long),
        ("do_not_propagate", ctypes.c_long),
        ("override_redirect", ctypes.c_int),
        ("colormap", ctypes.c_ulong),
        ("cursor", ctypes.c_ulong),
    )


class XlibListener:
    """A window over the whole screen that has the keyboard focus during the `with` block.

    Args:
        display: The value of DISPLAY.
    """

    def __init__(self, display: str) -> None:
        self._x = ctypes.CDLL("libX11.so.6")
        for name in ("XOpenDisplay", "XCreateWindow", "XDefaultRootWindow"):
            getattr(self._x, name).restype = ctypes.c_void_p
        opened = self._x.XOpenDisplay(display.encode())
        assert opened, f"cannot open {display}"
        self._display = ctypes.c_void_p(opened)
        root = ctypes.c_void_p(self._x.XDefaultRootWindow(self._display))
        attributes = _Attributes(override_redirect=1)
        self._window = ctypes.c_void_p(
            self._x.XCreateWindow(
                self._display, root, 0, 0, 4096, 4096, 0, 0, _INPUT_ONLY, None,
                ctypes.c_ulong(_OVERRIDE_REDIRECT), ctypes.byref(attributes),
            )
        )  # fmt: skip
        self._x.XSelectInput(self._display, self._window, ctypes.c_long(_MASK))
        self._x.XMapWindow(self._display, self._window)
        self._x.XSetInputFocus(self._display, self._window, _REVERT_TO_POINTER_ROOT, ctypes.c_ulong(0))
        self._x.XSync(self._display, 0)

    def __enter__(self) -> Self:
        """Return self; the constructor has opened the window."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the window."""
        self._x.XCloseDisplay(self._display)

    def next(self, timeout_s: float = 30) -> Event:
        """Return the next input event.

        Raises:
            AssertionError: no event came in time.
        """
        event = _Event()
        with selectors.DefaultSelector() as selector:
            selector.register(self._x.XConnectionNumber(self._display), selectors.EVENT_READ)
            while True:
                while self._x.XPending(self._display):
                    self._x.XNextEvent(self._display, ctypes.byref(event))
                    found = self._read(event)
                    if found:
                        return found
                assert selector.select(timeout_s), f"no input event in {timeout_s:.0f} s"

    def _read(self, event: _Event) -> Event | None:
        at = event.input.x_root, event.input.y_root
        if event.type in _KEY_EVENTS:
            keysym = ctypes.c_ulong(0)
            self._x.XLookupString(ctypes.byref(event), None, 0, ctypes.byref(keysym), None)
            # XLookupString selects map changes at its first call. An idle program would flush.
            self._x.XSync(self._display, 0)
            return Event("key", _KEY_EVENTS[event.type], keysym.value, *at)
        if event.type in _BUTTON_EVENTS:
            return Event("button", _BUTTON_EVENTS[event.type], int(event.input.detail), *at)
        if event.type == _MAPPING_NOTIFY:
            self._x.XRefreshKeyboardMapping(ctypes.byref(event))
        return Event("motion", down=False, detail=0, x=at[0], y=at[1]) if event.type == _MOTION else None
