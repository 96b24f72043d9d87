"""An X client that draws on the root window, reads its pixels, and receives input."""

from __future__ import annotations

import selectors
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, cast

import numpy as np
import xcffib
import xcffib.xproto as x

from support.testbed.errors import TestbedError

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

_ALL_PLANES: Final = 0xFFFFFFFF
_Z_PIXMAP: Final = 2
_PUT_LIMIT_BYTES: Final = 128 * 1024
"""Size of one PutImage. Every server accepts 256 KiB per request without the BIG-REQUESTS extension."""
_BITS_565: Final = (5, 6, 5)


class Input(NamedTuple):
    """An input event that the client received.

    Args:
        kind: `key`, `button` or `motion`.
        down: Pressed; False for a release and for motion.
        detail: Keysym of a key, number of a button, 0 for motion.
        x: Pointer position on the root window.
        y: Pointer position on the root window.
    """

    kind: str
    down: bool
    detail: int
    x: int
    y: int


class XClient:
    """A connection to one display, open inside the `with` block.

    Every drawing method returns when the server has drawn.

    Args:
        display: Value of DISPLAY (`:3`).
    """

    def __init__(self, display: str) -> None:
        # xcffib is marked as typed, but the code that it generates at run time has no types.
        connect: Any = xcffib.connect
        self._connection: Any = connect(display)
        setup = self._connection.get_setup()
        screen = setup.roots[self._connection.pref_screen]
        self._root = screen.root
        self._colormap = screen.default_colormap
        self.width = int(screen.width_in_pixels)
        """Size of the root window at the time of the connection, pixels."""
        self.height = int(screen.height_in_pixels)
        """Size of the root window at the time of the connection, pixels."""
        self.depth = int(screen.root_depth)
        """Depth of the root window, bits."""
        self._bits_per_pixel = {int(f.depth): int(f.bits_per_pixel) for f in setup.pixmap_formats}[self.depth]
        self._min_keycode, self._max_keycode = int(setup.min_keycode), int(setup.max_keycode)
        self._gc = self._connection.generate_id()
        self._connection.core.CreateGC(
            self._gc, self._root, x.GC.SubwindowMode, [x.SubwindowMode.IncludeInferiors]
        )

    def __enter__(self) -> Self:
        """Return the client. The constructor has connected already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self._connection.disconnect()

    def fill(self, left: int, top: int, width: int, height: int, pixel: int) -> None:
        """Fill a rectangle.

        Args:
            left: Pixels.
            top: Pixels.
            width: Pixels.
            height: Pixels.
            pixel: Pixel in the root window's format.
        """
        core, rectangle_type = self._connection.core, cast("Any", x.RECTANGLE)
        core.ChangeGC(self._gc, x.GC.Foreground, [pixel])
        rectangle = rectangle_type.synthetic(left, top, width, height)
        core.PolyFillRectangle(self._root, self._gc, 1, [rectangle])
        self.sync()

    def put(self, left: int, top: int, pixels: NDArray[Any]) -> None:
        """Draw a picture.

        Args:
            left: Pixels.
            top: Pixels.
            pixels: Shape `(height, width)`, in the root window's format and pixel size.
        """
        if pixels.dtype.itemsize * 8 != self._bits_per_pixel:
            raise ValueError(f"pixels of {pixels.dtype} for a root window of {self._bits_per_pixel} bits")
        height, width = pixels.shape
        row_bytes = -(-width * pixels.dtype.itemsize // 4) * 4  # scanlines are padded to 32 bits
        rows = np.zeros((height, row_bytes), np.uint8)
        rows[:, : width * pixels.dtype.itemsize] = np.ascontiguousarray(pixels).view(np.uint8)
        step = max(1, _PUT_LIMIT_BYTES // row_bytes)
        for first in range(0, height, step):
            part = rows[first : first + step]
            self._connection.core.PutImage(
                _Z_PIXMAP, self._root, self._gc, width, len(part), left, top + first, 0, self.depth,
                part.size, part.tobytes(),
            )  # fmt: skip
        self.sync()

    def copy(self, left: int, top: int, width: int, height: int, to_left: int, to_top: int) -> None:
        """Copy a rectangle to another position, as scrolling does."""
        self._connection.core.CopyArea(
            self._root, self._root, self._gc, left, top, to_left, to_top, width, height
        )
        self.sync()

    def pixels(self) -> NDArray[np.uint32]:
        """Return the root window as the server shows it: the ground truth.

        Returns:
            Shape `(height, width)`, `0x00RRGGBB`.
        """
        geometry = self._connection.core.GetGeometry(self._root).reply()
        width, height = int(geometry.width), int(geometry.height)
        image = self._connection.core.GetImage(
            _Z_PIXMAP, self._root, 0, 0, width, height, _ALL_PLANES
        ).reply()
        item = {8: np.uint8, 16: np.uint16, 32: np.uint32}[self._bits_per_pixel]
        data = np.frombuffer(image.data.buf(), np.uint8).reshape(height, -1)
        row_bytes = width * self._bits_per_pixel // 8
        raw = np.ascontiguousarray(data[:, :row_bytes]).view(item)
        if self.depth == 24:
            return raw.astype(np.uint32) & np.uint32(0xFFFFFF)
        colors: NDArray[np.uint32] = self._table()[raw]
        return colors

    def sync(self) -> None:
        """Wait until the server has processed all requests."""
        self._connection.core.GetInputFocus().reply()
        self._connection.flush()

    def listen(self) -> None:
        """Receive all key and pointer events from now on; `next_input` returns them."""
        window = self._connection.generate_id()
        events = x.EventMask.KeyPress | x.EventMask.KeyRelease
        events |= x.EventMask.ButtonPress | x.EventMask.ButtonRelease | x.EventMask.PointerMotion
        core = self._connection.core
        core.CreateWindow(
            0, window, self._root, 0, 0, self.width, self.height, 0, x.WindowClass.InputOnly, 0,
            x.CW.OverrideRedirect | x.CW.EventMask, [1, events],
        )  # fmt: skip
        core.MapWindow(window)
        core.SetInputFocus(x.InputFocus.PointerRoot, window, x.Time.CurrentTime)
        self.sync()

    def next_input(self, timeout_s: float = 30) -> Input:
        """Wait for the next input event.

        Raises:
            TestbedError: No event came in this time.
        """
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection.get_file_descriptor(), selectors.EVENT_READ)
            while True:
                event = self._connection.poll_for_event()
                found = self._input(event) if event is not None else None
                if found is not None:
                    return found
                if event is None and not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TestbedError(f"no input event after {timeout_s:.0f} s")

    def _input(self, event: Any) -> Input | None:  # noqa: ANN401 - xcffib's events share no typed base
        at = (int(event.root_x), int(event.root_y)) if hasattr(event, "root_x") else (0, 0)
        if isinstance(event, (x.KeyPressEvent, x.KeyReleaseEvent)):
            return Input("key", isinstance(event, x.KeyPressEvent), self._keysym(int(event.detail)), *at)
        if isinstance(event, (x.ButtonPressEvent, x.ButtonReleaseEvent)):
            return Input("button", isinstance(event, x.ButtonPressEvent), int(event.detail), *at)
        if isinstance(event, x.MotionNotifyEvent):
            return Input("motion", False, 0, *at)
        return None

    def _keysym(self, keycode: int) -> int:
        reply = self._connection.core.GetKeyboardMapping(keycode, 1).reply()
        return int(reply.keysyms[0])

    def _table(self) -> NDArray[np.uint32]:
        """Return the color of every pixel value of a root window with 8 or 16 bits."""
        if self.depth == 8:
            colors = self._connection.core.QueryColors(self._colormap, 256, list(range(256))).reply().colors
            return np.array(
                [(c.red >> 8) << 16 | (c.green >> 8) << 8 | c.blue >> 8 for c in colors], np.uint32
            )
        if self.depth != 16:
            raise TestbedError(f"root window of depth {self.depth}")
        values = np.arange(1 << 16, dtype=np.uint32)
        table = np.zeros(1 << 16, np.uint32)
        shift = 16
        for bits in _BITS_565:
            shift -= bits
            channel = values >> np.uint32(shift) & np.uint32((1 << bits) - 1)
            # The lowest bits repeat the highest, so full intensity stays full.
            wide = channel << np.uint32(8 - bits) | channel >> np.uint32(2 * bits - 8)
            table = table << np.uint32(8) | wide
        return table
