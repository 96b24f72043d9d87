"""`XWatch`: waits until an X display shows a picture somewhere, exactly."""

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
"""DamageReportNonEmpty (X11/extensions/damagewire.h): one event until the damage is subtracted."""
_NONE: Final = 0
_PROBES: Final = 256
"""Number of pixels that are compared before whole pictures."""


class XWatch:
    """Watches a display during the `with` block.

    Args:
        display: The value of DISPLAY.
    """

    def __init__(self, display: str) -> None:
        self._client = XClient(display)
        # xcffib ships type information, but not for the code that it generates at run time.
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
        """Return self; the constructor has connected."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self._connection.disconnect()
        self._client.__exit__(kind, error, trace)

    def shows(self, picture: NDArray[np.uint32], timeout_s: float = 60) -> tuple[int, int]:
        """Wait until the display shows the picture somewhere. It is compared after each change.

        Args:
            picture: Shape `(height, width)`, `0x00RRGGBB`.
            timeout_s: Time limit, seconds.

        Returns:
            Column and row of the picture's upper left corner.

        Raises:
            AssertionError: the display did not show it in time; the message describes the best match.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            # Subtract the damage before reading the pixels, so that a later change ends the wait.
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
    """Return the column and row at which the display shows the picture exactly; None if nowhere."""
    places = _candidates(picture, display)
    if places is None:
        return None
    height, width = picture.shape
    for y, x in np.argwhere(places):
        if np.array_equal(display[y : y + height, x : x + width], picture):
            return int(x), int(y)
    return None


def _candidates(picture: NDArray[np.uint32], display: NDArray[np.uint32]) -> NDArray[np.bool_] | None:
    """Return for each possible place whether some pixels agree; None if the picture is too large."""
    rows, columns = display.shape[0] - picture.shape[0] + 1, display.shape[1] - picture.shape[1] + 1
    if rows < 1 or columns < 1:
        return None
    # Compare the rarest colours first, which exclude most places.
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
    """Return a message about the place that fits best."""
    rows, columns = display.shape[0] - picture.shape[0] + 1, display.shape[1] - picture.shape[1] + 1
    if rows < 1 or columns < 1:
        return f"a picture of {picture.shape[::-1]} does not fit a display of {display.shape[::-1]}"
    height, width = picture.shape
    agree = np.zeros((rows, columns), dtype=np.int64)
    random = np.random.default_rng(1)
    for y, x in zip(random.integers(0, height, 200), random.integers(0, width, 200), strict=True):
        agree += display[y : y + rows, x : x + columns] == picture[y, x]
    y, x = (int(index) for index in np.unravel_index(int(agree.argmax()), agree.shape))
    wrong = np.argwhere(display[y : y + height, x : x + width] != picture)
    return f"nearest at {x},{y}: {len(wrong)} pixels differ, the first at {wrong[0][::-1]}"
