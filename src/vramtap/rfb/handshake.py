"""The handshake: version, security and initialisation (RFC 6143, 7.1 to 7.3), without I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from vramtap.errors import ProtocolError
from vramtap.rfb.events import AuthenticationFailed, ClientInit
from vramtap.rfb.security.vnc_auth import CHALLENGE_BYTES, is_right, new_challenge
from vramtap.rfb.wire import U32, Security

if TYPE_CHECKING:
    from collections.abc import Generator

SERVER_VERSION: Final = b"RFB 003.008\n"
_VERSION: Final = re.compile(rb"RFB (\d{3})\.(\d{3})\n")
_WRONG_PASSWORD: Final = b"Authentication failed"


class Handshake:
    """What is said until the client has sent ClientInit; ServerInit is the connection's to send.

    Args:
        password: Asked for by VNC authentication; None lets everyone in.
        challenge: Set by tests; random if None.
    """

    def __init__(self, password: str | None, challenge: bytes | None = None) -> None:
        self._password = password
        self._challenge = challenge or new_challenge()
        self.to_send = bytearray(SERVER_VERSION)
        """What has been said and not yet sent."""
        self.version = (3, 8)
        """What was agreed on."""

    def converse(self) -> Generator[int, bytes, ClientInit | AuthenticationFailed]:
        """Go through it: yields how many bytes are needed next and is sent just these.

        Raises:
            ProtocolError: the other side is no RFB client, or chose what was not offered.
        """
        self.version = _agreed((yield len(SERVER_VERSION)))
        wanted = Security.NONE if self._password is None else Security.VNC
        if self.version >= (3, 7):
            self.to_send += bytes([1, wanted])
            (chosen,) = yield 1
            if chosen != wanted:
                raise ProtocolError("handshake", f"security type {chosen}", f"only {int(wanted)} was offered")
        else:
            self.to_send += U32.pack(wanted)
        if self._password is not None:
            self.to_send += self._challenge
            response = yield CHALLENGE_BYTES
            if not is_right(self._challenge, response, self._password):
                self._refuse()
                return AuthenticationFailed()
        # With security type None, versions before 3.8 have no SecurityResult (RFC 6143, 7.2.1).
        if self._password is not None or self.version >= (3, 8):
            self.to_send += U32.pack(0)
        (shared,) = yield 1
        return ClientInit(bool(shared))

    def _refuse(self) -> None:
        self.to_send += U32.pack(1)
        if self.version >= (3, 8):
            self.to_send += U32.pack(len(_WRONG_PASSWORD)) + _WRONG_PASSWORD


def _agreed(line: bytes) -> tuple[int, int]:
    """The version to go on with; any that was never published is 3.3 (RFC 6143, 7.1.1)."""
    found = _VERSION.fullmatch(line)
    if found is None:
        raise ProtocolError("handshake", "", f"the first bytes are {line!r}, not an RFB version")
    version = int(found[1]), int(found[2])
    return version if version in ((3, 7), (3, 8)) else (3, 3)
