"""A VNC client that notes when a pixel it waits for has come: Raw encoding, always asking."""

from __future__ import annotations

import socket
import threading
import time
from typing import Final

from support.rfb_client import DESKTOP_SIZE, NATIVE, RAW, RfbClient

_FOR_EVER_S: Final = 3600.0


class Watching:
    """Sleeps while nothing comes: what a viewer costs otherwise is no part of what is measured.

    Args:
        port: Of a server on this machine.
        asks: Whether to ask for updates from the start; else it is only connected.
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
        """When the pixel had come, by the monotonic clock."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        if asks:
            self._thread.start()

    def expect(self, column: int, row: int, colour: int) -> None:
        """Wait for this pixel from now on."""
        self._seen.clear()
        self._wanted = column, row, colour

    def seen(self, timeout_s: float = 0.0) -> bool:
        """Whether it has come."""
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
        """Hang up."""
        self._closing = True
        self._client.socket.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join()
        self._client.close()
