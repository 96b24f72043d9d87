"""A small RFB client, written from the protocol documents alone. It shares no code with vramtap.

```
with RfbClient.connect("127.0.0.1", 5900, encodings=[ZRLE, RAW, DESKTOP_SIZE]) as client:
    client.refresh(incremental=False)
    client.pixels  # uint32, shape (height, width), 0x00RRGGBB
```

It is strict: it raises `Broken` for everything that a document forbids.
"""

from __future__ import annotations

import select
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from support.rfb_decoder import (
    COMPRESSION_0,
    COPY_RECT,
    DESKTOP_SIZE,
    EXTENDED_DESKTOP_SIZE,
    JPEG_QUALITY_0,
    LAST_RECT,
    NATIVE,
    QEMU_KEY,
    RAW,
    TIGHT,
    ZRLE,
    Broken,
    Decoder,
    PixelFormat,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from numpy.typing import NDArray

__all__ = [
    "COMPRESSION_0",
    "COPY_RECT",
    "DESKTOP_SIZE",
    "EXTENDED_DESKTOP_SIZE",
    "JPEG_QUALITY_0",
    "LAST_RECT",
    "NATIVE",
    "QEMU_KEY",
    "RAW",
    "TIGHT",
    "ZRLE",
    "Broken",
    "Decoder",
    "PixelFormat",
    "Rejected",
    "RfbClient",
    "Update",
    "vnc_response",
]


class Rejected(Exception):
    """The server refused the client. Carries the server's reason if the protocol version sends one."""


@dataclass
class Update:
    """One FramebufferUpdate."""

    rects: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    """Column, row, width, height and encoding of each rectangle with pixels."""
    pseudo: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    """The same of each pseudo-rectangle."""
    size_bytes: int = 0
    """Size of the whole message."""
    resized: bool = False


class RfbClient:
    """A connection. Use `connect`, or pass a connected socket and then call `handshake`."""

    def __init__(self, connection: socket.socket, timeout_s: float = 20.0) -> None:
        self.socket = connection
        self.timeout_s = timeout_s
        self.version = (3, 8)
        self.name = ""
        self.can_send_scancodes = False
        self.encodings: tuple[int, ...] = ()
        self._buffer = bytearray()
        self.bytes_read = 0
        self.decoder = Decoder(self.read, 0, 0)
        connection.settimeout(timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @classmethod
    def connect(
        cls,
        host: str,
        port: int,
        password: str | None = None,
        encodings: Iterable[int] = (RAW,),
        pixel_format: PixelFormat | None = None,
        version: tuple[int, int] = (3, 8),
        *,
        shared: bool = True,
        timeout_s: float = 20.0,
    ) -> RfbClient:
        """Connect and do the handshake.

        Raises:
            OSError: No server listens.
            Rejected: The server refused the client.
        """
        client = cls(socket.create_connection((host, port), timeout_s), timeout_s)
        try:
            client.handshake(password, version, shared=shared)
            if pixel_format is not None:
                client.set_format(pixel_format)
            client.set_encodings(encodings)
        except BaseException:
            client.close()
            raise
        return client

    def handshake(
        self, password: str | None, version: tuple[int, int] = (3, 8), *, shared: bool = True
    ) -> None:
        """Do the handshake up to ServerInit."""
        if self.read(12) != b"RFB 003.008\n":
            raise Broken("the server does not offer version 3.8")
        self.version = version
        self.send(b"RFB %03d.%03d\n" % version)
        wanted = 1 if password is None else 2
        if version >= (3, 7):
            offered = self.read(self.read(1)[0])
            if not offered:
                raise Rejected(self._reason())
            if wanted not in offered:
                raise Rejected(f"security types {list(offered)} offered")
            self.send(bytes([wanted]))
        else:
            (chosen,) = struct.unpack(">I", self.read(4))
            if chosen != wanted:
                raise Rejected(self._reason() if chosen == 0 else f"security type {chosen} demanded")
        if password is not None:
            self.send(vnc_response(password, self.read(16)))
        if password is not None or version >= (3, 8):
            (result,) = struct.unpack(">I", self.read(4))
            if result:
                raise Rejected(self._reason() if version >= (3, 8) else "")
        self.send(bytes([shared]))
        width, height, pixel_format, length = struct.unpack(">HH16sI", self.read(24))
        self.name = self.read(length).decode()
        self.decoder.format = PixelFormat.unpack(pixel_format)
        self.decoder.resize(width, height)

    def _reason(self) -> str:
        (length,) = struct.unpack(">I", self.read(4))
        return self.read(length).decode()

    # The framebuffer

    @property
    def width(self) -> int:
        return int(self.decoder.values.shape[1])

    @property
    def height(self) -> int:
        return int(self.decoder.values.shape[0])

    @property
    def pixels(self) -> NDArray[np.uint32]:
        """Pixels of shape `(height, width)`, `0x00RRGGBB`; a copy unless that is the client's format."""
        if self.decoder.format == NATIVE:
            return self.decoder.values.view(np.uint32)
        return self.decoder.pixels

    # Messages to the server

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def set_format(self, pixel_format: PixelFormat) -> None:
        self.send(struct.pack(">B3x", 0) + pixel_format.pack())
        self.decoder.format = pixel_format
        self.decoder.resize(self.width, self.height)

    def set_encodings(self, encodings: Iterable[int]) -> None:
        self.encodings = tuple(encodings)
        self.send(struct.pack(f">BxH{len(self.encodings)}i", 2, len(self.encodings), *self.encodings))

    def request(self, *, incremental: bool = True, area: tuple[int, int, int, int] | None = None) -> None:
        """Request an update of the area `(x, y, width, height)`; None for the whole framebuffer."""
        self.send(struct.pack(">BB4H", 3, incremental, *(area or (0, 0, self.width, self.height))))

    def key(self, keysym: int, *, down: bool, scancode: int | None = None) -> None:
        """Press or release a key. With a scancode it is sent as a QEMU extended key event."""
        if scancode is None:
            self.send(struct.pack(">BB2xI", 4, down, keysym))
        else:
            self.send(struct.pack(">BBHII", 255, 0, down, keysym, scancode))

    def pointer(self, x: int, y: int, buttons: int = 0) -> None:
        self.send(struct.pack(">BBHH", 5, buttons, x, y))

    def set_desktop_size(self, width: int, height: int) -> None:
        self.send(
            struct.pack(">BxHHBx", 251, width, height, 1) + struct.pack(">IHHHHI", 0, 0, 0, width, height, 0)
        )

    # Messages from the server

    def wait_update(self, timeout_s: float | None = None) -> Update:
        """Wait for the next FramebufferUpdate and decode it.

        Raises:
            TimeoutError: No update came.
            Broken: The server broke the protocol, or the connection ended.
        """
        while True:
            if not self._buffer and not select.select([self.socket], [], [], timeout_s or self.timeout_s)[0]:
                raise TimeoutError("no update")
            before = self.bytes_read
            kind = self.read(1)[0]
            if kind == 0:
                update = self._update()
                update.size_bytes = self.bytes_read - before
                return update
            if kind == 1:
                first, count = struct.unpack(">xHH", self.read(5))
                colours = np.frombuffer(self.read(6 * count), ">u2").reshape(count, 3) >> 8
                red, green, blue = colours.astype(np.uint32).T
                self.decoder.colour_map[first : first + count] = red << 16 | green << 8 | blue
            elif kind == 3:
                (length,) = struct.unpack(">3xI", self.read(7))
                self.read(length)
            elif kind != 2:
                raise Broken(f"message type {kind}")

    def refresh(self, *, incremental: bool = True, timeout_s: float | None = None) -> Update:
        """Request pixels and wait for them. Skip updates that only have pseudo-rectangles."""
        while True:
            self.request(incremental=incremental)
            update = self.wait_update(timeout_s)
            if update.rects:
                return update
            incremental = incremental and not update.resized

    def _update(self) -> Update:
        (count,) = struct.unpack(">xH", self.read(3))
        update = Update()
        for _ in range(count):
            _, _, width, height, encoding = rect = struct.unpack(">HHHHi", self.read(12))
            if encoding >= 0:
                if encoding != RAW and encoding not in self.encodings:
                    raise Broken(f"encoding {encoding} was not requested")
                if update.resized:
                    raise Broken("pixels in an update that changes the size")
                update.rects.append(rect)
                self.decoder.rectangle(*rect)
                continue
            if encoding not in self.encodings:
                raise Broken(f"pseudo-encoding {encoding} was not requested")
            update.pseudo.append(rect)
            if encoding == LAST_RECT:
                break
            if encoding == QEMU_KEY:
                self.can_send_scancodes = True
            elif encoding in (DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE):
                if encoding == EXTENDED_DESKTOP_SIZE:
                    self.read(16 * struct.unpack(">B3x", self.read(4))[0])
                if (width, height) != (self.width, self.height):
                    self.decoder.resize(width, height)
                    update.resized = True
            else:
                raise Broken(f"pseudo-encoding {encoding}")
        return update

    def read(self, size: int) -> bytes:
        """Read exactly this many bytes."""
        while len(self._buffer) < size:
            data = self.socket.recv(max(65536, min(size - len(self._buffer), 1 << 20)))
            if not data:
                raise Broken("the server closed the connection")
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self.bytes_read += size
        return taken

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def vnc_response(password: str, challenge: bytes) -> bytes:
    """Return the answer to a VNC challenge (RFC 6143, 7.2.2).

    All implementations reverse the bits of each byte of the key.
    """
    key = bytes(
        sum(1 << (7 - bit) for bit in range(8) if byte >> bit & 1)
        for byte in password.encode()[:8].ljust(8, b"\0")
    )
    encryptor = Cipher(TripleDES(key + key + key), modes.ECB()).encryptor()
    return encryptor.update(challenge) + encryptor.finalize()
