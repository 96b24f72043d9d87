"""Hostile clients of the program: memory stays bounded, the log names a reason, other viewers go on."""

from __future__ import annotations

import base64
import contextlib
import random
import re
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from support.follower import Follower
from support.program import PATIENCE_S, Served, serve
from support.rfb_client import COPY_RECT, DESKTOP_SIZE, RAW, TIGHT, ZRLE, Broken
from support.testbed.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from support.testbed.guest import Guest

WIDTH, HEIGHT = 1024, 768
SCREEN_BYTES = WIDTH * HEIGHT * 4
MIB = 1 << 20
MAX_CLIENTS = 64
"""Clients that the VNC server serves at once (README)."""

VERSION = b"RFB 003.008\n"
HELLO = VERSION + b"\1\1"
"""A whole handshake: version, no authentication, shared (RFC 6143, 7.1 and 7.3.1)."""
REQUEST = struct.pack(">BB4H", 3, 0, 0, 0, WIDTH, HEIGHT)
"""FramebufferUpdateRequest for the whole screen (RFC 6143, 7.5.3)."""


class Scene:
    """A drawing process, a server for it, and a well-behaved viewer that must stay exact."""

    def __init__(self, writer: Writer, server: Served, viewer: Follower) -> None:
        self.writer = writer
        self.server = server
        self.viewer = viewer
        self.hostile: set[str] = set()
        """Addresses of the hostile VNC clients, as the server's log names them."""

    def draw(self) -> None:
        """Change the screen, and check that the well-behaved viewer shows it exactly."""
        self.writer.run()
        pixels = self.writer.memory()[:SCREEN_BYTES].view(np.uint32) & np.uint32(0xFFFFFF)
        self.viewer.shows(pixels.reshape(HEIGHT, WIDTH))

    def connect(self, receive_bytes: int = 0) -> socket.socket:
        """Return a connection of a hostile client."""
        connection = _opened(self.server.vnc[0], receive_bytes)
        self.hostile.add("{}:{}".format(*connection.getsockname()))
        return connection

    def connect_web(self) -> socket.socket:
        """Return a connection to the web server."""
        url = urlsplit(self.server.web[0])
        assert url.hostname is not None
        assert url.port is not None
        return _opened((url.hostname, url.port))

    def reasons(self) -> dict[str, str]:
        """Return the last log message about each hostile client."""
        found: dict[str, str] = {}
        for line in self.server.log.splitlines():
            peer, colon, reason = line.partition(" INFO ")[2].partition(": ")
            if not colon:
                peer, _, reason = line.partition(" WARNING ")[2].partition(": ")
            if peer in self.hostile:
                found[peer] = reason
        return found

    def serves_new_client(self) -> None:
        """Check that the server serves a new client once it has noticed that others left."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                client = self.server.connect((TIGHT,))
                break
            except (Broken, ConnectionResetError):
                assert time.monotonic() < deadline, "no new client is served"
        with Follower(client) as another:
            another.shows(self.viewer.client.pixels)


def _opened(address: tuple[str, int], receive_bytes: int = 0) -> socket.socket:
    connection = socket.socket()
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(PATIENCE_S)
    connection.connect(address)
    return connection


@contextlib.contextmanager
def scene(*, web: bool = False) -> Iterator[Scene]:
    """Start the scene. At the end check the exit status, and that the log has a reason for every client."""
    with Writer(SCREEN_BYTES, writes=3_000, seed=21) as writer:
        url = f"pid:{writer.pid}?address={writer.address:#x}&mode={WIDTH}x{HEIGHT}"
        with serve(url, web=web) as server:
            with Follower(server.connect((COPY_RECT, TIGHT))) as viewer:
                on = Scene(writer, server, viewer)
                on.draw()
                yield on
                on.draw()
                on.serves_new_client()
            server.stop()
            assert on.hostile == on.reasons().keys()


def memory_mib(pid: int, field: str) -> float:
    """Return VmRSS (resident now) or VmHWM (its peak) of a process, MiB (proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no {field}")


@contextlib.contextmanager
def within(pid: int, mib: float) -> Iterator[None]:
    """Check that the process's memory grows by less than this while the `with` block runs."""
    # "5" resets the peak to the resident memory of now (proc(5), clear_refs).
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before_mib = memory_mib(pid, "VmRSS")
    yield
    most_mib = memory_mib(pid, "VmHWM")
    print(f"memory: {before_mib:.0f} MiB before, peak {most_mib:.0f} MiB")
    assert most_mib < before_mib + mib


def closed(connection: socket.socket) -> bool:
    """Read until the other side closes the connection; fail by timeout if it does not."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(1 << 16):
            pass
    connection.close()
    return True


def push(connection: socket.socket, data: Iterable[bytes]) -> None:
    """Send everything, or stop when the other side closes the connection."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        for piece in data:
            connection.sendall(piece)


def test_random_and_truncated_bytes_end_with_a_reason() -> None:
    chance = random.Random(1)
    whole = HELLO + struct.pack(">BxH2i", 2, 2, RAW, DESKTOP_SIZE) + REQUEST + struct.pack(">BB2xI", 4, 1, 97)
    with scene() as on, within(on.server.pid, 32):
        for number in range(100):
            connection = on.connect()
            if number % 2:
                data = whole[: chance.randrange(len(whole))]
            else:
                start = whole[: chance.choice((0, 4, 12, 13, 14, 30))]
                data = start + chance.randbytes(chance.choice((1, 30, 3000)))
            push(connection, [data])
            # Half of them close the connection; the others end their side and wait for the server.
            if number % 4 < 2:
                connection.shutdown(socket.SHUT_WR)
                assert closed(connection)
            connection.close()
            if number % 10 == 0:
                on.draw()


GIANTS = {
    "cut text of 2 GB": (struct.pack(">B3xI", 6, 0x7FFFFFFF), r"2147483647 bytes"),
    "extended cut text of 2 GB": (struct.pack(">B3xI", 6, 0x80000000), r"2147483648 bytes"),
    "cut text of 4 GB": (struct.pack(">B3xI", 6, 0xFFFFFFFF) + b"\xaa" * 9, r"type 170"),
    "65535 encodings": (struct.pack(">BxH", 2, 65535), r"65535 encodings"),
    "a pixel of 255 bits": (b"\0\0\0\0" + b"\xff" * 16, r"SetPixelFormat"),
    "an unknown message type": (b"\xfe", r"type 254"),
    "an extension that the server never offered": (b"\xff\x09", r"type 255 subtype 9"),
}


def test_giant_lengths_are_refused_before_memory_grows() -> None:
    with scene() as on:
        refused = {}
        with within(on.server.pid, 32):
            for name, (data, _) in GIANTS.items():
                connection = on.connect()
                refused[name] = "{}:{}".format(*connection.getsockname())
                push(connection, [HELLO, data])
                assert closed(connection), name
                on.draw()
        reasons = on.reasons()
        for name, (_, pattern) in GIANTS.items():
            assert re.search(pattern, reasons[refused[name]]), f"{name}: {reasons[refused[name]]}"


def test_long_valid_messages_are_not_buffered() -> None:
    text_bytes = 60 * MIB
    with scene() as on, within(on.server.pid, 32):
        connection = on.connect()
        head = struct.pack(">B3xI", 6, text_bytes)
        push(connection, [HELLO, head, *(b"\0" * MIB for _ in range(text_bytes // MIB))])
        on.draw()
        # The server has skipped the text and still serves the client.
        push(connection, [REQUEST])
        assert connection.recv(1 << 16)
        screens = struct.pack(">BxHHBx", 251, 65535, 65535, 255) + bytes(16 * 255)
        push(connection, [screens * 500])
        on.draw()
        connection.close()


def test_flood_of_requests_and_input_keeps_memory_bounded() -> None:
    huge = struct.pack(">BB4H", 3, 0, 65535, 65535, 65535, 65535)
    wide = struct.pack(">BB4H", 3, 0, 0, 0, 65535, 65535)
    keys = struct.pack(">BB2xI", 4, 1, 97) + struct.pack(">BB2xI", 4, 0, 97)
    pointer = struct.pack(">BBHH", 5, 255, 65535, 65535)
    with scene() as on, within(on.server.pid, 32):
        connection = on.connect()
        push(connection, [HELLO])
        # The client reads no update. The server must stop reading, so that the kernel holds the flood.
        connection.settimeout(0.5)
        for what in (huge, wide, keys, pointer, huge + wide + keys + pointer):
            with contextlib.suppress(TimeoutError):
                push(connection, [what * 20_000])
            on.draw()
        connection.close()


def test_two_hundred_connections_at_once_keep_the_limit() -> None:
    with scene() as on:
        # 63 of them each hold a picture that they do not read.
        with within(on.server.pid, MAX_CLIENTS * SCREEN_BYTES / MIB + 64):
            crowd = [on.connect(receive_bytes=4096) for _ in range(200)]
            for connection in crowd:
                push(connection, [HELLO, REQUEST])
            on.draw()
            rejected = 0
            for connection in crowd:
                # A served client first gets the server's version.
                try:
                    rejected += not connection.recv(len(VERSION))
                except ConnectionResetError:
                    rejected += 1
            assert rejected == 200 - (MAX_CLIENTS - 1)
            on.draw()
            for connection in crowd:
                connection.close()
            on.serves_new_client()
        reasons = list(on.reasons().values())
        assert sum("64 clients are connected already" in reason for reason in reasons) == rejected


def test_half_open_handshakes_are_ended() -> None:
    with scene() as on, within(on.server.pid, 32):
        silent = [on.connect() for _ in range(45)]
        for number, connection in enumerate(silent):
            push(connection, [HELLO[: number % len(HELLO)]])
        on.serves_new_client()
        for number, connection in enumerate(silent):
            if number % 10 == 0:
                on.draw()
            assert closed(connection)
        gone = [reason for reason in on.reasons().values() if reason.startswith("no complete handshake")]
        assert len(gone) == len(silent)


def test_viewers_that_never_read_keep_memory_bounded_and_delay_no_other(guest: Guest) -> None:
    with serve(guest.url) as server, Follower(server.connect((COPY_RECT, TIGHT, DESKTOP_SIZE))) as viewer:
        viewer.shows(guest.screendump())
        stalled = []
        with within(server.pid, 10 * 2 * SCREEN_BYTES / MIB + 64):
            for encoding in (RAW, ZRLE, TIGHT, RAW, ZRLE, TIGHT, RAW, RAW, RAW, RAW):
                client = server.connect((encoding, DESKTOP_SIZE))
                stalled.append(client)
                for _ in range(100):
                    client.request(incremental=False)
            painter = guest.spawn("fbtool draw 5 0")
            viewer.progresses(60)
            guest.kill(painter)
            viewer.shows(guest.screendump(), "after drawing")
        # The server keeps no old updates: a viewer that reads again gets a few, and then the current screen.
        for client in stalled[:3]:
            with Follower(client) as late:
                late.shows(guest.screendump(), "late")
        # Viewers that still do not read do not block the end of the server.
        server.stop()
        for client in stalled:
            client.close()


# The page


def upgrade(path: str, host: str) -> bytes:
    """Return the opening handshake of a WebSocket (RFC 6455, 4.1)."""
    key = base64.b64encode(bytes(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


def test_web_server_survives_two_hundred_connections_and_garbage() -> None:
    chance = random.Random(2)
    with scene(web=True) as on:
        host = urlsplit(on.server.web[0]).netloc
        opening = upgrade("/t/0/websockify", host)
        frames = (
            b"\x82\xff" + b"\x7f" + b"\xff" * 7 + b"\0" * 4,  # binary, 2^63 - 1 bytes announced
            b"\x82\xfe\xff\xff" + b"\0" * 4 + b"\xaa" * 65535,  # not RFB
            b"\x81\x84" + b"\0" * 4 + b"text",
            b"\x82\x02no",  # not masked
            b"\xf2\x80" + b"\0" * 4,  # reserved bits
            b"\x02\x81" + b"\0" * 4 + b"R",  # a fragment without an end
        )
        with within(on.server.pid, 64):
            crowd = [on.connect_web() for _ in range(200)]
            for number, connection in enumerate(crowd):
                match number % 5:
                    case 0:
                        push(connection, [opening, frames[number // 5 % len(frames)]])
                    case 1:
                        push(connection, [chance.randbytes(5000)])
                    case 2:
                        push(connection, [b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000])
                    case 3:
                        push(connection, [b"POST /api/stats HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"])
                    case _:
                        push(connection, [opening[: chance.randrange(len(opening))]])
            on.draw()
            for connection in crowd:
                connection.close()
            on.draw()
        # A fifth of the connections sent less than a request and leave no line in the log.
        assert on.server.log.count(" web 127.0.0.1: ") >= len(crowd) * 4 // 5
        with on.connect_web() as polite:
            polite.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            assert polite.recv(15) == b"HTTP/1.1 200 OK"
        with on.connect_web() as viewer:
            viewer.sendall(opening)
            answer = b""
            while VERSION not in answer:
                data = viewer.recv(1 << 16)
                assert data, answer
                answer += data
