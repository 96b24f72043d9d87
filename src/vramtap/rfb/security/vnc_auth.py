"""VNC authentication: the client encrypts a challenge with the password (RFC 6143, 7.2.2)."""

from __future__ import annotations

import hmac
import secrets
from typing import Final

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from vramtap.errors import UsageError

CHALLENGE_BYTES: Final = 16
PASSWORD_BYTES: Final = 8
"""Bytes of the password that are used, because a DES key has no more (RFC 6143, 7.2.2)."""


def new_challenge() -> bytes:
    """Return a random challenge for one connection."""
    return secrets.token_bytes(CHALLENGE_BYTES)


def check_password(password: str) -> str:
    """Return the password if every client makes the same key from it.

    Raises:
        UsageError: the password is empty, or not printable ASCII.
    """
    if not password:
        raise UsageError("VNC password", "", "it is empty", "set a password of 1 to 8 characters")
    if not (password.isascii() and password.isprintable()):
        raise UsageError(
            "VNC password",
            "",
            "it has characters other than printable ASCII, which clients encode differently",
            "use printable ASCII characters only",
        )
    return password


def expected_response(challenge: bytes, password: str) -> bytes:
    """Return the response of a client that knows the password.

    Args:
        challenge: The challenge, 16 bytes.
        password: ASCII password. Only its first 8 characters are used.
    """
    key = password.encode("ascii")[:PASSWORD_BYTES].ljust(PASSWORD_BYTES, b"\0")
    # The first VNC used the bits of each key byte in reverse order. All later ones do the same.
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in key)
    # Triple DES with three equal keys is DES, which the library does not offer.
    encryptor = Cipher(TripleDES(mirrored * 3), modes.ECB()).encryptor()
    return encryptor.update(challenge) + encryptor.finalize()


def response_matches(challenge: bytes, response: bytes, password: str) -> bool:
    """Return whether a client's response proves the password. The comparison takes constant time."""
    return hmac.compare_digest(expected_response(challenge, password), response)
