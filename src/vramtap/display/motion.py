"""Search for pixels that only moved. Signatures propose a move, and an exact comparison confirms it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.display.damage import Move
from vramtap.display.region import Rect, bounding_box

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_DAMAGE: Final = 1 / 16
"""Smallest damage that is searched, as a fraction of the screen. To search a whole 1920x1080 screen takes
about 1 ms. To encode a sixteenth of one takes as long, so less damage gains nothing."""
MIN_SAVED: Final = 1 / 4
"""Smallest move, as a fraction of the damage. A smaller one is not worth the copy."""
STRIPS: Final = 8
STRIP_PIXELS: Final = 32
"""Signatures cover `STRIPS` strips of `STRIP_PIXELS` pixels, spread over the damage. They only propose a
move, so they need not cover all of it. A strip is as wide as four characters of a console."""
WINDOW: Final = 16
"""Lines in one signature. One line of text occurs many times on a screen. Sixteen equal lines in a row are
rare."""
MIN_LINES: Final = 2 * WINDOW
"""Smallest number of lines of the damage, in the direction of the move."""
CELL: Final = 32
"""Side of a cell, pixels. The part that moved is first found in cells, then its exact edges."""

_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
"""Multiplier that mixes the bits: 2**64 divided by the golden ratio, which is odd."""
_WEIGHTS: Final = (np.arange(1, STRIP_PIXELS + 1, dtype=np.uint64) * _MIX >> np.uint64(32)).astype(np.uint32)
_TABLE_BITS: Final = 16


def find_move(old: NDArray[np.uint32], new: NDArray[np.uint32], rects: tuple[Rect, ...]) -> Move | None:
    """Find one move up, down, left or right that explains much of the damage.

    Args:
        old: Old screen, shape `(height, width)`.
        new: New screen, shape `(height, width)`.
        rects: Rectangles in which they differ.

    Returns:
        A move, or None. Every pixel of it was compared: `new` at its destination equals `old` at its source.
    """
    area = sum(rect.area for rect in rects)
    box = bounding_box(rects)
    if box is None or area < MIN_DAMAGE * new.size:
        return None
    before, after = old[box.slices], new[box.slices]
    for across in (False, True):
        distance = _likely_distance(before.T, after.T) if across else _likely_distance(before, after)
        if not distance:
            continue
        right, down = (distance, 0) if across else (0, distance)
        to = _moved(old, new, box, right, down)
        if to is None:
            continue
        if sum(both.area for rect in rects if (both := rect.intersect(to))) >= MIN_SAVED * area:
            return Move(to.shift(-right, -down), to.x, to.y)
    return None


def _likely_distance(before: NDArray[np.uint32], after: NDArray[np.uint32]) -> int:
    """Return by how many lines down most of the recognised lines moved. Negative is up, 0 is no move.

    Args:
        before: Old pixels, shape `(lines, pixels)`.
        after: New pixels, the same shape.
    """
    lines, pixels = before.shape
    if lines < MIN_LINES or pixels < STRIP_PIXELS:
        return 0
    starts = np.unique(np.linspace(0, pixels - STRIP_PIXELS, STRIPS).astype(np.int64)).tolist()
    votes = np.zeros(2 * lines, dtype=np.int64)
    for start in starts:
        was = _signatures(before[:, start : start + STRIP_PIXELS])
        now = _signatures(after[:, start : start + STRIP_PIXELS])
        # If signatures share a slot, the last one takes it. Then lines that repeat, such as blank lines,
        # vote for a different distance each, and no distance gets many of their votes.
        table = np.zeros(1 << _TABLE_BITS, dtype=np.int32)
        slot = np.uint64(64 - _TABLE_BITS)
        table[was >> slot] = np.arange(len(was), dtype=np.int32)
        found = table[now >> slot]
        at = np.flatnonzero(was[found] == now)
        votes += np.bincount(at - found[at] + lines, minlength=2 * lines)
    votes[lines] = 0
    best = int(votes.argmax())
    return best - lines if votes[best] >= lines // 8 else 0


def _signatures(strip: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return one signature per window of `WINDOW` lines. Equal windows have equal signatures.

    Args:
        strip: Shape `(lines, STRIP_PIXELS)`.

    Returns:
        Shape `(lines - WINDOW + 1,)`, by the window's first line.
    """
    signature: NDArray[np.uint64] = np.einsum("ij,j->i", strip, _WEIGHTS).astype(np.uint64)
    span = 1
    while span < WINDOW:
        signature = (signature[:-span] * _MIX) + signature[span:]
        span *= 2
    return signature * _MIX


def _moved(old: NDArray[np.uint32], new: NDArray[np.uint32], box: Rect, right: int, down: int) -> Rect | None:
    """Return a large rectangle of `new` that is `old` moved by a distance, or None.

    It is the largest one to the nearest cell.

    Args:
        old: Old screen.
        new: New screen.
        box: Where in `new` to search.
        right: Distance to the right, pixels.
        down: Distance down, pixels.
    """
    height, width = new.shape
    to = box.intersect(Rect(right, down, width, height))
    if to is None:
        return None
    differs = new[to.slices] != old[to.shift(-right, -down).slices]
    if not differs.any():
        return to
    # This is ten times faster than one reduceat over all rows.
    bands = [np.logical_or.reduce(differs[top : top + CELL], axis=0) for top in range(0, to.height, CELL)]
    cells = _largest_clear(np.logical_or.reduceat(np.array(bands), range(0, to.width, CELL), axis=1))
    if cells is None:
        return None
    x, x_end = cells.x * CELL, min(cells.right * CELL, to.width)
    y, y_end = cells.y * CELL, min(cells.bottom * CELL, to.height)
    y, y_end = _grow(np.logical_or.reduce(differs[:, x:x_end], axis=1), y, y_end)
    x, x_end = _grow(np.logical_or.reduce(differs[y:y_end], axis=0), x, x_end)
    return Rect(to.x + x, to.y + y, x_end - x, y_end - y)


def _grow(differs: NDArray[np.bool_], first: int, last: int) -> tuple[int, int]:
    """Return the half-open range, widened on both sides up to the next true flag."""
    before, after = differs[:first][::-1], differs[last:]
    down = int(before.argmax()) if before.any() else first
    up = int(after.argmax()) if after.any() else len(after)
    return first - down, last + up


def _largest_clear(occupied: NDArray[np.bool_]) -> Rect | None:
    """Return the largest rectangle of cells that are not occupied. None if all cells are occupied."""
    best: Rect | None = None
    heights = [0] * occupied.shape[1]
    for row, flags in enumerate(occupied.tolist()):
        heights = [0 if flag else height + 1 for flag, height in zip(flags, heights, strict=True)]
        rising: list[tuple[int, int]] = []  # (first column, height) of each open rectangle, by rising height
        for column, height in enumerate([*heights, 0]):
            start = column
            while rising and rising[-1][1] >= height:
                start, tall = rising.pop()
                if best is None or (column - start) * tall > best.area:
                    best = Rect(start, row + 1 - tall, column - start, tall)
            rising.append((start, height))
    return best if best is not None and best.area else None
