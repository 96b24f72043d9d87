"""AccessPolicy: which requests the web server serves, by Host, Origin and token. No I/O.

What each check is for:

- **Host** stops DNS rebinding. A page of `evil.example` may make its name resolve to 127.0.0.1 a moment
  later. The browser then takes this server for `evil.example` and passes it every answer. Such a request
  still carries `Host: evil.example`, so the server answers to its own names only. An IP address cannot be
  rebound, so a server that listens on every address accepts every literal address.
- **Origin** stops scripts of other sites. WebSockets are not held to the same-origin policy (RFC 6455,
  10.2): any page may open one to this server, and the browser names the page. Fetch metadata (W3C,
  `Sec-Fetch-Site`) names it for requests without an Origin, such as an image in another site's page.
- **Token** stops every other client, once other machines can reach the server.

A client that is not a browser sends no Origin. Host and token still apply to it.
"""

from __future__ import annotations

import hmac
import re
import secrets
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from vramtap.errors import UsageError
from vramtap.servers.listen import literal_address

if TYPE_CHECKING:
    from collections.abc import Iterable

TOKEN_BYTES: Final = 16
"""Random bytes of a token: 128 bits cannot be guessed over a network."""
MIN_TOKEN_CHARS: Final = 8
"""Shortest token that a user may choose; shorter ones are easy to guess."""
MAX_TOKEN_CHARS: Final = 256
"""Longest token. The server refuses longer ones without comparing them."""
MAX_HOST_CHARS: Final = 255 + len("[]:65535")
"""Longest Host header: a DNS name (RFC 1035, 2.3.4) and a port."""

HEADERS: Final = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data:",  # noVNC draws JPEG rectangles through data: URLs
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Headers of every answer, including refusals."""

_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_.-]+))(?::(?P<port>[0-9]{1,5}))?")

_TOKEN = re.compile(rf"[A-Za-z0-9._~-]{{{MIN_TOKEN_CHARS},{MAX_TOKEN_CHARS}}}")


class Resource(Enum):
    """What a request is for, as far as the checks depend on it."""

    PAGE = auto()
    """The page or one of its static files. Other sites may link to it."""
    API = auto()
    """Data or a WebSocket, for the page itself and for programs only."""


class AccessPolicy:
    """Decides whether a request is served.

    Args:
        bound: Literal address that the server listens on (`127.0.0.1`, `::`).
        allow_hosts: Further names or addresses of the server, without port.
        token: Token that a request must carry; None for no token.
    """

    def __init__(self, bound: str, allow_hosts: Iterable[str] = (), token: str | None = None) -> None:
        self.token = token
        self._bound = literal_address(bound)
        self._names = {"localhost", *(_plain(name) for name in (bound, *allow_hosts))}

    def refusal(
        self,
        resource: Resource,
        *,
        host: str | None,
        origin: str | None = None,
        fetch_site: str | None = None,
        tokens: Iterable[str | None] = (),
    ) -> str | None:
        """Return why the server refuses a request, None if it serves it.

        Args:
            resource: What the request is for.
            host: The Host header.
            origin: The Origin header.
            fetch_site: The Sec-Fetch-Site header.
            tokens: Tokens in the request: from the query, from the cookie.

        Returns:
            One line for the client.
        """
        name = host_name(host)
        if name is None or not self._is_own_name(name):
            shown = f"{name!r}" if name else "in this request"
            return (
                f"this server does not answer to the name {shown}, as a guard against DNS rebinding; "
                "use the URL that vramtap printed, or start vramtap with --allow-host NAME"
            )
        if resource is Resource.API:
            if origin is not None and not same_origin(origin, host):
                return "pages of another origin may not use this server"
            if fetch_site not in (None, "same-origin", "none"):
                return "pages of another site may not use this server"
        if self.token is not None and not any(self._is_token(text) for text in tokens):
            return "this server needs a token: open the URL that vramtap printed, with its ?token=..."
        return None

    def _is_own_name(self, name: str) -> bool:
        if name in self._names:
            return True
        address = literal_address(name)
        if address is None:
            return False
        all_addresses = self._bound is not None and self._bound.is_unspecified
        return all_addresses or address.is_loopback or address == self._bound

    def _is_token(self, text: str | None) -> bool:
        """Compare in a time that does not depend on how much of the token is right."""
        if self.token is None or text is None or len(text) > MAX_TOKEN_CHARS:
            return False
        return hmac.compare_digest(text.encode("utf-8", "replace"), self.token.encode())


def new_token() -> str:
    """Return a random token, safe in URLs and cookies."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def check_token(token: str) -> None:
    """Check a token that a user chose.

    Raises:
        UsageError: The token is too short, too long, or has characters that a URL must escape.
    """
    if not _TOKEN.fullmatch(token):
        reason = f"needs {MIN_TOKEN_CHARS} to {MAX_TOKEN_CHARS} of the characters A-Z a-z 0-9 . _ ~ -"
        raise UsageError("--token", "", reason, "leave it out, and vramtap makes one where it is needed")


def check_host(name: str) -> str:
    """Return the host name that a user gave, as `host_name` does; a port in it is dropped.

    Raises:
        UsageError: The text is no host name and no address.
    """
    found = host_name(name)
    if found is None:
        raise UsageError("--allow-host", name, "not a host name", "give the name as it stands in the URL")
    return found


def host_name(header: str | None) -> str | None:
    """Return the name or literal address in a Host header, in lower case, without port and brackets.

    Returns:
        None if the header is missing or not a valid host (RFC 9110, 7.2).
    """
    if header is None or len(header) > MAX_HOST_CHARS:
        return None
    match = _HOST.fullmatch(header)
    return _plain(match["six"] or match["name"]) if match else None


def same_origin(origin: str, host: str | None) -> bool:
    """Return whether an Origin header names the host and port that the request was sent to.

    Both headers leave out the scheme's default port (RFC 6454, 6.2), so they compare as text. The scheme is
    not compared: behind a proxy that ends TLS, the Origin says https while the server speaks http.
    """
    scheme, separator, authority = origin.partition("://")
    return (
        bool(separator)
        and scheme in ("http", "https")
        and host is not None
        and authority.lower() == host.lower()
    )


def _plain(name: str) -> str:
    """Return the spelling of a name that comparisons use."""
    return name.strip("[]").removesuffix(".").lower()
