"""What the web server answers: the page, the files it is made of, the API, and RFB over WebSocket."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from aiohttp import ETag, WSCloseCode, web

from vramtap.display.png import write_png
from vramtap.errors import TargetGone, VramtapError
from vramtap.servers.vnc.session import EndReason, SessionEnd, SessionOptions
from vramtap.servers.web.assets import Asset, load_assets
from vramtap.servers.web.security import HEADERS, AccessPolicy, Kind
from vramtap.servers.web.stats_feed import Feed, serve_feed
from vramtap.servers.web.watched import LOOK_S, WatchedTap, mode_text, picture, sample
from vramtap.servers.web.websocket import TARGET_ENDED, WebSocketStream, accept

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 1024
"""Of a request: nothing here takes a body."""
MAX_VIEWERS: Final = 32
"""Screens shown at once, all targets together."""
MAX_FEEDS: Final = 64
"""Live lines at once."""
MAX_SCREENSHOTS: Final = 4
"""Waiting or being encoded at once; each holds a copy of a screen."""
Serve = Callable[[WebSocketStream, WatchedTap, SessionOptions], Awaitable[SessionEnd]]
"""Speaks RFB over the stream until it ends: `serve_session`, or a test's stand-in."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes:
    """The handlers, and the application they make.

    Args:
        taps: What is shown; page `/t/N/` is for the Nth.
        gate: Who may ask.
        options: How sessions are served.
        serve: Speaks RFB.
        cookie: Name of the cookie the token is kept in.
        max_viewers: Screens shown at once, all targets together.

    Raises:
        NotFound: the package lacks noVNC.
    """

    def __init__(
        self,
        taps: Sequence[WatchedTap],
        gate: AccessPolicy,
        options: SessionOptions,
        serve: Serve,
        cookie: str = "vramtap",
        max_viewers: int = MAX_VIEWERS,
    ) -> None:
        self._taps = tuple(taps)
        self._gate = gate
        # Whoever is at this end of a WebSocket has passed the gate; a password would be asked for twice.
        self._options = replace(options, password=None)
        self._serve = serve
        self._cookie = cookie
        self._max_viewers = max_viewers
        self._assets = load_assets()
        self._streams: dict[WebSocketStream, WatchedTap] = {}
        self._feed_pages = 0
        self._shots = 0
        clock = asyncio.get_running_loop().time
        self._feeds = [Feed(partial(sample, tap), clock) for tap in self._taps]

    def application(self) -> web.Application:
        """The routes, guarded."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY_BYTES)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get(r"/t/{n:\d{1,4}}{slash:/?}", self._page),
                web.get(r"/t/{n:\d{1,4}}/websockify", self._websockify),
                web.get(r"/{path:(?:static|novnc)/.+}", self._asset),
                web.get("/api/targets", self._targets),
                web.get("/api/stats", self._stats),
                web.get("/api/screenshot.png", self._screenshot),
            ]
        )
        app.on_response_prepare.append(_add_headers)
        app.on_shutdown.append(self._say_goodbye)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        pages = request.match_info.handler in (self._page, self._asset)
        in_query = request.query.get("token")
        refusal = self._gate.refusal(
            Kind.PAGE if pages else Kind.API,
            host=request.headers.get("Host"),
            origin=request.headers.get("Origin"),
            fetch_site=request.headers.get("Sec-Fetch-Site"),
            tokens=(in_query, request.cookies.get(self._cookie)),
        )
        if refusal is not None:
            log.warning("web %s: refused %.120s: %s", request.remote, request.rel_url.raw_path, refusal)
            raise web.HTTPForbidden(text=f"{refusal}\n")
        try:
            return await handler(request)
        except TargetGone as gone:
            raise web.HTTPGone(text=f"{gone}\n") from gone
        except VramtapError as error:
            raise web.HTTPServiceUnavailable(text=f"{error}\n") from error

    async def _page(self, request: web.Request) -> web.Response:
        if "n" in request.match_info:
            self._index(request.match_info["n"])
        response = _file(request, self._assets["static/index.html"])
        if self._gate.token is not None and request.query.get("token") is not None:
            # Strict cookies do not come with the first request of a link followed from elsewhere, but
            # they do with what the page then asks for; so the page is answered, never redirected.
            response.set_cookie(self._cookie, self._gate.token, httponly=True, samesite="Strict", path="/")
        return response

    async def _asset(self, request: web.Request) -> web.Response:
        asset = self._assets.get(request.match_info["path"])
        if asset is None:
            raise web.HTTPNotFound(text=f"no file {request.path}\n")
        return _file(request, asset)

    async def _targets(self, request: web.Request) -> web.Response:
        return _json({"targets": [self._describe(n) for n in range(len(self._taps))]})

    def _describe(self, n: int) -> dict[str, object]:
        tap = self._taps[n]
        return {
            "n": n,
            "url": tap.target.url,
            "mode": mode_text(tap),
            "tracker": tap.stats.tracker,
            "input": tap.target.input is not None,
            "ended": tap.closed,
        }

    async def _stats(self, request: web.Request) -> web.StreamResponse:
        feed = self._feeds[self._index(request.query.get("t", "0"))]
        if self._feed_pages >= MAX_FEEDS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_FEEDS} pages are open already\n")
        self._feed_pages += 1
        try:
            return await serve_feed(request, feed)
        finally:
            self._feed_pages -= 1

    async def _screenshot(self, request: web.Request) -> web.Response:
        n = self._index(request.query.get("t", "0"))
        if self._shots >= MAX_SCREENSHOTS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_SCREENSHOTS} screenshots are being taken already\n")
        self._shots += 1
        try:
            pixels = await picture(self._taps[n])
            if not pixels.size:
                raise web.HTTPServiceUnavailable(text=f"target {n} shows no picture yet\n")
            body = await asyncio.to_thread(_png, pixels)
        except TimeoutError as late:
            raise web.HTTPGatewayTimeout(text=f"no picture of target {n} within {LOOK_S:g} s\n") from late
        finally:
            self._shots -= 1
        return web.Response(
            body=body,
            content_type="image/png",
            headers={
                "Cache-Control": "no-store",
                "Content-Disposition": f'inline; filename="vramtap-{n}.png"',
            },
        )

    async def _websockify(self, request: web.Request) -> web.StreamResponse:
        tap = self._taps[self._index(request.match_info["n"])]
        stream = await accept(request)
        if len(self._streams) >= self._max_viewers:
            log.warning("%s: turned away: %d viewers look already", stream.peer, len(self._streams))
            await stream.close(WSCloseCode.TRY_AGAIN_LATER, f"{len(self._streams)} viewers look already")
            return stream.response
        self._streams[stream] = tap
        code, reason = int(WSCloseCode.INTERNAL_ERROR), "an error of vramtap; see its log"
        try:
            departure = await self._serve(stream, tap, replace(self._options, name=tap.target.url))
            code, reason = _goodbye(departure, tap)
        finally:
            self._streams.pop(stream, None)
            await stream.close(code, reason)
        return stream.response

    def _index(self, text: str) -> int:
        n = int(text) if text.isascii() and text.isdecimal() and len(text) <= 4 else -1
        if not 0 <= n < len(self._taps):
            raise web.HTTPNotFound(text=f"no such target; there are {len(self._taps)}, counted from 0\n")
        return n

    async def _say_goodbye(self, app: web.Application) -> None:
        # A target's end may be what stops the server: then that is what the page should say.
        await asyncio.gather(
            *(
                stream.close(WSCloseCode.GOING_AWAY, "vramtap stops")
                if tap.closed is None
                else stream.close(TARGET_ENDED, tap.closed)
                for stream, tap in tuple(self._streams.items())
            )
        )


def _goodbye(departure: SessionEnd, tap: WatchedTap) -> tuple[int, str]:
    """Close code and reason for how a session ended."""
    match departure.cause:
        case EndReason.TARGET_GONE:
            return TARGET_ENDED, tap.closed or departure.reason
        case EndReason.LEFT | EndReason.LOST:
            return WSCloseCode.OK, ""
        case _:
            return WSCloseCode.POLICY_VIOLATION, departure.reason


def _png(pixels: NDArray[np.uint32]) -> bytes:
    file = io.BytesIO()
    write_png(file, pixels)
    return file.getvalue()


def _file(request: web.Request, asset: Asset) -> web.Response:
    """A file, or word that the browser has it: asked every time, so that an upgrade is never half seen."""
    headers = {"Cache-Control": "no-cache"}
    if any(tag.value in (asset.etag, "*") for tag in request.if_none_match or ()):
        unchanged = web.Response(status=304, headers=headers)
        unchanged.etag = ETag(asset.etag)
        return unchanged
    text = asset.content_type.startswith("text/")
    response = web.Response(
        body=asset.body, content_type=asset.content_type, charset="utf-8" if text else None, headers=headers
    )
    response.etag = ETag(asset.etag)
    return response


def _json(data: object) -> web.Response:
    return web.json_response(data, headers={"Cache-Control": "no-store"}, dumps=_dumps)


def _dumps(data: object) -> str:
    return json.dumps(data, separators=(",", ":"))


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "vramtap"
