"""ServerConnection: one RFB client as the server sees it, without I/O."""

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
from vramtap.rfb.updates import PixelRect, Update
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
    """What a SetEncodings means here.

    Args:
        picture: The encoding for pixels: the first in the client's order that we have.
        copy_rect: It can copy its own pixels.
        desktop_size: It can follow a change of size.
        extended_desktop_size: It can follow one, and asks for the layout of screens.
        qemu_keys: It can send scancodes.
        quality: JPEG quality level; None if it did not allow JPEG.
        compression: Compression level; None if it named none.
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
        """From a client's list, the first being what it likes best."""
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
        """Whether it can follow a change of size in any way."""
        return self.desktop_size or self.extended_desktop_size


class ServerConnection:
    """The protocol with one client: bytes in, events out; and updates begun in the state it has reached.

    Nothing that a client can repeat makes anything here grow: what is owed to it is kept as flags,
    to be worked into the next update, and its input as one message that is not complete.

    Args:
        name: Of the desktop, shown by clients.
        width: Of the screen, pixels.
        height: Of the screen, pixels.
        password: For VNC authentication; None lets everyone in.
        challenge: Set by tests; random if None.
    """

    def __init__(
        self, name: str, width: int, height: int, password: str | None = None, challenge: bytes | None = None
    ) -> None:
        self.name: Final = name
        self.width = width
        """Of the framebuffer as the client knows it, pixels."""
        self.height = height
        """Of the framebuffer as the client knows it, pixels."""
        self.format: WireFormat = NATIVE
        self.encodings = ClientEncodings()
        self.initialised = False
        """The handshake is done."""
        self.failed = False
        """It is over: a wrong password or a broken client. More input is thrown away."""
        self._handshake = Handshake(password, challenge)
        self._greeting = bytearray()
        self._input = bytearray()
        self._events: list[Event] = []
        self._conversation = self._converse()
        self._needed = next(self._conversation)
        self._owes_colour_map = False
        self._owes_key_notice = False
        self._told_of_keys = False
        self._owes_desktop_size = False
        self._owes_layout: tuple[int, int] | None = None
        self._layout_was_last = False

    @property
    def version(self) -> tuple[int, int]:
        """The protocol version agreed on."""
        return self._handshake.version

    @property
    def buffered_bytes(self) -> int:
        """Input kept because a message is not complete; less than the longest message kept whole."""
        return len(self._input)

    def receive(self, data: bytes) -> list[Event]:
        """Take what came from the client.

        Returns:
            What it did, in order. An event of a state change (format, encodings) has taken effect.

        Raises:
            ProtocolError: it broke the protocol; the connection is over.
        """
        if self.failed:
            return []
        self._input += data
        at = 0
        try:
            while not self.failed and len(self._input) - at >= self._needed:
                taken = bytes(self._input[at : at + self._needed])
                at += self._needed
                self._needed = self._conversation.send(taken)
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
        """What the handshake has to say; nothing once it is done, when everything goes through updates."""
        data = bytes(self._handshake.to_send + self._greeting)
        self._handshake.to_send.clear()
        self._greeting.clear()
        return data

    def resize(self, width: int, height: int) -> bool:
        """The screen has another size.

        Returns:
            Whether the client follows: before ServerInit always, after it if it can. If not, its
            framebuffer stays `width` x `height` of this object.
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
            self._owe_layout(_REASON_SERVER, _STATUS_OK)
        else:
            self._owes_desktop_size = True
        return True

    @property
    def is_urgent(self) -> bool:
        """Whether a `notice` should go out without waiting for a request: the answer to SetDesktopSize."""
        return self._owes_layout is not None and self._owes_layout[0] == _REASON_THIS_CLIENT

    def notice(self) -> Update | None:
        """The size of the framebuffer, if it has to be told: an update that may hold nothing else.

        Source: rfbproto, DesktopSize and ExtendedDesktopSize.
        """
        if self._owes_layout is not None:
            (x, y), self._owes_layout = self._owes_layout, None
            self._owes_desktop_size = False
            self._layout_was_last = True
            header = rect_header(x, y, self.width, self.height, Encoding.EXTENDED_DESKTOP_SIZE)
            return self._update((header + SCREEN_LAYOUT.pack(1, 0, 0, 0, self.width, self.height, 0),))
        if self._owes_desktop_size:
            self._owes_desktop_size = False
            return self._update((rect_header(0, 0, self.width, self.height, Encoding.DESKTOP_SIZE),))
        return None

    @property
    def owes_extension_notice(self) -> bool:
        """Whether there is a pseudo-rectangle to send even if no pixel has changed."""
        return self._owes_key_notice

    def begin_update(self, moves: Iterable[Move], pieces: Iterable[PixelRect]) -> Update:
        """An update in the format and encodings that hold now, with what else is owed worked in.

        Args:
            moves: In an order in which none reads what an earlier one wrote; only if `encodings.copy_rect`.
            pieces: Inside the client's framebuffer.
        """
        pseudo: tuple[bytes, ...] = ()
        if self._owes_key_notice:
            self._owes_key_notice = False
            pseudo = (rect_header(0, 0, 0, 0, Encoding.QEMU_EXTENDED_KEY),)
        self._layout_was_last = False
        return self._update(pseudo, tuple(moves), tuple(pieces))

    def _update(
        self, pseudo: tuple[bytes, ...], moves: tuple[Move, ...] = (), pieces: tuple[PixelRect, ...] = ()
    ) -> Update:
        before = b""
        if self._owes_colour_map:
            self._owes_colour_map = False
            before = colour_map(self.format)
        options = EncodeOptions(self.format, self.encodings.quality, self.encodings.compression)
        return Update(options, self.encodings.picture, before, pseudo, moves, pieces)

    def _owe_layout(self, reason: int, status: int) -> None:
        # An answer the client waits for is not replaced by the news that nothing asked for.
        if self._owes_layout is None or reason == _REASON_THIS_CLIENT:
            self._owes_layout = (reason, status)

    def _converse(self) -> Generator[int, bytes, None]:
        outcome = yield from self._handshake.converse()
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
            self._events.append(self._react(message))

    def _react(self, event: Event) -> Event:
        """Let a message take effect; what it reports may be cut down to what is valid."""
        match event:
            case SetPixelFormat(wanted):
                self.format = wanted
                self._owes_colour_map = not wanted.true_colour
            case SetEncodings(numbers):
                self.encodings = ClientEncodings.parse(numbers)
                if self.encodings.qemu_keys and not self._told_of_keys:
                    self._told_of_keys = self._owes_key_notice = True
            case FramebufferUpdateRequest(incremental, area):
                return self._requested(incremental, area)
            case SetDesktopSize() if self.encodings.extended_desktop_size:
                self._owe_layout(_REASON_THIS_CLIENT, _STATUS_PROHIBITED)
        return event

    def _requested(self, incremental: bool, area: Rect | None) -> FramebufferUpdateRequest:
        """Clip to the framebuffer (rfbproto); tell the layout to those who ask afresh and know what it is.

        A client that answers the layout by asking afresh again would go round in circles: having
        just been told, it gets its pixels.
        """
        if not incremental and self.encodings.extended_desktop_size and not self._layout_was_last:
            self._owe_layout(_REASON_SERVER, _STATUS_OK)
        clipped = area.intersect(Rect(0, 0, self.width, self.height)) if area is not None else None
        return FramebufferUpdateRequest(incremental, clipped)
