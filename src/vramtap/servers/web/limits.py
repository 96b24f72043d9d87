"""WebLimits: what the web server's clients may use at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WebLimits:
    """Limits of one web server, over all its targets.

    Args:
        connections: TCP connections at once; a page needs eight. The server answers further ones with 503.
        viewers: Screens shown at once.
        stats_pages: Pages that get statistics at once.
        screenshots: Screenshots in work at once; each holds a copy of a screen.
        screenshot_s: Time limit for the scan before a screenshot, seconds.
        idle_s: Time limit for a complete request on a connection, seconds. WebSockets have pings instead.
        close_s: Time limit for the closing handshake of a WebSocket, seconds.
        shutdown_s: Time limit for open requests when the server stops, seconds.
    """

    connections: int = 200
    viewers: int = 32
    stats_pages: int = 64
    screenshots: int = 4
    screenshot_s: float = 10.0
    idle_s: float = 15.0
    close_s: float = 2.0
    shutdown_s: float = 3.0
