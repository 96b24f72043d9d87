"""Tests of the handshake, byte for byte, for each version of RFC 6143 (7.1 to 7.3)."""

from __future__ import annotations

import pytest

from support.rfb_client import vnc_response
from support.rfb_input import buffered_bytes
from vramtap.errors import ProtocolError
from vramtap.rfb.connection import ServerConnection
from vramtap.rfb.events import AuthenticationFailed, ClientInit

CHALLENGE = bytes(range(100, 116))
RIGHT = vnc_response("secret", CHALLENGE)
SERVER_INIT = bytes.fromhex("0280 01e0 20180001 00ff00ff00ff 100800 000000 00000004") + b"name"
OK, FAILED = bytes(4), bytes([0, 0, 0, 1])
REASON = bytes([0, 0, 0, 21]) + b"Authentication failed"


def connection(password: str | None = None) -> ServerConnection:
    new = ServerConnection("name", 640, 480, password, CHALLENGE)
    assert new.data_to_send() == b"RFB 003.008\n"
    return new


@pytest.mark.parametrize(
    ("version", "agreed"),
    [
        (b"003.003", (3, 3)),
        (b"003.889", (3, 3)),
        (b"003.005", (3, 3)),
        (b"003.006", (3, 3)),
        (b"004.001", (3, 3)),
    ],
)
def test_version_3_3_gets_the_security_type(version: bytes, agreed: tuple[int, int]) -> None:
    rfb = connection()
    assert rfb.receive(b"RFB " + version + b"\n") == []
    assert rfb.version == agreed
    assert rfb.data_to_send() == bytes([0, 0, 0, 1])
    assert rfb.receive(b"\x01") == [ClientInit(shared=True)]
    assert rfb.data_to_send() == SERVER_INIT


def test_version_3_7_chooses_and_gets_no_result_without_a_password() -> None:
    rfb = connection()
    rfb.receive(b"RFB 003.007\n")
    assert rfb.data_to_send() == bytes([1, 1])
    assert rfb.receive(b"\x01") == []
    assert rfb.data_to_send() == b""
    assert rfb.receive(b"\x00") == [ClientInit(shared=False)]
    assert rfb.data_to_send() == SERVER_INIT


def test_version_3_8_always_gets_a_result() -> None:
    rfb = connection()
    rfb.receive(b"RFB 003.008\n")
    assert rfb.data_to_send() == bytes([1, 1])
    rfb.receive(b"\x01")
    assert rfb.data_to_send() == OK
    rfb.receive(b"\x01")
    assert rfb.data_to_send() == SERVER_INIT


@pytest.mark.parametrize(
    ("version", "offer"), [(b"003.003", FAILED[:3] + b"\2"), (b"003.007", b"\1\2"), (b"003.008", b"\1\2")]
)
def test_the_right_password_is_accepted(version: bytes, offer: bytes) -> None:
    rfb = connection("secret")
    rfb.receive(b"RFB " + version + b"\n")
    if rfb.version == (3, 3):
        assert rfb.data_to_send() == offer + CHALLENGE
    else:
        assert rfb.data_to_send() == offer
        rfb.receive(b"\2")
        assert rfb.data_to_send() == CHALLENGE
    assert rfb.receive(RIGHT) == []
    assert rfb.data_to_send() == OK
    assert rfb.receive(b"\1") == [ClientInit(shared=True)]
    assert rfb.data_to_send() == SERVER_INIT


@pytest.mark.parametrize(
    ("version", "answer"), [(b"003.003", FAILED), (b"003.007", FAILED), (b"003.008", FAILED + REASON)]
)
def test_a_wrong_password_fails_with_a_reason_from_3_8(version: bytes, answer: bytes) -> None:
    rfb = connection("secret")
    rfb.receive(b"RFB " + version + b"\n")
    if rfb.version != (3, 3):
        rfb.receive(b"\2")
    rfb.data_to_send()
    assert rfb.receive(bytes(16) + b"\1 and more") == [AuthenticationFailed()]
    assert rfb.data_to_send() == answer
    assert rfb.failed
    assert not rfb.initialised
    assert rfb.receive(b"\1") == []
    assert buffered_bytes(rfb) == 0


@pytest.mark.parametrize(("password", "chosen"), [(None, 2), ("secret", 1), (None, 0), ("secret", 16)])
def test_a_security_type_that_was_not_offered_raises(password: str | None, chosen: int) -> None:
    rfb = connection(password)
    with pytest.raises(ProtocolError, match=f"security type {chosen}: only . was offered"):
        rfb.receive(b"RFB 003.008\n" + bytes([chosen]))
    assert rfb.failed


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.1\r\n", b"RFB 003.8\n\n\n\n", b"rfb 003.008\n", bytes(12), b"RFB 003.008\0"]
)
def test_other_first_bytes_than_an_rfb_version_raise(line: bytes) -> None:
    with pytest.raises(ProtocolError, match="not an RFB version"):
        connection().receive(line)


def test_a_handshake_in_one_piece_is_processed_in_order() -> None:
    rfb = connection("secret")
    assert rfb.receive(b"RFB 003.008\n\2" + RIGHT + b"\0") == [ClientInit(shared=False)]
    assert rfb.data_to_send() == b"\1\2" + CHALLENGE + OK + SERVER_INIT


def test_server_init_has_the_latest_size() -> None:
    rfb = connection()
    rfb.receive(b"RFB 003.003\n")
    rfb.data_to_send()
    assert rfb.resize(800, 600)
    rfb.receive(b"\1")
    assert rfb.data_to_send()[:4] == bytes.fromhex("0320 0258")


def test_a_long_name_is_cut() -> None:
    rfb = ServerConnection("ü" * 5000, 1, 1)
    rfb.receive(b"RFB 003.003\n\1")
    assert rfb.data_to_send().endswith(bytes([0, 0, 4, 0]) + "ü".encode() * 512)
