"""A VNC client that records when an expected pixel arrives. It uses Raw and always requests updates."""

from __future__ import annotations

import socket
import threading
import time
from typing import Final

from support.rfb_client import DESKTOP_SIZE, NATIVE, RAW, RfbClient

_FOR_EVER_S: Final = 3600.0


class Watching:
    """A viewer that sleeps between updates, so that its own cost does not distort the measurement.

    Args:
        port: Port of a server on this machine.
        asks: Whether to request updates; otherwise the viewer only connects.
    """

    def __init__(self, port: int, *, asks: bool = True) -> None:
        self._client = RfbClient.connect(
            "127.0.0.1", port, encodings=(RAW, DESKTOP_SIZE), pixel_format=NATIVE, timeout_s=_FOR_EVER_S
        )
        self._wanted: tuple[int, int, int] | None = None
        self._seen = threading.Event()
        self._closing = False
        self.updates = 0
        self.seen_s = 0.0
        """Arrival of the expected pixel, monotonic seconds."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        if asks:
            self._thread.start()

    def expect(self, column: int, row: int, colour: int) -> None:
        """Set the pixel to expect from now on."""
        self._seen.clear()
        self._wanted = column, row, colour

    def seen(self, timeout_s: float = 0.0) -> bool:
        """Wait for the expected pixel, and return whether it has arrived."""
        return self._seen.wait(timeout_s)

    def _run(self) -> None:
        client = self._client
        try:
            client.request(incremental=False)
            while True:
                update = client.wait_update()
                now_s = time.monotonic()
                self.updates += 1
                wanted = self._wanted
                if wanted is not None:
                    column, row, colour = wanted
                    pixels = client.pixels
                    inside = row < pixels.shape[0] and column < pixels.shape[1]
                    if inside and int(pixels[row, column]) & 0xFFFFFF == colour:
                        self.seen_s, self._wanted = now_s, None
                        self._seen.set()
                client.request(incremental=not update.resized)
        except Exception:
            if not self._closing:
                raise

    def close(self) -> None:
        """Disconnect."""
        self._closing = True
        self._client.socket.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join()
        self._client.close()
