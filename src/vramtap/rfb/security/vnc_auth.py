"""VNC authentication: a challenge encrypted with the password (RFC 6143, 7.2.2)."""

from __future__ import annotations

import hmac
import secrets
from typing import Final

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from vramtap.errors import UsageError

CHALLENGE_BYTES: Final = 16
PASSWORD_BYTES: Final = 8
"""Bytes of a password that count: DES has no more key (RFC 6143, 7.2.2)."""


def new_challenge() -> bytes:
    """Random bytes for one connection."""
    return secrets.token_bytes(CHALLENGE_BYTES)


def check_password(password: str) -> str:
    """The password, if every client makes the same key of it.

    Raises:
        UsageError: it is empty, or not printable ASCII.
    """
    if not password:
        raise UsageError("VNC password", "", "it is empty", "give one of 1 to 8 characters")
    if not (password.isascii() and password.isprintable()):
        raise UsageError(
            "VNC password",
            "",
            "characters other than printable ASCII, which clients encode differently",
        )
    return password


def response_to(challenge: bytes, password: str) -> bytes:
    """What a client that knows the password answers.

    Args:
        challenge: 16 bytes.
        password: ASCII; only its first 8 characters count.
    """
    key = password.encode("ascii")[:PASSWORD_BYTES].ljust(PASSWORD_BYTES, b"\0")
    # The first VNC took the bits of each key byte from the other end than DES does; all do since.
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in key)
    # Three times the same key makes triple DES the plain DES that is no longer offered.
    encryptor = Cipher(TripleDES(mirrored * 3), modes.ECB()).encryptor()
    return encryptor.update(challenge) + encryptor.finalize()


def is_right(challenge: bytes, response: bytes, password: str) -> bool:
    """Whether the response shows that the password is known; takes as long either way."""
    return hmac.compare_digest(response_to(challenge, password), response)
