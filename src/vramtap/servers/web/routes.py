"""Routes: the page, its static files, the API, and RFB over WebSocket."""

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
from vramtap.servers.web.describe import mode_text, picture, sample
from vramtap.servers.web.security import HEADERS, AccessPolicy, Resource
from vramtap.servers.web.stats_feed import Feed, serve_feed
from vramtap.servers.web.websocket import TARGET_ENDED, WebSocketStream, accept
from vramtap.tap.tap import Tap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vramtap.servers.web.limits import WebLimits

log: logging.Logger = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 1024
"""Limit for the body of a request. No route takes a body."""
ServeSession = Callable[[WebSocketStream, Tap, SessionOptions], Awaitable[SessionEnd]]
"""Speaks RFB over a stream until the session ends: `serve_session`, or a test's own."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes:
    """The request handlers and their application.

    Args:
        taps: Served taps; page `/t/N/` shows the Nth.
        policy: Decides which requests are served.
        options: How sessions are served.
        serve: Speaks RFB with a browser.
        cookie: Name of the cookie that holds the token.
        limits: What clients may use at most.

    Raises:
        MissingAsset: The installed package lacks noVNC.
    """

    def __init__(
        self,
        taps: Sequence[Tap],
        policy: AccessPolicy,
        options: SessionOptions,
        serve: ServeSession,
        cookie: str,
        limits: WebLimits,
    ) -> None:
        self._taps = tuple(taps)
        self._policy = policy
        # A browser that opened the WebSocket has passed the policy. RFB must not ask it for a password again.
        self._options = replace(options, password=None)
        self._serve = serve
        self._cookie = cookie
        self._limits = limits
        self._assets = load_assets()
        self._streams: dict[WebSocketStream, Tap] = {}
        self._stats_pages = 0
        self._screenshots = 0
        clock = asyncio.get_running_loop().time
        self._feeds = [Feed(partial(sample, tap), clock) for tap in self._taps]

    def application(self) -> web.Application:
        """Return the application: all routes behind the access check."""
        app = web.Application(middlewares=[self._check_access], client_max_size=MAX_BODY_BYTES)
        app.add_routes(
            [
                web.get("/", self._get_page),
                web.get(r"/t/{n:\d{1,4}}{slash:/?}", self._get_page),
                web.get(r"/t/{n:\d{1,4}}/websockify", self._serve_rfb),
                web.get(r"/{path:(?:static|novnc)/.+}", self._get_asset),
                web.get("/api/targets", self._get_targets),
                web.get("/api/stats", self._serve_stats),
                web.get("/api/screenshot.png", self._get_screenshot),
            ]
        )
        app.on_response_prepare.append(_add_headers)
        app.on_shutdown.append(self._close_streams)
        return app

    @web.middleware
    async def _check_access(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        is_page = request.match_info.handler in (self._get_page, self._get_asset)
        refusal = self._policy.refusal(
            Resource.PAGE if is_page else Resource.API,
            host=request.headers.get("Host"),
            origin=request.headers.get("Origin"),
            fetch_site=request.headers.get("Sec-Fetch-Site"),
            tokens=(request.query.get("token"), request.cookies.get(self._cookie)),
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

    async def _get_page(self, request: web.Request) -> web.Response:
        if "n" in request.match_info:
            self._index(request.match_info["n"])
        response = _file(request, self._assets["static/index.html"])
        if self._policy.token is not None and request.query.get("token") is not None:
            # When a user follows a link from another site, the browser sends no SameSite=Strict cookie with
            # that request or with a redirect that answers it. It does with the page's own requests. So the
            # server answers with the page and does not redirect to a URL without the token.
            response.set_cookie(self._cookie, self._policy.token, httponly=True, samesite="Strict", path="/")
        return response

    async def _get_asset(self, request: web.Request) -> web.Response:
        asset = self._assets.get(request.match_info["path"])
        if asset is None:
            raise web.HTTPNotFound(text=f"no file {request.path}\n")
        return _file(request, asset)

    async def _get_targets(self, request: web.Request) -> web.Response:
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

    async def _serve_stats(self, request: web.Request) -> web.StreamResponse:
        feed = self._feeds[self._index(request.query.get("t", "0"))]
        if self._stats_pages >= self._limits.stats_pages:
            raise web.HTTPServiceUnavailable(text=f"{self._limits.stats_pages} pages are open already\n")
        self._stats_pages += 1
        try:
            return await serve_feed(request, feed, self._limits.close_s)
        finally:
            self._stats_pages -= 1

    async def _get_screenshot(self, request: web.Request) -> web.Response:
        n = self._index(request.query.get("t", "0"))
        limits = self._limits
        if self._screenshots >= limits.screenshots:
            raise web.HTTPServiceUnavailable(text=f"{limits.screenshots} screenshots are in work already\n")
        self._screenshots += 1
        try:
            pixels = await picture(self._taps[n], limits.screenshot_s)
            if not pixels.size:
                raise web.HTTPServiceUnavailable(text=f"target {n} shows no picture yet\n")
            body = await asyncio.to_thread(_png, pixels)
        except TimeoutError as late:
            reason = f"no picture of target {n} within {limits.screenshot_s:g} s\n"
            raise web.HTTPGatewayTimeout(text=reason) from late
        finally:
            self._screenshots -= 1
        return web.Response(
            body=body,
            content_type="image/png",
            headers={
                "Cache-Control": "no-store",
                "Content-Disposition": f'inline; filename="vramtap-{n}.png"',
            },
        )

    async def _serve_rfb(self, request: web.Request) -> web.StreamResponse:
        tap = self._taps[self._index(request.match_info["n"])]
        stream = await accept(request, self._limits.close_s)
        if len(self._streams) >= self._limits.viewers:
            reason = f"{len(self._streams)} viewers are connected already"
            log.warning("%s: rejected: %s", stream.peer, reason)
            await stream.close(WSCloseCode.TRY_AGAIN_LATER, reason)
            return stream.response
        self._streams[stream] = tap
        code, reason = int(WSCloseCode.INTERNAL_ERROR), "internal error of vramtap; see its log"
        try:
            end = await self._serve(stream, tap, replace(self._options, name=tap.target.url))
            code, reason = _close_of(end, tap)
        finally:
            self._streams.pop(stream, None)
            await stream.close(code, reason)
        return stream.response

    def _index(self, text: str) -> int:
        """Return the index of a target; answer 404 if there is none."""
        n = int(text) if text.isascii() and text.isdecimal() and len(text) <= 4 else -1
        if not 0 <= n < len(self._taps):
            raise web.HTTPNotFound(text=f"no such target; there are {len(self._taps)}, counted from 0\n")
        return n

    async def _close_streams(self, app: web.Application) -> None:
        """Close every session because the server stops. If its target has ended, give that as the reason."""
        await asyncio.gather(
            *(
                stream.close(WSCloseCode.GOING_AWAY, "vramtap stops")
                if tap.closed is None
                else stream.close(TARGET_ENDED, tap.closed)
                for stream, tap in tuple(self._streams.items())
            )
        )


def _close_of(end: SessionEnd, tap: Tap) -> tuple[int, str]:
    """Return close code and close reason for a session's end."""
    match end.reason:
        case EndReason.TARGET_GONE:
            return TARGET_ENDED, tap.closed or end.detail
        case EndReason.LEFT | EndReason.LOST:
            return WSCloseCode.OK, ""
        case _:
            return WSCloseCode.POLICY_VIOLATION, end.detail


def _png(pixels: NDArray[np.uint32]) -> bytes:
    file = io.BytesIO()
    write_png(file, pixels)
    return file.getvalue()


def _file(request: web.Request, asset: Asset) -> web.Response:
    """Answer with a file, or with 304 if the browser has it.

    Browsers must revalidate (`no-cache`), so that after an upgrade the page's files all have one version.
    """
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
