"""Screen: vramtap's copy of the pixels. It is updated from the pages that were written."""

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
"""Bands with fewer rows than this between them are joined. To convert and compare sixteen rows of 1920 pixels
takes 20 us, which is about the overhead of a separate band."""


class Screen:
    """vramtap's copy of the pixels that a target shows, `0x00RRGGBB`. It is 0x0 until the first update."""

    def __init__(self) -> None:
        self._mode: Mode | None = None
        self._raw: NDArray[np.uint8] = np.empty(0, dtype=np.uint8)
        self._unread = True
        self._reconvert = False
        self._start_with(np.zeros((0, 0), dtype=np.uint32))

    @property
    def mode(self) -> Mode | None:
        """The mode that `refresh` uses. None before `set_mode`, and after `replace`."""
        return self._mode

    @property
    def pixels(self) -> NDArray[np.uint32]:
        """The pixels, shape `(height, width)`, `0x00RRGGBB`.

        This is a read-only view. Later updates change its content as long as the size stays the same.
        """
        return self._view

    @property
    def width(self) -> int:
        """Width of `pixels`. A new mode changes it at the next refresh."""
        return int(self._pixels.shape[1])

    @property
    def height(self) -> int:
        """Height of `pixels`. A new mode changes it at the next refresh."""
        return int(self._pixels.shape[0])

    @property
    def window(self) -> tuple[int, int]:
        """Half-open range `[first, last)` of the extent's pages that hold pixels. Empty without a mode."""
        return self._mode.window if self._mode is not None else (0, 0)

    def set_mode(self, mode: Mode) -> bool:
        """Set the mode for the next refresh. Until then the old pixels stay.

        Returns:
            Whether the next refresh reads the whole window, whatever its page runs are. A change of the
            palette alone needs no reading: the next refresh returns its damage, even with no page runs.
        """
        old = self._mode
        if old is None or old.format is not mode.format or replace(old, palette=mode.palette) != mode:
            self._unread = True
        elif old.palette != mode.palette:
            self._reconvert = True
        self._mode = mode
        return self._unread

    def refresh(self, extent: Extent, runs: PageRuns) -> Damage:
        """Read the pages that were written, and return the damage.

        If this raises, the pixels are unchanged. The caller passes the runs to a later refresh, so no change
        is lost.

        Args:
            extent: The extent that holds the scanout.
            runs: Pages that were written. Pages outside the window are ignored.

        Returns:
            The exact difference between the old pixels and the new.

        Raises:
            ValueError: there is no mode.
            ModeError: the extent is too small for the mode.
            TargetGone: the target ended.
            KernelError: a page could not be read.
        """
        mode = self._mode
        if mode is None:
            raise ValueError("refresh of a screen without a mode: call set_mode first")
        first, last = mode.window
        if self._unread:
            mode.fit(extent.size_bytes)
            runs = PageRuns([(first, last)])
            if len(self._raw) != (last - first) * PAGE_SIZE:
                self._raw = np.empty(
                    0, dtype=np.uint8
                )  # free the old array first: memory for both may be missing
                self._raw = np.empty((last - first) * PAGE_SIZE, dtype=np.uint8)
        else:
            runs = runs.clip(first, last)
        # Read each page once, into a raw copy of the scanout's bytes. Only the copy is used from here on.
        #
        # Facts: the guest goes on drawing during a refresh. To compare the memory with the screen's pixels
        # and then to convert the tiles that differ would read the memory twice.
        # Consequence: a write between the two reads of a tile gets into the pixels without being in any
        # damage. The tracker reports its page again, but the next comparison finds equal pixels and reports
        # no change. The viewers keep a wrong pixel for good.
        # Decision: one read, so there is one version of every byte. A later write is not in this version.
        # Trackers clear their log before the pages are read, so the next answer has the page of that write,
        # and the comparison then finds the difference.
        #
        # The copy also keeps the bytes of pages that were not written. So a pixel that crosses from one page
        # to the next (three bytes per pixel, or an odd offset) is complete.
        extent.read(runs, into=self._raw, base_page=first)
        bands = [(0, mode.height)] if self._unread or self._reconvert else row_bands(runs, mode)
        rows = np.ndarray(
            (mode.height, mode.width * mode.format.bytes_per_pixel),
            dtype=np.uint8,
            buffer=self._raw.data,
            offset=mode.offset_bytes - first * PAGE_SIZE,
            strides=(mode.stride_bytes, 1),
        )
        # Until this succeeds, the new pixels are incomplete. After an error the next refresh reads all.
        self._unread = True
        new = self._canvas(mode.width, mode.height)
        for top, bottom in bands:
            to_xr24(rows[top:bottom], mode, out=new[top:bottom])
        damage = self._publish(new, bands, runs.count)
        self._unread = self._reconvert = False
        return damage

    def replace(self, pixels: NDArray[np.uint32]) -> Damage:
        """Replace all pixels, and clear the mode. For a target that does not show a linear framebuffer.

        Args:
            pixels: Shape `(height, width)`, `0xXXRRGGBB`. They are copied.

        Returns:
            The exact difference between the old pixels and these.

        Raises:
            ModeError: the shape is not that of a screen, or is too large.
        """
        if pixels.ndim != 2 or not pixels.size:
            raise ModeError("replace", f"pixels of shape {pixels.shape}", "not the shape of a screen")
        height, width = pixels.shape
        if max(width, height) > MAX_DIMENSION or width * height > MAX_PIXELS:
            raise ModeError(
                "replace", f"{width}x{height}", f"more than {MAX_DIMENSION} a side or {MAX_PIXELS} pixels"
            )
        self._mode = None
        self._unread = True
        new = self._canvas(width, height)
        np.bitwise_and(pixels, 0xFFFFFF, out=new)
        return self._publish(new, [(0, height)], pages=0)

    def _start_with(self, pixels: NDArray[np.uint32]) -> None:
        """Start with these pixels. Their size may be new."""
        height, width = pixels.shape
        # Both are equal between two refreshes. During one, `_next` is the new state and `_pixels` the old.
        self._pixels, self._next = pixels.copy(), pixels
        self._changes = ChangeFinder(width, height)
        self._view = self._pixels.view()
        self._view.flags.writeable = False

    def _canvas(self, width: int, height: int) -> NDArray[np.uint32]:
        """Return the array for the new state. If the size stays the same, it holds the old state."""
        if (height, width) == self._next.shape:
            return self._next
        return np.zeros((height, width), dtype=np.uint32)

    def _publish(self, new: NDArray[np.uint32], bands: Sequence[tuple[int, int]], pages: int) -> Damage:
        """Make `new` the current state, and return the damage."""
        height, width = new.shape
        if new is not self._next:
            self._start_with(new)
            return Damage(width, height, (Rect(0, 0, width, height),), resized=True, pages=pages)
        rects = tuple(self._changes.find(self._pixels, new, bands))
        move = find_move(self._pixels, new, rects)
        moves: tuple[Move, ...] = () if move is None else (move,)
        for rect in rects:
            np.copyto(self._pixels[rect.slices], new[rect.slices])
        return Damage(width, height, rects, moves, pages=pages)


def row_bands(runs: PageRuns, mode: Mode) -> list[tuple[int, int]]:
    """Return the rows that have a pixel on any of the pages.

    Args:
        runs: Page runs relative to the extent. They may lie outside the mode's window.
        mode: The screen's mode. The padding between rows belongs to no row.

    Returns:
        Half-open ranges of rows, sorted and disjoint. Bands that are nearer than `JOIN_ROWS` are joined.
    """
    bytes_in = runs.array * PAGE_SIZE - mode.offset_bytes
    row_bytes = mode.width * mode.format.bytes_per_pixel
    # The first row that ends after the run's first byte, and the first row that begins after its last byte.
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
