"""ServerConnection: the server's side of one RFB connection, without I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vramtap.display.region import Rect
from vramtap.errors import ProtocolError
from vramtap.rfb.convert import colour_map
from vramtap.rfb.encodings import ENCODERS
from vramtap.rfb.encodings.base import EncodeOptions
from vramtap.rfb.events import (
    AuthenticationFailed,
    ClientInit,
    Event,
    FramebufferUpdateRequest,
    SetDesktopSize,
    SetEncodings,
    SetPixelFormat,
)
from vramtap.rfb.formats import NATIVE, WireFormat
from vramtap.rfb.handshake import Handshake
from vramtap.rfb.messages import read_message
from vramtap.rfb.updates import FramebufferUpdate, PixelRect
from vramtap.rfb.wire import (
    COMPRESSION_LEVEL,
    JPEG_QUALITY,
    SCREEN_LAYOUT,
    SERVER_INIT,
    Encoding,
    rect_header,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from vramtap.display.damage import Move

_REASON_SERVER, _REASON_THIS_CLIENT = 0, 1
_STATUS_OK, _STATUS_PROHIBITED = 0, 1
_MAX_NAME_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class ClientEncodings:
    """What a client's SetEncodings allows.

    Args:
        picture: Encoding for pixels: the first in the client's list that vramtap supports.
        copy_rect: The client can copy its own pixels (CopyRect).
        desktop_size: The client can change its framebuffer's size (DesktopSize).
        extended_desktop_size: The client can do so, and wants the layout of screens (ExtendedDesktopSize).
        qemu_keys: The client can send scancodes (QEMU Extended Key Event).
        quality: JPEG quality level 0..9. None if the client does not allow JPEG.
        compression: Compression level 0..9. None if the client set none.
    """

    picture: int = Encoding.RAW
    copy_rect: bool = False
    desktop_size: bool = False
    extended_desktop_size: bool = False
    qemu_keys: bool = False
    quality: int | None = None
    compression: int | None = None

    @classmethod
    def parse(cls, numbers: tuple[int, ...]) -> ClientEncodings:
        """Return what a list of encodings allows.

        Args:
            numbers: Encodings and pseudo-encodings, the client's favourite first.
        """
        return cls(
            picture=next((number for number in numbers if number in ENCODERS), Encoding.RAW),
            copy_rect=Encoding.COPY_RECT in numbers,
            desktop_size=Encoding.DESKTOP_SIZE in numbers,
            extended_desktop_size=Encoding.EXTENDED_DESKTOP_SIZE in numbers,
            qemu_keys=Encoding.QEMU_EXTENDED_KEY in numbers,
            quality=next((n - JPEG_QUALITY.start for n in numbers if n in JPEG_QUALITY), None),
            compression=next((n - COMPRESSION_LEVEL.start for n in numbers if n in COMPRESSION_LEVEL), None),
        )

    @property
    def can_resize(self) -> bool:
        """Whether the client can change its framebuffer's size."""
        return self.desktop_size or self.extended_desktop_size


class ServerConnection:
    """The server's side of one RFB connection: `receive` returns events, `begin_update` returns updates.

    A client cannot make its memory grow. What the next update has to contain is kept in flags. Of the
    client's input, only one incomplete message is kept.

    Args:
        name: Name of the desktop. Clients show it.
        width: Width of the screen, pixels.
        height: Height of the screen, pixels.
        password: Password for VNC authentication. None accepts every client.
        challenge: Challenge for tests. None makes a random one.
    """

    def __init__(
        self, name: str, width: int, height: int, password: str | None = None, challenge: bytes | None = None
    ) -> None:
        self.name: Final = name
        self.width: int = width
        """Width of the client's framebuffer, pixels."""
        self.height: int = height
        """Height of the client's framebuffer, pixels."""
        self.format: WireFormat = NATIVE
        self.encodings: ClientEncodings = ClientEncodings()
        self.initialised: bool = False
        """Whether the handshake is complete."""
        self.failed: bool = False
        """Whether the connection ended: a wrong password or a protocol error. Later input is ignored."""
        self._handshake = Handshake(password, challenge)
        self._greeting = bytearray()
        self._input = bytearray()
        self._events: list[Event] = []
        self._steps = self._run()
        self._needed = next(self._steps)
        self._colour_map_due = False
        self.key_rect_due: bool = False
        """Whether the next update has a pseudo-rectangle for QEMU keys, even if no pixel changed."""
        self._key_rect_sent = False
        self._desktop_size_due = False
        self._layout_due: tuple[int, int] | None = None
        self._layout_was_last = False

    @property
    def version(self) -> tuple[int, int]:
        """Protocol version, for example `(3, 8)`."""
        return self._handshake.version

    def receive(self, data: bytes) -> list[Event]:
        """Process bytes from the client.

        Returns:
            Events, in order. A change of format or encodings has already taken effect.

        Raises:
            ProtocolError: the client broke the protocol. The connection has failed.
        """
        if self.failed:
            return []
        self._input += data
        at = 0
        try:
            while not self.failed and len(self._input) - at >= self._needed:
                taken = bytes(self._input[at : at + self._needed])
                at += self._needed
                self._needed = self._steps.send(taken)
        except ProtocolError:
            self.failed = True
            self._input.clear()
            raise
        if self.failed:
            self._input.clear()
        else:
            del self._input[:at]
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> bytes:
        """Return the handshake's bytes to send, and remove them. After the handshake there are none."""
        data = bytes(self._handshake.to_send + self._greeting)
        self._handshake.to_send.clear()
        self._greeting.clear()
        return data

    def resize(self, width: int, height: int) -> bool:
        """Report a new size of the screen.

        Args:
            width: New width, pixels.
            height: New height, pixels.

        Returns:
            Whether the client's framebuffer gets this size. Before ServerInit it always does. Later it does
            if the client supports it; if not, `width` and `height` stay as they are.
        """
        if (width, height) == (self.width, self.height):
            return True
        if not self.initialised:
            self.width, self.height = width, height
            return True
        if not self.encodings.can_resize:
            return False
        self.width, self.height = width, height
        if self.encodings.extended_desktop_size:
            self._request_layout(_REASON_SERVER, _STATUS_OK)
        else:
            self._desktop_size_due = True
        return True

    @property
    def size_update_is_urgent(self) -> bool:
        """Whether `size_update` answers a SetDesktopSize, and so is sent without a request."""
        return self._layout_due is not None and self._layout_due[0] == _REASON_THIS_CLIENT

    def size_update(self) -> FramebufferUpdate | None:
        """Return an update with the size of the framebuffer. None if the client knows the size.

        Such an update has no pixels. Source: rfbproto, DesktopSize and ExtendedDesktopSize.
        """
        if self._layout_due is not None:
            (x, y), self._layout_due = self._layout_due, None
            self._desktop_size_due = False
            self._layout_was_last = True
            header = rect_header(x, y, self.width, self.height, Encoding.EXTENDED_DESKTOP_SIZE)
            return self._update((header + SCREEN_LAYOUT.pack(1, 0, 0, 0, self.width, self.height, 0),))
        if self._desktop_size_due:
            self._desktop_size_due = False
            return self._update((rect_header(0, 0, self.width, self.height, Encoding.DESKTOP_SIZE),))
        return None

    def begin_update(self, moves: Iterable[Move], pixel_rects: Iterable[PixelRect]) -> FramebufferUpdate:
        """Return an update in the client's current format and encodings.

        Args:
            moves: Moves, only if `encodings.copy_rect`. None reads pixels that an earlier one wrote.
            pixel_rects: Rectangles inside the client's framebuffer.
        """
        pseudo: tuple[bytes, ...] = ()
        if self.key_rect_due:
            self.key_rect_due = False
            pseudo = (rect_header(0, 0, 0, 0, Encoding.QEMU_EXTENDED_KEY),)
        self._layout_was_last = False
        return self._update(pseudo, tuple(moves), tuple(pixel_rects))

    def _update(
        self,
        pseudo_rects: tuple[bytes, ...],
        moves: tuple[Move, ...] = (),
        pixel_rects: tuple[PixelRect, ...] = (),
    ) -> FramebufferUpdate:
        preceding = b""
        if self._colour_map_due:
            self._colour_map_due = False
            preceding = colour_map(self.format)
        options = EncodeOptions(self.format, self.encodings.quality, self.encodings.compression)
        return FramebufferUpdate(options, self.encodings.picture, preceding, pseudo_rects, moves, pixel_rects)

    def _request_layout(self, reason: int, status: int) -> None:
        """Put the layout of screens into the next size update."""
        # The answer to the client's SetDesktopSize is not replaced by a layout that the client did not
        # request.
        if self._layout_due is None or reason == _REASON_THIS_CLIENT:
            self._layout_due = (reason, status)

    def _run(self) -> Generator[int, bytes, None]:
        outcome = yield from self._handshake.run()
        self._events.append(outcome)
        if isinstance(outcome, AuthenticationFailed):
            self.failed = True
            yield 1
            return
        assert isinstance(outcome, ClientInit)
        name = self.name.encode("utf-8", "replace")[:_MAX_NAME_BYTES]
        self._greeting += SERVER_INIT.pack(self.width, self.height, NATIVE.pack(), len(name)) + name
        self.initialised = True
        while True:
            message = yield from read_message()
            self._events.append(self._apply(message))

    def _apply(self, event: Event) -> Event:
        """Apply a message to the state. Return its event, with an update request clipped."""
        match event:
            case SetPixelFormat(wanted):
                self.format = wanted
                self._colour_map_due = not wanted.true_colour
            case SetEncodings(numbers):
                self.encodings = ClientEncodings.parse(numbers)
                if self.encodings.qemu_keys and not self._key_rect_sent:
                    self._key_rect_sent = self.key_rect_due = True
            case FramebufferUpdateRequest(incremental, area):
                return self._clip_request(area, incremental=incremental)
            case SetDesktopSize() if self.encodings.extended_desktop_size:
                self._request_layout(_REASON_THIS_CLIENT, _STATUS_PROHIBITED)
        return event

    def _clip_request(self, area: Rect | None, *, incremental: bool) -> FramebufferUpdateRequest:
        """Return the request, clipped to the framebuffer (rfbproto).

        A request that is not incremental is answered with the layout of screens first, if the client
        supports that. Some clients answer the layout with another such request. To avoid a loop, the
        next answer after a layout has pixels.
        """
        if not incremental and self.encodings.extended_desktop_size and not self._layout_was_last:
            self._request_layout(_REASON_SERVER, _STATUS_OK)
        clipped = area.intersect(Rect(0, 0, self.width, self.height)) if area is not None else None
        return FramebufferUpdateRequest(incremental, clipped)
