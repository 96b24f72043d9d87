"""A viewer that keeps asking, in a thread of its own, while a test does something else."""

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
"""Only a hang takes so long."""
_WITHOUT_END_S: Final = 3600.0


class Follower:
    """Asks for the next update as soon as it has one, until the `with` block is left.

    Args:
        client: Connected; closed at the end.
    """

    def __init__(self, client: RfbClient) -> None:
        self.client = client
        self.updates = 0
        """How many it has taken in."""
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
        # Wakes the thread; and where the server has closed the connection already, there is nothing to wake.
        try:
            self.client.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            self._leaving = True
        self._thread.join()
        self.client.close()

    def shows(self, truth: NDArray[np.uint32], what: str = "") -> None:
        """Wait until its picture is this, as exactly as its pixel format can be.

        Args:
            truth: Shape `(height, width)`, `0x00RRGGBB`.
            what: Led to this picture; for the message.

        Raises:
            AssertionError: it stays another; says where they differ.
        """
        wanted = self.client.decoder.format
        if wanted.maxima != (255, 255, 255):
            rgb = truth.astype("<u4").view(np.uint8).reshape(*truth.shape, 4)[..., 2::-1]
            truth = wanted.to_xr24(wanted.from_rgb(rgb))
        if not self._until(lambda: np.array_equal(self.client.pixels, truth)):
            raise AssertionError(f"{what}: {difference_of(self.client.pixels, truth)}")

    def progresses(self, updates: int) -> None:
        """Wait until it has taken so many more updates.

        Raises:
            AssertionError: they do not come.
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
