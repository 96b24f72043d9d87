"""Fuzz tests of the RFB server: any bytes raise ProtocolError at most, and memory stays bounded."""

from __future__ import annotations

import asyncio
import random
import struct
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.pictures import picture, pixel_formats
from support.rfb_client import vnc_response
from support.rfb_input import buffered_bytes
from support.synthetic_tap import RecordingInput, SyntheticTap
from vramtap.errors import ProtocolError
from vramtap.rfb.connection import ServerConnection
from vramtap.rfb.messages import MAX_CUT_TEXT_BYTES
from vramtap.rfb.updates import UpdateEncoder
from vramtap.servers.vnc.session import EndReason, SessionOptions, serve_session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vramtap.rfb.wire import Buffer

CHALLENGE = bytes(range(16))
GREETING = b"RFB 003.008\n\1\1"
GREETING_WITH_PASSWORD = b"RFB 003.008\n\2" + vnc_response("secret", CHALLENGE) + b"\1"
MOST_BUFFERED = MAX_CUT_TEXT_BYTES + 64 * 1024
U8, U16, U32 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32))

MESSAGES = st.one_of(
    st.builds(lambda wanted: b"\0\0\0\0" + wanted.pack(), pixel_formats()),
    st.builds(
        lambda numbers: struct.pack(f">BxH{len(numbers)}i", 2, len(numbers), *numbers),
        st.lists(
            st.one_of(st.sampled_from([0, 1, 7, 16, -223, -258, -308, -26, -250]), st.integers(-800, 30))
        ),
    ),
    st.builds(lambda *area: struct.pack(">BB4H", 3, *area), U8, U16, U16, U16, U16),
    st.builds(lambda down, key: struct.pack(">BB2xI", 4, down, key), U8, U32),
    st.builds(lambda mask, x, y: struct.pack(">BBHH", 5, mask, x, y), U8, U16, U16),
    st.builds(lambda text: struct.pack(">B3xi", 6, len(text)) + text, st.binary(max_size=100)),
    st.builds(lambda text: struct.pack(">B3xi", 6, -len(text)) + text, st.binary(max_size=100)),
    st.builds(
        lambda w, h, n: struct.pack(">BxHHBx", 251, w, h, n) + bytes(16 * n), U16, U16, st.integers(0, 4)
    ),
    st.builds(lambda down, key, code: struct.pack(">BBHII", 255, 0, down, key, code), U16, U32, U32),
)
CONVERSATIONS = st.lists(MESSAGES, max_size=20).map(b"".join)


def feed(rfb: ServerConnection, data: bytes, piece: int) -> bool:
    """Pass bytes to a connection piece by piece. Return False if it raised ProtocolError."""
    for at in range(0, len(data), piece):
        try:
            rfb.receive(data[at : at + piece])
        except ProtocolError:
            assert rfb.failed
            assert buffered_bytes(rfb) == 0
            assert rfb.receive(data) == []
            return False
        assert buffered_bytes(rfb) <= MOST_BUFFERED
        assert len(rfb.data_to_send()) < 4096
    return True


@given(st.binary(max_size=400), st.integers(1, 400))
def test_random_bytes_instead_of_a_handshake(data: bytes, piece: int) -> None:
    feed(ServerConnection("name", 64, 48), data, piece)
    feed(ServerConnection("name", 64, 48, "secret", CHALLENGE), b"RFB 003.008\n" + data, piece)


@given(st.binary(max_size=400), st.integers(1, 400))
def test_random_bytes_after_the_handshake(data: bytes, piece: int) -> None:
    feed(ServerConnection("name", 64, 48), GREETING + data, piece)


@settings(deadline=None)
@given(CONVERSATIONS, st.integers(1, 300))
def test_valid_conversations_are_processed_completely(data: bytes, piece: int) -> None:
    rfb = ServerConnection("name", 64, 48, "secret", CHALLENGE)
    assert feed(rfb, GREETING_WITH_PASSWORD + data, piece)
    assert buffered_bytes(rfb) == 0
    # An update can be made in every negotiated state.
    rfb.resize(80, 20)
    for update in (rfb.size_update(), rfb.begin_update((), ())):
        if update is not None:
            assert sum(map(len, UpdateEncoder().encode(update))) < 4096


@settings(deadline=None)
@given(CONVERSATIONS, st.data())
def test_mutated_and_truncated_conversations_raise_protocol_error_at_most(
    data: bytes, choose: st.DataObject
) -> None:
    mutated = bytearray(GREETING + data)
    for place in choose.draw(st.lists(st.integers(0, len(mutated) - 1), max_size=5)):
        mutated[place] = choose.draw(U8)
    end = choose.draw(st.integers(0, len(mutated)))
    feed(ServerConnection("name", 64, 48), bytes(mutated[:end]), choose.draw(st.integers(1, 100)))


@pytest.mark.parametrize(
    ("message", "flood_bytes"),
    [
        (struct.pack(">B3xi", 6, 64 << 20), 40 << 20),
        (struct.pack(">B3xi", 6, -(64 << 20)), 40 << 20),
        (struct.pack(">BxH", 2, 1024) + bytes(4096), 1 << 20),
        (struct.pack(">BxHHBx", 251, 1, 1, 255) + bytes(255 * 16), 1 << 20),
        (bytes.fromhex("03 01 0000 0000 ffff ffff"), 50_000),
        (b"\0\0\0\0" + bytes.fromhex("08080000") + bytes(12), 50_000),
    ],
    ids=["text", "extended-text", "encodings", "sizes", "requests", "colour-maps"],
)
def test_a_flood_of_messages_does_not_use_more_memory(message: bytes, flood_bytes: int) -> None:
    """Answers that the client does not take must not add up, nor must an incomplete message."""
    rfb = ServerConnection("name", 64, 48)
    rfb.receive(GREETING + struct.pack(">BxH2i", 2, 2, -308, -258))
    zeros = bytes(64 * 1024)
    flood = message * max(1, len(zeros) // len(message))
    tracemalloc.start()
    try:
        rfb.receive(message)
        for _ in range(0, flood_bytes, len(zeros)):
            # After the header of a long text, any bytes are text.
            rfb.receive(zeros if flood_bytes > 2 << 20 else flood)
            assert buffered_bytes(rfb) <= MOST_BUFFERED
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < MOST_BUFFERED + (1 << 18)


class HostileStream:
    """`ByteStream` of a hostile client. It ignores everything it is sent."""

    peer = "hostile"

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    async def receive(self) -> bytes:
        await asyncio.sleep(0)
        return self._pieces.pop(0) if self._pieces else b""

    async def send(self, buffers: Iterable[Buffer]) -> None:
        await asyncio.sleep(0)
        for buffer in buffers:
            assert memoryview(buffer).nbytes == len(buffer)


def test_sessions_of_hostile_clients_end_with_a_reason_and_leave_the_tap(stress: int) -> None:
    """The sessions are complete, up to the target's input. Half of the conversations are damaged."""
    dice = random.Random(20061)
    conversations = MESSAGES.filter(bool)
    examples: list[bytes] = []

    @settings(deadline=None, max_examples=150, database=None)
    @given(conversations)
    def gather(message: bytes) -> None:
        examples.append(message)

    gather()

    async def session() -> None:
        recorder = RecordingInput()
        tap = SyntheticTap(picture("patches", 200, 150), recorder)
        data = bytearray(GREETING + b"".join(dice.choices(examples, k=dice.randrange(40))))
        for _ in range(dice.choice([0, 0, 1, 3])):
            data[dice.randrange(len(data))] = dice.randrange(256)
        cuts = sorted(dice.randrange(len(data)) for _ in range(6))
        stream = HostileStream(bytes(data[a:b]) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True))
        end = await serve_session(stream, tap, SessionOptions(failure_delay_s=0))
        assert end.reason in (EndReason.LEFT, EndReason.BROKE_PROTOCOL, EndReason.WRONG_PASSWORD)
        assert end.detail
        assert tap.viewers == 0

    for _ in range(150 * stress):
        asyncio.run(session())
