"""A VNC viewer that requests updates in its own thread."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from support.model_client import difference_of
from support.rfb_client import Broken, RfbClient

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from numpy.typing import NDArray

TIMEOUT_S: Final = 60.0
"""Time limit of a wait. A wait that takes longer hangs."""
_WITHOUT_END_S: Final = 3600.0


class Follower:
    """Requests the next update as soon as it has one, until the `with` block ends.

    Args:
        client: A connected client. It is closed at the end.
    """

    def __init__(self, client: RfbClient) -> None:
        self.client = client
        self.updates = 0
        """Number of updates received."""
        self._news = threading.Condition()
        self._leaving = False
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._follow, name="follower")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving = True
        # This wakes the thread. If the server already closed the connection, the thread has ended.
        try:
            self.client.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            self._leaving = True
        self._thread.join()
        self.client.close()

    def shows(self, truth: NDArray[np.uint32], what: str = "") -> None:
        """Wait until the picture equals `truth`, in the precision of the pixel format.

        Args:
            truth: Shape `(height, width)`, `0x00RRGGBB`.
            what: What drew the picture, for the message.

        Raises:
            AssertionError: the picture stays different. The message says where.
        """
        wanted = self.client.decoder.format
        if wanted.maxima != (255, 255, 255):
            rgb = truth.astype("<u4").view(np.uint8).reshape(*truth.shape, 4)[..., 2::-1]
            truth = wanted.to_xr24(wanted.from_rgb(rgb))
        if not self._until(lambda: np.array_equal(self.client.pixels, truth)):
            raise AssertionError(f"{what}: {difference_of(self.client.pixels, truth)}")

    def progresses(self, updates: int) -> None:
        """Wait for more updates.

        Args:
            updates: Number of further updates.

        Raises:
            AssertionError: they do not arrive in time.
        """
        wanted = self.updates + updates
        assert self._until(lambda: self.updates >= wanted), f"{self.updates} of {wanted} updates"

    def _until(self, happened: Callable[[], bool]) -> bool:
        with self._news:
            came = self._news.wait_for(lambda: self._problem is not None or happened(), TIMEOUT_S)
        if self._problem is not None:
            raise self._problem
        return came

    def _follow(self) -> None:
        try:
            self.client.request(incremental=False)
            while True:
                update = self.client.wait_update(_WITHOUT_END_S)
                with self._news:
                    self.updates += 1
                    self._news.notify_all()
                self.client.request(incremental=not update.resized)
        except (Broken, OSError, TimeoutError) as problem:
            if not self._leaving:
                with self._news:
                    self._problem = problem
                    self._news.notify_all()
