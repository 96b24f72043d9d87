"""Screen: our copy of the pixels, brought up to date from the pages that were written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.display.changes import ChangeFinder
from vramtap.display.damage import Damage, Move
from vramtap.display.mode import MAX_DIMENSION, MAX_PIXELS, Mode
from vramtap.display.motion import find_move
from vramtap.display.pixels import to_xr24
from vramtap.display.region import Rect
from vramtap.errors import ModeError
from vramtap.pages import PAGE_SIZE, PageRuns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from vramtap.memory.extent import Extent

JOIN_ROWS: Final = 16
"""Bands of rows with fewer rows than this between them are treated as one: sixteen rows of 1920 pixels take
20 us to convert and compare, about what a band of its own costs in calls."""


class Screen:
    """Our copy of what a target shows: `0x00RRGGBB`, of no size until something was read."""

    def __init__(self) -> None:
        self._mode: Mode | None = None
        self._raw: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)
        self._unread = True
        self._reconvert = False
        self._own(np.zeros((0, 0), dtype=np.uint32))

    @property
    def mode(self) -> Mode | None:
        """The geometry that `refresh` reads with; None for a screen that was last replaced."""
        return self._mode

    @property
    def pixels(self) -> NDArray[np.uint32]:
        """Shape `(height, width)`, `0x00RRGGBB`; a read-only view that follows every refresh of this size."""
        return self._view

    @property
    def width(self) -> int:
        """Of `pixels`: a new mode's size holds from the first refresh that read it."""
        return int(self._pixels.shape[1])

    @property
    def height(self) -> int:
        """Of `pixels`: a new mode's size holds from the first refresh that read it."""
        return int(self._pixels.shape[0])

    @property
    def window(self) -> tuple[int, int]:
        """Half-open range of the extent's pages that hold pixels; empty without a mode."""
        return self._mode.window if self._mode is not None else (0, 0)

    def set_mode(self, mode: Mode) -> bool:
        """Take another geometry, from the next refresh on; until then the old pixels stay.

        Returns:
            Whether that refresh has to read the whole window, and will, whatever runs it is given.
            A palette alone needs no reading: the next refresh, of no pages even, gives its damage.
        """
        old = self._mode
        if old is None or old.format is not mode.format or replace(old, palette=mode.palette) != mode:
            self._unread = True
        elif old.palette != mode.palette:
            self._reconvert = True
        self._mode = mode
        return self._unread

    def refresh(self, extent: Extent, runs: PageRuns) -> Damage:
        """Read the pages that were written and find what changed.

        Args:
            extent: Where the scanout lies.
            runs: Pages written; those outside the window are left alone.

        Returns:
            The exact damage between the old pixels and the new.

        Raises:
            ValueError: there is no mode.
            ModeError: the extent is too small for the mode.
            TargetGone: whose memory it is has ended.
            KernelError: a page could not be read. As with every error, the pixels are unchanged, and the
                caller gives the runs to another refresh: nothing is lost.
        """
        mode = self._mode
        if mode is None:
            raise ValueError("refresh of a screen without a mode")
        first, last = mode.window
        if self._unread:
            mode.fit(extent.size_bytes)
            runs = PageRuns([(first, last)])
            if len(self._raw) != (last - first) * PAGE_SIZE:
                self._raw = np.empty(0, dtype=np.uint8)  # two of them need not fit
                self._raw = np.empty((last - first) * PAGE_SIZE, dtype=np.uint8)
        else:
            runs = runs.clip(first, last)
        # Read each page once, into a raw copy of the scanout's bytes, and work on the copy from there on.
        # The obvious way reads the memory twice: compare it with our pixels, then convert it where it
        # differs. The guest draws on meanwhile. A write that lands after its tile was compared, but before
        # a rectangle with that tile in it is converted, is then in our pixels without being in any damage.
        # Its page is reported again, but the comparison finds the pixel there already and sees no change.
        # No viewer is ever told: a wrong pixel that stays. With one read there is one version of every
        # byte. What lands later is not in it, and since trackers clear their log before we read, its page
        # is in their next answer and differs then.
        # The copy also has the bytes of the pages that were not written, so that pixels across two pages
        # (three bytes each, or rows at an odd offset) come out whole.
        extent.read(runs, into=self._raw, base_page=first)
        bands = [(0, mode.height)] if self._unread or self._reconvert else row_bands(runs, mode)
        rows = np.ndarray(
            (mode.height, mode.width * mode.format.bytes_per_pixel),
            dtype=np.uint8,
            buffer=self._raw.data,
            offset=mode.offset_bytes - first * PAGE_SIZE,
            strides=(mode.stride_bytes, 1),
        )
        # The new pixels are half made until this ends well: after any error all is done anew.
        self._unread = True
        new = self._canvas(mode.width, mode.height)
        for top, bottom in bands:
            to_xr24(rows[top:bottom], mode, out=new[top:bottom])
        damage = self._accept(new, bands, runs.count)
        self._unread = self._reconvert = False
        return damage

    def replace(self, pixels: NDArray[np.uint32]) -> Damage:
        """Take the whole screen from elsewhere: the target shows something that is no linear framebuffer.

        Args:
            pixels: Shape `(height, width)`, `0xXXRRGGBB`; copied.

        Returns:
            The exact damage between the old pixels and these.

        Raises:
            ModeError: they are no screen, or too large for one.
        """
        if pixels.ndim != 2 or not pixels.size:
            raise ModeError("replace", f"pixels of shape {pixels.shape}", "not a screen")
        height, width = pixels.shape
        if max(width, height) > MAX_DIMENSION or width * height > MAX_PIXELS:
            raise ModeError("replace", f"{width}x{height}", "larger than any screen")
        self._mode = None
        self._unread = True
        new = self._canvas(width, height)
        np.bitwise_and(pixels, 0xFFFFFF, out=new)
        return self._accept(new, [(0, height)], pages=0)

    def _own(self, pixels: NDArray[np.uint32]) -> None:
        """Begin with these pixels, of whatever size."""
        height, width = pixels.shape
        # Equal between two refreshes; during one, `_next` is the new state and `_pixels` the old.
        self._pixels, self._next = pixels.copy(), pixels
        self._changes = ChangeFinder(width, height)
        self._view = self._pixels.view()
        self._view.flags.writeable = False

    def _canvas(self, width: int, height: int) -> NDArray[np.uint32]:
        """Where the new state is made: what is not drawn over is as before, if the size is."""
        if (height, width) == self._next.shape:
            return self._next
        return np.zeros((height, width), dtype=np.uint32)

    def _accept(self, new: NDArray[np.uint32], bands: Sequence[tuple[int, int]], pages: int) -> Damage:
        """Make the new state the old one, and say what that changed."""
        height, width = new.shape
        if new is not self._next:
            self._own(new)
            return Damage(width, height, (Rect(0, 0, width, height),), resized=True, pages=pages)
        rects = tuple(self._changes.find(self._pixels, new, bands))
        move = find_move(self._pixels, new, rects)
        moves: tuple[Move, ...] = () if move is None else (move,)
        for rect in rects:
            np.copyto(self._pixels[rect.slices], new[rect.slices])
        return Damage(width, height, rects, moves, pages=pages)


def row_bands(runs: PageRuns, mode: Mode) -> list[tuple[int, int]]:
    """The rows with a pixel on any of these pages.

    Args:
        runs: Pages relative to the extent, of the mode's window or not.
        mode: Says where rows begin and how long they are; padding between them belongs to none.

    Returns:
        Half-open, sorted, disjoint; bands nearer than `JOIN_ROWS` are joined.
    """
    bytes_in = runs.array * PAGE_SIZE - mode.offset_bytes
    row_bytes = mode.width * mode.format.bytes_per_pixel
    # The first row that ends past the run's first byte, and the first that begins at or past its last.
    tops = np.maximum((bytes_in[:, 0] - row_bytes) // mode.stride_bytes + 1, 0)
    bottoms = np.minimum(-(-bytes_in[:, 1] // mode.stride_bytes), mode.height)
    some = tops < bottoms
    tops, bottoms = tops[some], bottoms[some]
    if not len(tops):
        return []
    apart = np.flatnonzero(tops[1:] - bottoms[:-1] >= JOIN_ROWS)
    starts = [int(tops[0]), *tops[apart + 1].tolist()]
    ends = [*bottoms[apart].tolist(), int(bottoms[-1])]
    return list(zip(starts, ends, strict=True))
