"""Target `x11::DISPLAY`: an X server whose framebuffer lies in its memory, which is Xvfb in all its variants.

vramtap reads the picture from the server's process, and the kernel logs the server's writes. The X protocol
serves to find the framebuffer, to learn of a new size, and for input. vramtap draws nothing and changes no
setting.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import xcffib
import xcffib.xproto

from vramtap.concurrency import Observers
from vramtap.display.mode import Mode, PixelFormat
from vramtap.errors import (
    AttachError,
    KernelError,
    ModeError,
    NotFound,
    NotTappable,
    TargetGone,
)
from vramtap.linux import procfs
from vramtap.memory.extent import Extent
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PAGE_SIZE
from vramtap.targets.process_exit import ProcessExit
from vramtap.targets.x11.connection import XConnection
from vramtap.targets.x11.framebuffer_search import Candidate, find_headers, read_bytes
from vramtap.targets.x11.input import XInput
from vramtap.targets.x11.server import ANSWER_TIMEOUT_S, parse_display, server_name
from vramtap.targets.x11.verify import RootFormat, root_format, root_size, shows_root
from vramtap.targets.x11.xwd import COLOR_BYTES, fixed_palette, palette

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from vramtap.keyboard.events import Input
    from vramtap.targets.url import TargetSpec
    from vramtap.targets.x11.server import Display

EXIT_GRACE_S: Final = 1.0
"""How long a server may take to end after it has closed its connections."""

_xproto: Final[Any] = xcffib.xproto
_ConnectionError: Final[Any] = xcffib.ConnectionException
_ProtocolError: Final[Any] = xcffib.ProtocolException

log: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class X11Timeouts:
    """Time limits of a tapped X server.

    Args:
        answer_s: For one answer while connecting, seconds.
        attach_s: For all questions to the server while attaching, seconds. They take about 50 ms.
    """

    answer_s: float = ANSWER_TIMEOUT_S
    attach_s: float = 30.0


class X11Target:
    """A screen of an X server of this machine.

    The size follows RANDR: Xvfb keeps its pixmap at the first size, and shows a smaller part of it.

    Args:
        spec: `x11::NUMBER` or `x11::NUMBER.SCREEN`.
        timeouts: Time limits.

    Raises:
        UsageError: it is not a display of this machine.
    """

    def __init__(self, spec: TargetSpec, *, timeouts: X11Timeouts | None = None) -> None:
        self.url: str = spec.url
        self.display: Display = parse_display(spec)
        self.extent: Extent
        self.input: Input | None = None
        self.tolerates_injection = False
        self.announces_mode: bool = False
        self.server: str = ""
        """Name of the server's program (`Xvfb`)."""
        self._timeouts = timeouts or X11Timeouts()
        self._activity: Observers[Callable[[], None]] = Observers()
        self._connection: XConnection | None = None
        self._space: ProcessSpace | None = None
        self._exit: ProcessExit | None = None
        self._framebuffer: Candidate
        self._format: RootFormat
        self._width = self._height = 0
        self._lost = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Connect and find the framebuffer; see `Target`."""
        attaching = asyncio.create_task(asyncio.to_thread(self._attach))
        try:
            await asyncio.shield(attaching)
            if self._space is not None:
                self._exit = ProcessExit(self._space.pidfd)
            if self._connection is not None:
                asyncio.get_running_loop().add_reader(self._connection.fileno(), self._read_events)
        except BaseException:
            # The thread ends by itself, because every step has a time limit. Its error was raised above.
            await asyncio.gather(attaching, return_exceptions=True)
            await self._release()
            raise
        return self

    def _attach(self) -> None:
        connection = XConnection(self.display, timeout_s=self._timeouts.answer_s)
        self._connection = connection
        try:
            self._space = ProcessSpace(connection.pid)
            self.server = server_name(connection.pid)
            with connection.guarded(self._timeouts.attach_s):
                # A separate space, so that the bytes that the search reads are not counted for the tap.
                with contextlib.closing(ProcessSpace(connection.pid)) as searched:
                    self._framebuffer = self._find_framebuffer(connection, searched)
                mask = [_xproto.EventMask.StructureNotify]
                connection.xcb.core.ChangeWindowAttributes(connection.root, _xproto.CW.EventMask, mask)
                # Read after the events are selected, so that no change is missed in between.
                self._width, self._height = root_size(connection)
            self.input = XInput.connect(self.display)
        except _ConnectionError as error:
            what = f"the server hung up, or did not answer for {self._timeouts.attach_s:g} s"
            raise NotTappable("attach", self.url, what, "is it stopped, or grabbed by a client?") from error
        except TargetGone as error:
            reason = f"pid {connection.pid}: {error.reason}"
            raise NotFound("attach", self.url, reason, "see vramtap ls") from error
        except KernelError as error:
            reason = f"{error.operation}: {error.reason}"
            raise AttachError("attach", self.url, reason, error.remedy) from error
        found = self._framebuffer
        first = found.address // PAGE_SIZE
        last = -(-(found.address + found.header.end_offset) // PAGE_SIZE)
        self.extent = Extent(self._space, first * PAGE_SIZE, last - first)
        self.announces_mode = self._announces_mode()
        log.info("%s: %s (pid %d), pixels in %s", self.url, self.server, connection.pid, found.where)

    def _find_framebuffer(self, connection: XConnection, space: ProcessSpace) -> Candidate:
        self._format = root_format(connection)
        server = f"{self.server} (pid {connection.pid})"
        if self._format.pixel_format is None:
            what = f"{server} shows pixels of depth {self._format.depth}, which vramtap does not support"
            raise NotTappable("attach", self.url, what, "start it with depth 24, 16, 15 or 8")
        mappings = procfs.read_maps(connection.pid)
        found = [
            candidate
            for candidate in find_headers(space, mappings, self._format.depth, self.display.screen)
            if candidate.header.bits_per_pixel == self._format.bits_per_pixel
        ]
        shown = [
            candidate for candidate in found if shows_root(connection, space, candidate, self._format.depth)
        ]
        if len(shown) == 1:
            return shown[0]
        if shown:
            what = f"{server} holds {len(shown)} pictures of its screen"
            raise NotTappable("attach", self.url, what, "a client keeps a copy of the framebuffer; end it")
        if found:
            what = f"none of {len(found)} framebuffers in {server} agrees with what it shows"
            raise NotTappable("attach", self.url, what, "does its screen change all the time? try again")
        what = f"no framebuffer of Xvfb's kind in {server}"
        remedy = "vramtap can follow only the screen of an Xvfb; run the programs in an Xvfb"
        raise NotTappable("attach", self.url, what, remedy)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release all keys, disconnect, and close the server's memory; see `Target`."""
        await self._release()

    async def _release(self) -> None:
        if isinstance(self.input, XInput):
            await self.input.close()
        connection, self._connection = self._connection, None
        if connection is not None:
            asyncio.get_running_loop().remove_reader(connection.fileno())
            connection.close()
        if self._exit is not None:
            self._exit.close()
        if self._space is not None:
            self._space.close()

    def _read_events(self) -> None:
        """Read the server's events: a new size, or the end of the connection."""
        if self._connection is None:
            return
        try:
            while (event := self._connection.xcb.poll_for_event()) is not None:
                if isinstance(event, _xproto.ConfigureNotifyEvent) and event.window == self._connection.root:
                    self._width, self._height = int(event.width), int(event.height)
                    self._activity.notify()
        except _ProtocolError as error:
            log.warning("%s: the server reports %r", self.url, error)
        except _ConnectionError:
            asyncio.get_running_loop().remove_reader(self._connection.fileno())
            self._lost.set()
            self._activity.notify()

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after the screen's size changed or the server hung up; see `Target`."""
        return self._activity.add(callback)

    async def mode(self) -> Mode | None:
        """Return the mode: the size from the last event, the layout from the header; see `Target`."""
        self._read_events()
        if self._connection is None or self._lost.is_set():
            raise TargetGone("X connection", str(self.display), f"{self._server_process()} closed it")
        header = self._framebuffer.header
        offset = self._framebuffer.address - self.extent.address + header.pixels_offset
        width, height = min(self._width, header.width), min(self._height, header.height)
        pixel_format, colors = self._format.pixel_format, self._palette()
        if pixel_format is None:
            return None
        try:
            mode = Mode(width, height, header.stride_bytes, pixel_format, offset, colors)
            return mode.fit(self.extent.size_bytes)
        except ModeError as error:
            log.warning("%s: %s", self.url, error)
            return None

    def _announces_mode(self) -> bool:
        """Return whether both a new size and new colours announce themselves.

        The server sends an event for a new size, but none for new colours: ColormapNotify says that the root
        window's own map is installed or uninstalled, but not that another map is installed or that a colour
        is stored (X protocol, "ColormapNotify"). But Xvfb writes every colour it shows into the colour map
        before the pixels. In most cases the map lies in the page in which the pixels begin.
        """
        if self._format.pixel_format is not PixelFormat.C8 or self._format.fixed_colors:
            return True
        header, address = self._framebuffer.header, self._framebuffer.address
        return (address + header.header_bytes) // PAGE_SIZE == (address + header.pixels_offset) // PAGE_SIZE

    def _palette(self) -> tuple[int, ...] | None:
        """Return the colours of 8-bit pixels. The server rewrites them when a client wants other colours."""
        if self._format.pixel_format is not PixelFormat.C8 or self._space is None:
            return None
        if self._format.fixed_colors:
            return fixed_palette(self._format.masks)
        header, address = self._framebuffer.header, self._framebuffer.address
        return palette(read_bytes(self._space, address + header.header_bytes, header.colors * COLOR_BYTES))

    async def snapshot(self) -> NDArray[np.uint32]:
        """Raise `NotTappable`: an X server always has a framebuffer; see `Target`."""
        raise NotTappable("snapshot", self.url, "the framebuffer no longer fits its memory", "attach again")

    async def gone(self) -> str:
        """Wait until the server ends or closes the connection; see `Target`."""
        if self._exit is None:
            return f"{self.url} was never attached"
        exited = await self._exit.wait_or_lost(self._lost.wait(), grace_s=EXIT_GRACE_S)
        return f"{self._server_process()} {'exited' if exited else 'closed the connection'}"

    def _server_process(self) -> str:
        return f"{self.server} (pid {self._space.pid if self._space else 0})"
