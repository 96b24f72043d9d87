"""Looks at an X display as a person does: waits until a picture stands somewhere on it, to the last bit."""

from __future__ import annotations

import selectors
import time
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import xcffib
import xcffib.damage
import xcffib.xproto

from support.testbed.xclient import XClient

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

_NON_EMPTY: Final = 3
"""DamageReportNonEmpty (X11/extensions/damagewire.h): one event, until it is subtracted."""
_NONE: Final = 0
_PROBES: Final = 256
"""Pixels that are compared before whole pictures are."""


class XWatch:
    """Watches a display, inside the `with` block.

    Args:
        display: As in DISPLAY.
    """

    def __init__(self, display: str) -> None:
        self._client = XClient(display)
        # xcffib calls itself typed, but what it generates at run time is not.
        connect: Any = xcffib.connect
        self._connection: Any = connect(display)
        root = self._connection.get_setup().roots[self._connection.pref_screen].root
        extension: Any = xcffib.damage
        self._damage: Any = self._connection(extension.key)
        self._damage.QueryVersion(1, 1).reply()
        self._id = self._connection.generate_id()
        self._damage.Create(self._id, root, _NON_EMPTY)
        self._connection.flush()

    def __enter__(self) -> Self:
        """Nothing more: the constructor has connected."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self._connection.disconnect()
        self._client.__exit__(kind, error, trace)

    def shows(self, picture: NDArray[np.uint32], timeout_s: float = 60) -> tuple[int, int]:
        """Wait until the picture stands somewhere on the display, looking after each change of it.

        Args:
            picture: Shape `(height, width)`, `0x00RRGGBB`.
            timeout_s: How long it may take.

        Returns:
            Column and row of its left upper corner.

        Raises:
            AssertionError: it does not; says how near anything came.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            # Armed before the look: a change in between ends the wait at once.
            self._damage.Subtract(self._id, _NONE, _NONE)
            display = self._client.pixels()
            found = find(picture, display)
            if found is not None:
                return found
            assert self._changed(deadline), _nearest(picture, display)

    def _changed(self, deadline: float) -> bool:
        self._connection.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection.get_file_descriptor(), selectors.EVENT_READ)
            while self._connection.poll_for_event() is None:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return False
        while self._connection.poll_for_event() is not None:
            pass
        return True


def find(picture: NDArray[np.uint32], display: NDArray[np.uint32]) -> tuple[int, int] | None:
    """Column and row where the picture stands on the display, exactly; None if nowhere."""
    places = _candidates(picture, display)
    if places is None:
        return None
    height, width = picture.shape
    for y, x in np.argwhere(places):
        if np.array_equal(display[y : y + height, x : x + width], picture):
            return int(x), int(y)
    return None


def _candidates(picture: NDArray[np.uint32], display: NDArray[np.uint32]) -> NDArray[np.bool_] | None:
    """For every place the picture has room at: whether some pixels agree. None if there is no such place."""
    rows, columns = display.shape[0] - picture.shape[0] + 1, display.shape[1] - picture.shape[1] + 1
    if rows < 1 or columns < 1:
        return None
    # Rare colours tell most.
    _, inverse, counts = np.unique(picture, return_inverse=True, return_counts=True)
    rarity = counts[inverse.reshape(picture.shape)]
    order = np.argsort(rarity, axis=None, kind="stable")
    places = np.ones((rows, columns), dtype=np.bool_)
    for y, x in zip(*np.unravel_index(order[:: max(1, len(order) // _PROBES)], picture.shape), strict=True):
        places &= display[y : y + rows, x : x + columns] == picture[y, x]
        if np.count_nonzero(places) <= 1:
            break
    return places


def _nearest(picture: NDArray[np.uint32], display: NDArray[np.uint32]) -> str:
    """How much is wrong at the place that fits best, for a message."""
    rows, columns = display.shape[0] - picture.shape[0] + 1, display.shape[1] - picture.shape[1] + 1
    if rows < 1 or columns < 1:
        return f"a picture of {picture.shape[::-1]} has no room on a display of {display.shape[::-1]}"
    height, width = picture.shape
    agree = np.zeros((rows, columns), dtype=np.int64)
    random = np.random.default_rng(1)
    for y, x in zip(random.integers(0, height, 200), random.integers(0, width, 200), strict=True):
        agree += display[y : y + rows, x : x + columns] == picture[y, x]
    y, x = (int(index) for index in np.unravel_index(int(agree.argmax()), agree.shape))
    wrong = np.argwhere(display[y : y + height, x : x + width] != picture)
    return f"nearest at {x},{y}: {len(wrong)} pixels differ, the first at {wrong[0][::-1]}"
