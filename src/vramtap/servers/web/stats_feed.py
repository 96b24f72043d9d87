"""The live line under the screen: what the tap is doing, sent when it changes, for as long as a page looks.

One task a target samples its counters once a second while at least one page is open, and says nothing
when there is nothing new: the line must not cost what it reports. What is sent are the changed fields
of one flat JSON object; a page that joins is sent all of them first.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import WSMsgType, web

from vramtap.servers.web.websocket import CLOSE_S, limit_unsent

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL_S: Final = 1.0
"""Between two samples."""
MIN_STEP_S: Final = 1e-3
"""Two samples closer than this make no rate."""
HEARTBEAT_S: Final = 5.0
"""After so much silence an empty message tells the page that the server is there."""
PING_S: Final = 30.0
"""A page that answers no ping is dropped."""
MAX_UNSENT_BYTES: Final = 16 * 1024
"""Unread messages of one page; a page this far behind is gone (a message has some 100 bytes)."""
MAX_MESSAGE_BYTES: Final = 1024
"""From the page, which has nothing to say here."""
SCAN_TOLERANCE: Final = 0.2
"""A scan time that moved by less is the same: the median of an idle tap wavers from second to second."""

Fields = dict[str, str | int | None]


@dataclass(frozen=True, slots=True)
class Sample:
    """What a tap says of itself at one moment.

    Args:
        mode: The geometry, as people write it.
        tracker: The tracker in use.
        why: Why this one.
        scan_us: A recent scan, microseconds.
        dirty_pages: Pages found written so far.
        bytes_read: Bytes of the target's memory read so far.
        updates: Times the picture changed so far.
        viewers: Who looks now.
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
    """Turns samples into the fields of the live line, and tells which of them are news."""

    def __init__(self) -> None:
        self.fields: Fields = {}
        """All fields as last told."""
        self._sample: Sample | None = None
        self._sampled_s = 0.0
        self._told_s = 0.0

    def take(self, sample: Sample, now_s: float) -> Fields | None:
        """Note a sample.

        Args:
            sample: The counters now.
            now_s: When; any monotonic clock.

        Returns:
            Fields that changed, empty as a sign of life, None if there is nothing to send.
        """
        fields = self._shown(sample, now_s)
        self._sample, self._sampled_s = sample, now_s
        news = {name: value for name, value in fields.items() if self.fields.get(name, _MISSING) != value}
        if not news and now_s - self._told_s < HEARTBEAT_S:
            return None
        self.fields, self._told_s = fields, now_s
        return news

    def _shown(self, sample: Sample, now_s: float) -> Fields:
        before, seconds = self._sample, now_s - self._sampled_s

        def rate(count: Callable[[Sample], int]) -> int:
            if before is None or seconds < MIN_STEP_S:
                return 0
            # Counters of a tap that was opened anew start at zero again.
            return max(0, round((count(sample) - count(before)) / seconds))

        told_us = self.fields.get("scan_us")
        scan_us = round(sample.scan_us)
        if isinstance(told_us, int) and abs(scan_us - told_us) <= max(1, SCAN_TOLERANCE * told_us):
            scan_us = told_us
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
    """A page, as far as the feed is concerned."""

    def tell(self, message: str) -> None:
        """Pass a message on; a page that is too far behind is dropped."""
        ...


class Feed:
    """Samples one target while somebody looks, and tells everybody who does.

    Args:
        sample: Reads the counters.
        clock: Monotonic seconds.
        interval_s: Between two samples.
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
        """Whether anything is sampled."""
        return self._timer is not None

    def join(self, subscriber: Subscriber) -> None:
        """Tell this one everything now and what changes from now on."""
        self._subscribers.add(subscriber)
        if self._timer is None:
            self._line = StatsLine()
            self._line.take(self._sample(), self._clock())
            self._wait()
        subscriber.tell(_json(self._line.fields))

    def leave(self, subscriber: Subscriber) -> None:
        """Tell this one no more; with the last one gone nothing runs."""
        self._subscribers.discard(subscriber)
        if not self._subscribers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._tick)

    def _tick(self) -> None:
        self._wait()
        news = self._line.take(self._sample(), self._clock())
        if news is None:
            return
        message = _json(news)
        for subscriber in tuple(self._subscribers):
            subscriber.tell(message)


class Page:
    """The `Subscriber` at the other end of a WebSocket."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport) -> None:
        self._socket = socket
        self._transport = transport
        self._sends: set[asyncio.Task[None]] = set()

    def tell(self, message: str) -> None:
        """Send, unless the page has stopped reading: then the connection is cut."""
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
            self._transport.abort()  # what reads from it ends the page


async def serve_feed(request: web.Request, feed: Feed) -> web.WebSocketResponse:
    """Answer a WebSocket handshake and feed the page until it goes.

    Raises:
        web.HTTPBadRequest: it is no WebSocket handshake.
        ConnectionResetError: the page has gone.
    """
    socket = web.WebSocketResponse(
        timeout=CLOSE_S, heartbeat=PING_S, compress=False, max_msg_size=MAX_MESSAGE_BYTES
    )
    await socket.prepare(request)
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the page left during the handshake")
    limit_unsent(transport)
    page = Page(socket, transport)
    feed.join(page)
    try:
        while (await socket.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY):
            pass
    finally:
        feed.leave(page)
    return socket


def _json(fields: Fields) -> str:
    return json.dumps(fields, separators=(",", ":"))
