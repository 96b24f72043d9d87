"""Outgoing: what one client is sent next, out of what it asks for and what is pending for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from vramtap.display.region import Rect, Region, bounding_box
from vramtap.rfb.updates import PixelRect, Update

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vramtap.display.damage import Move
    from vramtap.rfb.connection import ServerConnection
    from vramtap.servers.base import ScreenLike, ViewerLike


class UpdateQueue:
    """What to send one client next: its requests on one side, what is pending for it on the other.

    A client that cannot follow a change of size keeps the size it was told: what fits is shown, the
    rest of a larger screen is cut off, and what a smaller one leaves free is black.

    Args:
        connection: The client's, its handshake done.
        screen: What it is shown.
        viewer: What is pending for it.
    """

    def __init__(self, connection: ServerConnection, screen: ScreenLike, viewer: ViewerLike) -> None:
        self.wake = asyncio.Event()
        """Set when `next` may have something."""
        self._connection = connection
        self._screen = screen
        self._viewer = viewer
        self._size = connection.width, connection.height
        self._asked = False
        self._area: Rect | None = None
        self._watch: asyncio.Task[None] | None = None
        # Pending where the client has not asked for it. Left in `viewer.backlog`, it would make the viewer
        # report a change at once, again and again.
        self._elsewhere = Region(screen.width, screen.height)
        self._margins_due = False

    def request(self, incremental: bool, area: Rect | None) -> None:
        """The client waits for an update; requests not yet answered are answered together."""
        self._asked = True
        if area is None:
            return
        before, self._area = self._area, area if self._area is None else bounding_box([self._area, area])
        if not incremental:
            self._viewer.backlog.add_area(area)
            self._margins_due = True
        if not incremental or self._area != before:
            # Look anew: there is something to send now, or among what was put aside there may be.
            self._stop_watching()

    def next(self) -> Update | None:
        """The next update, if there is something to say now; otherwise `wake` will be set.

        Raises:
            TargetGone: the target has ended.
        """
        self._follow_size()
        connection = self._connection
        if (self._asked or connection.is_urgent) and (notice := connection.notice()) is not None:
            return self._answered(notice)
        if self._asked and (margins := self._margins()):
            return self._answered(connection.begin_update((), margins))
        while self._asked:
            if self._watch is None:
                self._start_watching()
            if self._watch is not None and not self._watch.done():
                break
            self._finish_watching()
            update = self._take()
            if update is not None:
                return self._answered(update)
        if self._asked and connection.owes_extension_notice and not self._viewer.backlog:
            return self._answered(connection.begin_update((), ()))
        return None

    def stop(self) -> None:
        """The session ends."""
        self._stop_watching()

    def _answered(self, update: Update) -> Update:
        self._asked = False
        self._area = None
        self._stop_watching()
        return update

    def _follow_size(self) -> None:
        if self._viewer.backlog.resized:
            self._viewer.backlog.accept_size()
        size = self._screen.width, self._screen.height
        if size == self._size:
            return
        self._size = size
        self._elsewhere = Region(*size)
        if not self._connection.resize(*size):
            self._margins_due = True

    # Looking through the viewer: a task, as the client may ask for something else meanwhile.

    def _start_watching(self) -> None:
        backlog = self._viewer.backlog
        area = self._visible()
        tiles = self._elsewhere.round_out(area) if area is not None else None
        if tiles is not None:
            # What was put aside is asked for now.
            for rect in self._elsewhere.rects(tiles):
                backlog.add_area(rect)
            self._elsewhere.remove(tiles)
        self._watch = asyncio.create_task(self._viewer.changed())
        self._watch.add_done_callback(self._seen)

    def _seen(self, watch: asyncio.Task[None]) -> None:
        if watch is self._watch:
            self.wake.set()
        elif not watch.cancelled():
            watch.exception()  # Nobody asks any more; whoever does next will be told the same.

    def _finish_watching(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.result()
        # The change may have been of the size.
        self._follow_size()

    def _stop_watching(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()

    def _visible(self) -> Rect | None:
        """The part of the screen that the client asks for."""
        screen = Rect(0, 0, *self._size)
        return self._area.intersect(screen) if self._area is not None else None

    def _take(self) -> Update | None:
        """Everything pending in the area asked for, as the screen is now; None if that is nothing."""
        connection, backlog = self._connection, self._viewer.backlog
        notice = connection.notice()
        if notice is not None:
            return notice
        area = self._visible()
        moves: tuple[Move, ...] = ()
        pieces: list[PixelRect] = []
        if area is not None and backlog.touches(area):
            same_size = self._size == (connection.width, connection.height)
            copying = connection.encodings.copy_rect and same_size and not self._elsewhere
            moves, rects = backlog.take(area, moves=copying)
            pieces += self._pieces(rects)
        else:
            # Moves among it are given up: they may read what has just been put aside.
            for rect in backlog.take(Rect(0, 0, *self._size), moves=False).rects:
                self._elsewhere.add(rect)
        if not (moves or pieces or connection.owes_extension_notice):
            return None
        return connection.begin_update(moves, pieces)

    def _pieces(self, rects: Iterable[Rect]) -> Iterator[PixelRect]:
        """What of these both the screen and the client have."""
        width, height = self._size
        both = Rect(0, 0, min(width, self._connection.width), min(height, self._connection.height))
        for rect in rects:
            cut = rect.intersect(both)
            if cut is not None:
                yield PixelRect(cut, self._screen.pixels[cut.slices].copy())

    def _margins(self) -> list[PixelRect]:
        """Black where the client's framebuffer is larger than the screen, if that is due."""
        if not self._margins_due:
            return []
        self._margins_due = False
        (width, height), client = self._size, self._connection
        right = Rect(width, 0, client.width - width, client.height)
        below = Rect(0, height, min(width, client.width), client.height - height)
        margins = (rect for rect in (right, below) if rect.width > 0 and rect.height > 0)
        return [PixelRect(rect, np.zeros((rect.height, rect.width), dtype=np.uint32)) for rect in margins]
