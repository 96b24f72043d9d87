"""Statistics for the page: what the tap does, sent when it changes, while a page is open.

One timer for each target samples the tap's counters once a second while at least one page is open. It sends
nothing when nothing changed, because reporting must not cost more than the tap. A message holds the changed
fields of one flat JSON object. A new page first gets all fields.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import WSMsgType, web

from vramtap.servers.web.websocket import limit_unsent_of

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL_S: Final = 1.0
"""Default sampling interval, seconds."""
MIN_STEP_S: Final = 1e-3
"""Shortest time between two samples that gives a rate, seconds."""
HEARTBEAT_S: Final = 5.0
"""Silence after which an empty message shows the page that the server is alive, seconds."""
PING_S: Final = 30.0
"""Interval of WebSocket pings, seconds. The server drops a page that does not answer."""
MAX_UNSENT_BYTES: Final = 16 * 1024
"""Limit for the unsent bytes of one page. The server drops a page beyond it; a message has some 100 bytes."""
MAX_MESSAGE_BYTES: Final = 1024
"""Limit for one message from a page, which has nothing to send here."""
SCAN_TOLERANCE: Final = 0.2
"""Relative change of the scan time that is not sent: the median of an idle tap varies all the time."""

Fields = dict[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Sample:
    """The counters of a tap at one moment.

    Args:
        mode: Mode of the screen, for people.
        tracker: Name of the tracker in use.
        why: Why the tap chose this tracker.
        scan_us: Time of a recent scan, us.
        dirty_pages: Dirty pages since the start.
        bytes_read: Bytes read from the target's memory since the start.
        updates: Changes of the picture since the start.
        viewers: Number of viewers now.
        ended: How the target ended; None while it runs.
    """

    mode: str
    tracker: str
    why: str
    scan_us: float
    dirty_pages: int
    bytes_read: int
    updates: int
    viewers: int
    ended: str | None = None


class StatsLine:
    """Turns samples into the fields of the page's statistics line, and finds the fields that changed."""

    def __init__(self) -> None:
        self.fields: Fields = {}
        """All fields as last sent."""
        self._sample: Sample | None = None
        self._sampled_s = 0.0
        self._sent_s = 0.0

    def update(self, sample: Sample, now_s: float) -> Fields | None:
        """Add a sample.

        Args:
            sample: The counters now.
            now_s: Monotonic time, seconds.

        Returns:
            Fields that changed; empty for a heartbeat; None if there is nothing to send.
        """
        fields = self._fields_of(sample, now_s)
        self._sample, self._sampled_s = sample, now_s
        changed = {name: value for name, value in fields.items() if self.fields.get(name, _MISSING) != value}
        if not changed and now_s - self._sent_s < HEARTBEAT_S:
            return None
        self.fields, self._sent_s = fields, now_s
        return changed

    def _fields_of(self, sample: Sample, now_s: float) -> Fields:
        before, seconds = self._sample, now_s - self._sampled_s

        def rate(count: Callable[[Sample], int]) -> int:
            if before is None or seconds < MIN_STEP_S:
                return 0
            # The counters of a tap that was opened again start at zero.
            return max(0, round((count(sample) - count(before)) / seconds))

        sent_us = self.fields.get("scan_us")
        scan_us = round(sample.scan_us)
        if isinstance(sent_us, int) and abs(scan_us - sent_us) <= max(1, SCAN_TOLERANCE * sent_us):
            scan_us = sent_us
        return {
            "mode": sample.mode,
            "tracker": sample.tracker,
            "why": sample.why,
            "scan_us": scan_us,
            "pages_s": rate(lambda counted: counted.dirty_pages),
            "bytes_s": rate(lambda counted: counted.bytes_read),
            "updates_s": rate(lambda counted: counted.updates),
            "viewers": sample.viewers,
            "ended": sample.ended,
        }


_MISSING: Final = object()


class Subscriber(Protocol):
    """A page that gets statistics."""

    def send(self, message: str) -> None:
        """Send a message without waiting; drop the page if it is too far behind."""
        ...


class Feed:
    """Samples one target while it has subscribers, and sends them what changed.

    Args:
        sample: Returns the counters.
        clock: Returns monotonic time, seconds.
        interval_s: Sampling interval, seconds.
    """

    def __init__(
        self, sample: Callable[[], Sample], clock: Callable[[], float], interval_s: float = INTERVAL_S
    ) -> None:
        self._sample = sample
        self._clock = clock
        self._interval_s = interval_s
        self._subscribers: set[Subscriber] = set()
        self._line = StatsLine()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        """Whether the feed samples its target."""
        return self._timer is not None

    def subscribe(self, subscriber: Subscriber) -> None:
        """Send all fields now, and changes from now on."""
        self._subscribers.add(subscriber)
        if self._timer is None:
            self._line = StatsLine()
            self._line.update(self._sample(), self._clock())
            self._start_timer()
        subscriber.send(_json(self._line.fields))

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Send nothing more to this subscriber. Stop sampling after the last one."""
        self._subscribers.discard(subscriber)
        if not self._subscribers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._tick)

    def _tick(self) -> None:
        self._start_timer()
        changed = self._line.update(self._sample(), self._clock())
        if changed is None:
            return
        message = _json(changed)
        for subscriber in tuple(self._subscribers):
            subscriber.send(message)


class Page:
    """The `Subscriber` behind a WebSocket.

    Args:
        socket: The WebSocket, after its handshake.
        transport: The connection below it.
    """

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        self._socket = socket
        self._transport = transport
        self._sends: set[asyncio.Task[None]] = set()

    def send(self, message: str) -> None:
        """Send a message, or cut the connection if the page stopped reading."""
        if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._transport.abort()
        elif not self._transport.is_closing() and not self._socket.closed:
            sending = asyncio.ensure_future(self._send(message))
            self._sends.add(sending)
            sending.add_done_callback(self._sends.discard)

    async def _send(self, message: str) -> None:
        try:
            await self._socket.send_str(message)
        except ConnectionError:
            self._transport.abort()  # ends `serve_feed`, which reads from the connection


async def serve_feed(request: web.Request, feed: Feed, close_s: float) -> web.WebSocketResponse:
    """Answer a WebSocket handshake and send statistics until the page closes.

    Args:
        request: The handshake.
        feed: The target's feed.
        close_s: Time limit for the closing handshake, seconds.

    Raises:
        web.HTTPBadRequest: The request is no WebSocket handshake.
        ConnectionResetError: The page closed during the handshake.
    """
    socket = web.WebSocketResponse(
        timeout=close_s, heartbeat=PING_S, compress=False, max_msg_size=MAX_MESSAGE_BYTES
    )
    await socket.prepare(request)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the page closed during the handshake")
    limit_unsent_of(transport)
    page = Page(socket, transport)
    feed.subscribe(page)
    try:
        while (await socket.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY):
            pass
    finally:
        feed.unsubscribe(page)
    return socket


def _json(fields: Fields) -> str:
    return json.dumps(fields, separators=(",", ":"))
