"""The handshake, without I/O: version, security type and ClientInit (RFC 6143, 7.1 to 7.3)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from vramtap.errors import ProtocolError
from vramtap.rfb.events import AuthenticationFailed, ClientInit
from vramtap.rfb.security.vnc_auth import CHALLENGE_BYTES, new_challenge, response_matches
from vramtap.rfb.wire import U32, SecurityType

if TYPE_CHECKING:
    from collections.abc import Generator

SERVER_VERSION: Final = b"RFB 003.008\n"
_VERSION: Final = re.compile(rb"RFB (\d{3})\.(\d{3})\n")
_SECURITY_OK, _SECURITY_FAILED = 0, 1
_WRONG_PASSWORD: Final = b"Authentication failed"


class Handshake:
    """The handshake up to ClientInit. The connection sends ServerInit.

    Args:
        password: Password for VNC authentication. None accepts every client.
        challenge: Challenge for tests. None makes a random one.
    """

    def __init__(self, password: str | None, challenge: bytes | None = None) -> None:
        self._password = password
        self._challenge = challenge or new_challenge()
        self.to_send: bytearray = bytearray(SERVER_VERSION)
        """Bytes that the caller has to send to the client."""
        self.version: tuple[int, int] = (3, 8)
        """Protocol version. The client's answer can lower it."""

    def run(self) -> Generator[int, bytes, ClientInit | AuthenticationFailed]:
        """Run the handshake. It yields the number of bytes that it needs next, and is sent these bytes.

        Raises:
            ProtocolError: the other side is not an RFB client, or chose a security type that was not offered.
        """
        self.version = _agreed_version((yield len(SERVER_VERSION)))
        offered = SecurityType.NONE if self._password is None else SecurityType.VNC_AUTHENTICATION
        if self.version >= (3, 7):
            self.to_send += bytes([1, offered])
            (chosen,) = yield 1
            if chosen != offered:
                raise ProtocolError(
                    "handshake", f"security type {chosen}", f"only {int(offered)} was offered"
                )
        else:
            self.to_send += U32.pack(offered)
        if self._password is not None:
            self.to_send += self._challenge
            response = yield CHALLENGE_BYTES
            if not response_matches(self._challenge, response, self._password):
                self._send_failure()
                return AuthenticationFailed()
        # With security type None, versions before 3.8 have no SecurityResult (RFC 6143, 7.2.1).
        if self._password is not None or self.version >= (3, 8):
            self.to_send += U32.pack(_SECURITY_OK)
        (shared,) = yield 1
        return ClientInit(bool(shared))

    def _send_failure(self) -> None:
        """Send a SecurityResult that reports a failure (RFC 6143, 7.1.3). From 3.8 on it has a reason."""
        self.to_send += U32.pack(_SECURITY_FAILED)
        if self.version >= (3, 8):
            self.to_send += U32.pack(len(_WRONG_PASSWORD)) + _WRONG_PASSWORD


def _agreed_version(line: bytes) -> tuple[int, int]:
    """Return the version to use. A version that was never published counts as 3.3 (RFC 6143, 7.1.1).

    Args:
        line: The client's ProtocolVersion message.

    Raises:
        ProtocolError: it is not one.
    """
    found = _VERSION.fullmatch(line)
    if found is None:
        raise ProtocolError("handshake", "", f"the first bytes are {line!r}, not an RFB version")
    version = int(found[1]), int(found[2])
    return version if version in ((3, 7), (3, 8)) else (3, 3)
