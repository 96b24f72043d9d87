"""UpdateQueue: the next update for one client, made from its requests and its pending damage."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from vramtap.display.region import Rect, Region, bounding_box
from vramtap.rfb.updates import FramebufferUpdate, PixelRect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vramtap.display.damage import Move
    from vramtap.display.screen import Screen
    from vramtap.rfb.connection import ServerConnection
    from vramtap.tap.viewer import Viewer


class UpdateQueue:
    """Decides what one client gets next: its requests come in, updates come out.

    A client that cannot follow a change of size keeps its framebuffer size. It gets the part of a larger
    screen that fits, and black around a smaller one.

    Args:
        connection: The client's connection, after the handshake.
        screen: The screen that the client sees.
        viewer: Holds the damage that is pending for this client.
    """

    def __init__(self, connection: ServerConnection, screen: Screen, viewer: Viewer) -> None:
        self.wake: asyncio.Event = asyncio.Event()
        """Set when `next` may return an update."""
        self._connection = connection
        self._screen = screen
        self._viewer = viewer
        self._size = connection.width, connection.height
        self._requested = False
        self._area: Rect | None = None
        self._change: asyncio.Task[None] | None = None
        # Damage outside the requested area. If it stayed in `viewer.backlog`, `viewer.changed` would return
        # at once, again and again.
        self._outside = Region(screen.width, screen.height)
        self._margins_due = False

    def request(self, area: Rect | None, *, incremental: bool) -> None:
        """Take a FramebufferUpdateRequest. One update answers all requests that are open.

        Args:
            area: The area that the client wants, None if it is empty.
            incremental: Whether the client wants changes only.
        """
        self._requested = True
        if area is None:
            return
        before, self._area = self._area, area if self._area is None else bounding_box([self._area, area])
        if not incremental:
            self._viewer.backlog.add_area(area)
            self._margins_due = True
        if not incremental or self._area != before:
            # There is damage to send now, or damage that was outside is in the area now: start waiting again.
            self._stop_waiting()

    def next(self) -> FramebufferUpdate | None:
        """Return the next update, None if there is nothing to send now. Then `wake` announces the next one.

        Raises:
            TargetGone: The target has ended.
        """
        self._follow_size()
        connection = self._connection
        if (self._requested or connection.size_update_is_urgent) and (
            notice := connection.size_update()
        ) is not None:
            return self._answer(notice)
        if self._requested and (margins := self._margins()):
            return self._answer(connection.begin_update((), margins))
        while self._requested:
            if self._change is None:
                self._start_waiting()
            if self._change is not None and not self._change.done():
                break
            self._finish_waiting()
            update = self._take_pending()
            if update is not None:
                return self._answer(update)
        if self._requested and connection.key_rect_due and not self._viewer.backlog:
            return self._answer(connection.begin_update((), ()))
        return None

    def stop(self) -> None:
        """Stop waiting for changes: the session ends."""
        self._stop_waiting()

    def _answer(self, update: FramebufferUpdate) -> FramebufferUpdate:
        """Close all open requests with this update."""
        self._requested = False
        self._area = None
        self._stop_waiting()
        return update

    def _follow_size(self) -> None:
        """Take over the screen's size if it changed."""
        if self._viewer.backlog.resized:
            self._viewer.backlog.accept_size()
        size = self._screen.width, self._screen.height
        if size == self._size:
            return
        self._size = size
        self._outside = Region(*size)
        if not self._connection.resize(*size):
            self._margins_due = True

    # A task waits for the next change, because the client may send another request meanwhile.

    def _start_waiting(self) -> None:
        backlog = self._viewer.backlog
        area = self._visible_area()
        tiles = self._outside.round_out(area) if area is not None else None
        if tiles is not None:
            # The client now requests an area with damage that was outside before.
            for rect in self._outside.rects(tiles):
                backlog.add_area(rect)
            self._outside.remove(tiles)
        self._change = asyncio.create_task(self._viewer.changed())
        self._change.add_done_callback(self._on_change)

    def _on_change(self, change: asyncio.Task[None]) -> None:
        if change is self._change:
            self.wake.set()
        elif not change.cancelled():
            change.exception()  # Mark it as retrieved. The next wait meets the same error.

    def _finish_waiting(self) -> None:
        change, self._change = self._change, None
        if change is not None:
            change.result()
        # The change may have been one of the size.
        self._follow_size()

    def _stop_waiting(self) -> None:
        change, self._change = self._change, None
        if change is not None:
            change.cancel()

    def _visible_area(self) -> Rect | None:
        """Return the part of the screen that the client requests."""
        screen = Rect(0, 0, *self._size)
        return self._area.intersect(screen) if self._area is not None else None

    def _take_pending(self) -> FramebufferUpdate | None:
        """Return an update of all pending damage in the requested area, None if there is none."""
        connection, backlog = self._connection, self._viewer.backlog
        notice = connection.size_update()
        if notice is not None:
            return notice
        area = self._visible_area()
        moves: tuple[Move, ...] = ()
        pieces: list[PixelRect] = []
        if area is not None and backlog.touches(area):
            same_size = self._size == (connection.width, connection.height)
            copying = connection.encodings.copy_rect and same_size and not self._outside
            moves, rects = backlog.take(area, moves=copying)
            pieces += self._pixels_of(rects)
        else:
            # This turns pending moves into rectangles: a move may read pixels that go to `_outside` here.
            for rect in backlog.take(Rect(0, 0, *self._size), moves=False).rects:
                self._outside.add(rect)
        if not (moves or pieces or connection.key_rect_due):
            return None
        return connection.begin_update(moves, pieces)

    def _pixels_of(self, rects: Iterable[Rect]) -> Iterator[PixelRect]:
        """Yield a copy of the pixels in these rectangles, cut to both the screen and the client."""
        width, height = self._size
        both = Rect(0, 0, min(width, self._connection.width), min(height, self._connection.height))
        for rect in rects:
            cut = rect.intersect(both)
            if cut is not None:
                yield PixelRect(cut, self._screen.pixels[cut.slices].copy())

    def _margins(self) -> list[PixelRect]:
        """Return black rectangles for the client's framebuffer outside the screen, if they are due."""
        if not self._margins_due:
            return []
        self._margins_due = False
        (width, height), client = self._size, self._connection
        right = Rect(width, 0, client.width - width, client.height)
        below = Rect(0, height, min(width, client.width), client.height - height)
        margins = (rect for rect in (right, below) if rect.width > 0 and rect.height > 0)
        return [PixelRect(rect, np.zeros((rect.height, rect.width), dtype=np.uint32)) for rect in margins]
