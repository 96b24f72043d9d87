"""Who may speak to the web server: Host, Origin and token, decided without I/O.

What each check is for:

- **Host** stops DNS rebinding. A page of `evil.example` may have its name resolve to 127.0.0.1 a
  moment later; the browser then takes this server for `evil.example` and hands it every answer. Such
  a request still carries `Host: evil.example`, and only names that are ours are served. An IP address
  cannot be rebound, so where the server listens on every address any literal one is accepted.
- **Origin** stops other sites' scripts. WebSockets are not held to the same-origin policy (RFC 6455,
  10.2): any page may open one to us, and the browser says which page it was. Fetch metadata
  (W3C, `Sec-Fetch-Site`) says the same of requests that carry no Origin, an image from elsewhere.
- **Token** stops everybody else, once the server can be reached from other machines.

A client that is no browser sends no Origin and is held to Host and token alone.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from vramtap.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

TOKEN_BYTES: Final = 16
"""Random bytes a token is made of: 128 bits cannot be guessed over a network."""
MIN_TOKEN_CHARS: Final = 8
"""Of one that a person chose; fewer are soon guessed."""
MAX_TOKEN_CHARS: Final = 256
"""What is compared at most; longer ones are refused unread."""
MAX_HOST_CHARS: Final = 255 + len("[]:65535")
"""A DNS name's limit (RFC 1035, 2.3.4) and a port."""

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
"""What every answer carries, refusals included."""

_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_.-]+))(?::(?P<port>[0-9]{1,5}))?")

_TOKEN = re.compile(rf"[A-Za-z0-9._~-]{{{MIN_TOKEN_CHARS},{MAX_TOKEN_CHARS}}}")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Kind(Enum):
    """What is asked for, as far as it changes who may ask."""

    PAGE = auto()
    """The page or a file it is made of: a link from elsewhere may lead to it."""
    API = auto()
    """Data or a WebSocket: for our own page and for programs only."""


class AccessPolicy:
    """Decides whether a request is served.

    Args:
        bound: The address the server listens on, as a literal (`127.0.0.1`, `::`).
        allow_hosts: Further names or addresses by which it is reached, without port.
        token: What must be shown; None demands nothing.
    """

    def __init__(self, bound: str, allow_hosts: Iterable[str] = (), token: str | None = None) -> None:
        self.token = token
        self._bound = _literal(bound)
        self._names = {"localhost", *(_plain(name) for name in (bound, *allow_hosts))}

    def refusal(
        self,
        kind: Kind,
        *,
        host: str | None,
        origin: str | None = None,
        fetch_site: str | None = None,
        tokens: Iterable[str | None] = (),
    ) -> str | None:
        """Why this request is not served, or None if it is.

        Args:
            kind: What is asked for.
            host: The Host header.
            origin: The Origin header.
            fetch_site: The Sec-Fetch-Site header.
            tokens: What was shown as token, from wherever it may come.

        Returns:
            One line for the client.
        """
        name = host_name(host)
        if name is None or not self._known(name):
            shown = f"{name!r}" if name else "that"
            return (
                f"this server does not answer to the name {shown}, which guards it against DNS rebinding; "
                "use the address vramtap printed, or start it with --allow-host NAME"
            )
        if kind is Kind.API:
            if origin is not None and not same_origin(origin, host):
                return "pages of another origin may not use this server"
            if fetch_site not in (None, "same-origin", "none"):
                return "pages of another site may not use this server"
        if self.token is not None and not any(self._matches(shown) for shown in tokens):
            return "a token is needed: open the URL vramtap printed, with its ?token=..."
        return None

    def _known(self, name: str) -> bool:
        if name in self._names:
            return True
        literal = _literal(name)
        if literal is None:
            return False
        anywhere = self._bound is not None and self._bound.is_unspecified
        return anywhere or literal.is_loopback or literal == self._bound

    def _matches(self, shown: str | None) -> bool:
        """Compare in a time that does not tell how much was right."""
        if self.token is None or shown is None or len(shown) > MAX_TOKEN_CHARS:
            return False
        return hmac.compare_digest(shown.encode("utf-8", "replace"), self.token.encode())


def new_token() -> str:
    """A token nobody can guess, safe in URLs and cookies."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def check_token(token: str) -> None:
    """Whether a token that a person chose will do.

    Raises:
        UsageError: it is too short, too long, or cannot stand in a URL as it is.
    """
    if not _TOKEN.fullmatch(token):
        reason = f"needs {MIN_TOKEN_CHARS} to {MAX_TOKEN_CHARS} of the characters A-Z a-z 0-9 . _ ~ -"
        raise UsageError("--token", "", reason, "leave it out where one is needed, and one is made")


def check_host(name: str) -> str:
    """The name in a Host header, as a person gave it; a port is left out of account.

    Raises:
        UsageError: it is no host name and no address.
    """
    found = host_name(name)
    if found is None:
        raise UsageError("--allow-host", name, "is no host name", "give the name as it stands in the URL")
    return found


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach a server bound to this literal address."""
    literal = _literal(address)
    return literal is not None and literal.is_loopback


def host_name(header: str | None) -> str | None:
    """The name or literal address in a Host header, lower case, without port and brackets.

    Returns:
        None if the header is missing or no valid host (RFC 9110, 7.2).
    """
    if header is None or len(header) > MAX_HOST_CHARS:
        return None
    match = _HOST.fullmatch(header)
    return _plain(match["six"] or match["name"]) if match else None


def same_origin(origin: str, host: str | None) -> bool:
    """Whether an Origin header names the very host and port the request was sent to.

    Both leave out the scheme's default port (RFC 6454, 6.2), so they compare as text. The scheme is
    not compared: behind a proxy that ends TLS, Origin says https while we are spoken to in http.
    """
    scheme, separator, authority = origin.partition("://")
    return (
        bool(separator)
        and scheme in ("http", "https")
        and host is not None
        and authority.lower() == host.lower()
    )


def _plain(name: str) -> str:
    """The one spelling in which names are compared."""
    return name.strip("[]").removesuffix(".").lower()


def _literal(name: str) -> Address | None:
    """The address a literal stands for, IPv4 mapped into IPv6 taken as IPv4."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
