"""`x11::DISPLAY`: an X server whose framebuffer lies in its memory - Xvfb, in all its flavours.

The picture is read from the server's process and the kernel logs the server's writes; the X protocol is
used to find the place, to hear of a new size, and for input. Nothing is drawn and no setting is changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
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
from vramtap.targets.process_exit import process_ended
from vramtap.targets.x11.connection import Link, parse_display, server_name
from vramtap.targets.x11.framebuffer_search import Candidate, find_headers, read_bytes
from vramtap.targets.x11.input import XInput
from vramtap.targets.x11.verify import RootFormat, root_format, root_size, shows_root
from vramtap.targets.x11.xwd import COLOR_BYTES, fixed_palette, palette

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from vramtap.keyboard.events import Input
    from vramtap.targets.url import TargetSpec

ATTACH_TIMEOUT_S: Final = 30.0
"""For all that is asked of the server while attaching; it takes about 50 ms."""
_EXIT_GRACE_S: Final = 1.0
"""The server closes its connections a moment before it has ended."""

_xproto: Final[Any] = xcffib.xproto
_ConnectionError: Final[Any] = xcffib.ConnectionException
_ProtocolError: Final[Any] = xcffib.ProtocolException

log = logging.getLogger(__name__)


class X11Target:
    """A screen of an X server of this machine.

    The size follows RANDR: Xvfb keeps its pixmap as it was made, and shows a smaller part of it.

    Args:
        spec: `x11::NUMBER`, or `x11::NUMBER.SCREEN`.

    Raises:
        UsageError: no display of this machine.
    """

    def __init__(self, spec: TargetSpec) -> None:
        self.url = spec.url
        self.display = parse_display(spec)
        self.extent: Extent
        self.input: Input | None = None
        self.tolerates_injection = False
        self.announces_mode = False
        self._activity: Observers[Callable[[], None]] = Observers()
        self.server = ""
        """What runs there (`Xvfb`)."""
        self._link: Link | None = None
        self._space: ProcessSpace | None = None
        self._place: Candidate
        self._format: RootFormat
        self._width = self._height = 0
        self._lost = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Connect and find the framebuffer; see `Target`."""
        attaching = asyncio.create_task(asyncio.to_thread(self._attach))
        try:
            await asyncio.shield(attaching)
            if self._link is not None:
                asyncio.get_running_loop().add_reader(self._link.fileno(), self._listen)
        except BaseException:
            # The thread ends by itself: everything in it is bounded. Its error, if any, has been said.
            await asyncio.gather(attaching, return_exceptions=True)
            await self._release()
            raise
        return self

    def _attach(self) -> None:
        link = self._link = Link(self.display)
        try:
            self._space = ProcessSpace(link.pid)
            self.server = server_name(link.pid)
            with link.guarded(ATTACH_TIMEOUT_S):
                # A space of its own: what the search reads is not what the tap reads.
                with contextlib.closing(ProcessSpace(link.pid)) as searched:
                    self._place = self._find(link, searched)
                mask = [_xproto.EventMask.StructureNotify]
                link.connection.core.ChangeWindowAttributes(link.root, _xproto.CW.EventMask, mask)
                # After the event is asked for: a change in between is seen by one or the other.
                self._width, self._height = root_size(link)
            self.input = XInput.connect(self.display)
        except _ConnectionError as error:
            what = f"the server hung up, or did not answer for {ATTACH_TIMEOUT_S:g} s"
            raise NotTappable("attach", self.url, what, "is it stopped, or grabbed by a client?") from error
        except TargetGone as error:
            raise NotFound("attach", self.url, f"pid {link.pid}: {error.reason}", "see vramtap ls") from error
        except KernelError as error:
            raise AttachError(
                "attach", self.url, f"{error.operation}: {error.reason}", error.remedy
            ) from error
        place = self._place
        first = place.address // PAGE_SIZE
        last = -(-(place.address + place.header.end_offset) // PAGE_SIZE)
        self.extent = Extent(self._space, first * PAGE_SIZE, last - first)
        self.announces_mode = self._announces_mode()
        log.info("%s: %s (pid %d), pixels in %s", self.url, self.server, link.pid, place.where)

    def _find(self, link: Link, space: ProcessSpace) -> Candidate:
        self._format = root_format(link)
        asked = f"{self.server} (pid {link.pid})"
        if self._format.pixel_format is None:
            what = f"{asked} shows pixels of depth {self._format.depth} that are not understood"
            raise NotTappable("attach", self.url, what, "start it with depth 24, 16, 15 or 8")
        mappings = procfs.read_maps(link.pid)
        found = find_headers(space, mappings, self._format.depth, self.display.screen)
        found = [one for one in found if one.header.bits_per_pixel == self._format.bits_per_pixel]
        shown = [one for one in found if shows_root(link, space, one, self._format.depth)]
        if len(shown) == 1:
            return shown[0]
        if shown:
            what = f"{asked} holds {len(shown)} pictures of its screen"
            raise NotTappable("attach", self.url, what, "a client keeps a copy of the framebuffer; end it")
        if found:
            what = f"none of {len(found)} framebuffers in {asked} agrees with what it shows"
            raise NotTappable("attach", self.url, what, "does its screen change all the time? try again")
        what = f"no framebuffer of Xvfb's kind in {asked}"
        remedy = "only Xvfb keeps its screen where it can be followed; run the programs in an Xvfb"
        raise NotTappable("attach", self.url, what, remedy)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of all keys, disconnect, let go of the process."""
        await self._release()

    async def _release(self) -> None:
        if isinstance(self.input, XInput):
            await self.input.close()
        link, self._link = self._link, None
        if link is not None:
            asyncio.get_running_loop().remove_reader(link.fileno())
            link.close()
        if self._space is not None:
            self._space.close()

    def _listen(self) -> None:
        """Take in what the server says: a new size, or that it has gone."""
        if self._link is None:
            return
        try:
            while (event := self._link.connection.poll_for_event()) is not None:
                if isinstance(event, _xproto.ConfigureNotifyEvent) and event.window == self._link.root:
                    self._width, self._height = int(event.width), int(event.height)
                    self._activity.notify()
        except _ProtocolError as error:
            log.warning("%s: the server reports %r", self.url, error)
        except _ConnectionError:
            asyncio.get_running_loop().remove_reader(self._link.fileno())
            self._lost.set()
            self._activity.notify()

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after the screen's size changed or the server hung up; see `Target`."""
        return self._activity.add(callback)

    async def mode(self) -> Mode | None:
        """The size as the server last told it, the layout as the header had it; see `Target`."""
        self._listen()
        if self._link is None or self._lost.is_set():
            raise TargetGone("X connection", str(self.display), f"{self._who()} closed it")
        header = self._place.header
        offset = self._place.address - self.extent.address + header.pixels_offset
        width, height = min(self._width, header.width), min(self._height, header.height)
        form, colors = self._format.pixel_format, self._palette()
        if form is None:
            return None
        try:
            return Mode(width, height, header.stride_bytes, form, offset, colors).fit(self.extent.size_bytes)
        except ModeError as error:
            log.warning("%s: %s", self.url, error)
            return None

    def _announces_mode(self) -> bool:
        """Whether a new size and new colours are both heard of.

        The size comes as an event. Of colours there is none: ColormapNotify tells that the root window's own
        map is installed or no longer, but not that another one is, nor that a colour is stored (X protocol,
        "ColormapNotify"). But Xvfb writes every colour it shows into the map before the pixels, mostly in
        the page in which they begin.
        """
        if self._format.pixel_format is not PixelFormat.C8 or self._format.fixed_colors:
            return True
        header, address = self._place.header, self._place.address
        return (address + header.header_bytes) // PAGE_SIZE == (address + header.pixels_offset) // PAGE_SIZE

    def _palette(self) -> tuple[int, ...] | None:
        """The colours of 8-bit pixels; a server rewrites them whenever a client wants others."""
        if self._format.pixel_format is not PixelFormat.C8 or self._space is None:
            return None
        if self._format.fixed_colors:
            return fixed_palette(self._format.masks)
        header, address = self._place.header, self._place.address
        return palette(read_bytes(self._space, address + header.header_bytes, header.colors * COLOR_BYTES))

    async def snapshot(self) -> NDArray[np.uint32]:
        """There is always a framebuffer, so this is not needed; see `Target`."""
        raise NotTappable("snapshot", self.url, "the framebuffer no longer fits its memory", "attach again")

    async def gone(self) -> str:
        """Wait until the server ends or closes our connection; see `Target`."""
        if self._space is None:
            return f"{self.url} was never attached"
        ended = asyncio.create_task(process_ended(self._space.pidfd))
        lost = asyncio.create_task(self._lost.wait())
        try:
            await asyncio.wait([ended, lost], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([ended], timeout=_EXIT_GRACE_S)
            return f"{self._who()} {'exited' if ended.done() else 'closed our connection'}"
        finally:
            ended.cancel()
            lost.cancel()

    def _who(self) -> str:
        return f"{self.server} (pid {self._space.pid if self._space else 0})"
