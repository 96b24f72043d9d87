"""`XConnection`: a connection to an X server whose process is known.

vramtap connects itself and hands the socket to libxcb. So the process is known from the very socket that is
used, a server that does not answer can be given up, and a refusal is an error, where libxcb would print it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

import xcffib
import xcffib.xproto

from vramtap.errors import NotFound
from vramtap.targets.x11.handshake import log_in
from vramtap.targets.x11.server import ANSWER_TIMEOUT_S, Display, connect_display

if TYPE_CHECKING:
    from collections.abc import Iterator

# xcffib ships type information, but not for the code that it generates at run time.
_xcffib: Final[Any] = xcffib


class XConnection:
    """A connection to an X server.

    Only one thread at a time may use it, except for `sever`. A server that was started to end or reset
    itself with its last client does so when this is the last connection.

    Args:
        display: The display.
        timeout_s: How long the server may take for one answer while connecting.

    Raises:
        NotFound: there is no such display, or the server has ended.
        Refused: the server or the kernel refuses the connection.
        NotTappable: the server's process is not visible, or the server does not answer.
    """

    def __init__(self, display: Display, *, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.display = display
        self._timeout_s = timeout_s
        self.pid: int
        first, self.pid, cookie = log_in(display, timeout_s)
        # The first connection stays open until the second stands: a server may end with its last client.
        with first:
            self._socket, pid = connect_display(display, timeout_s)
            if pid != self.pid:
                self._socket.close()
                raise NotFound("connect", str(display), "the server was replaced meanwhile", "try again")
            try:
                with self.guarded():
                    self.xcb: Any = self._hand_over(cookie)
            except _xcffib.ConnectionException as error:
                self._socket.close()
                reason = f"the server hung up ({error})"
                raise NotFound("connect", str(display), reason, "try again") from error
        roots = self.xcb.get_setup().roots
        if display.screen >= len(roots):
            self.close()
            remedy = f"x11::{display.number} is the first"
            raise NotFound("connect", str(display), f"the server has {len(roots)} screens", remedy)
        self.screen: Any = roots[display.screen]
        self.root: int = int(self.screen.root)

    def _hand_over(self, cookie: tuple[bytes, bytes]) -> Any:  # noqa: ANN401 - xcffib is not typed
        """Give libxcb a duplicate of the socket. xcffib's own function frees the cookie too early."""
        name, data = (_xcffib.ffi.new("char[]", part) for part in cookie)
        info = _xcffib.ffi.new("xcb_auth_info_t *")
        info.name, info.namelen, info.data, info.datalen = name, len(cookie[0]), data, len(cookie[1])
        descriptor = os.dup(self._socket.fileno())
        xcb = _xcffib.lib.xcb_connect_to_fd(descriptor, info if cookie[0] else _xcffib.ffi.NULL)
        try:
            failed = int(_xcffib.lib.xcb_connection_has_error(xcb))
            if failed:
                raise _xcffib.ConnectionException(failed)
            return _xcffib.wrap(xcb)
        except BaseException:
            _xcffib.lib.xcb_disconnect(xcb)
            raise

    @contextlib.contextmanager
    def guarded(self, timeout_s: float | None = None) -> Iterator[None]:
        """Cut the connection if the block takes too long, so that a call in it fails.

        Args:
            timeout_s: Time limit of the block; the one of the constructor by default.
        """
        timer = threading.Timer(self._timeout_s if timeout_s is None else timeout_s, self.sever)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def fileno(self) -> int:
        """Return the connection's descriptor; readable when the server has sent something, -1 once closed."""
        return self._socket.fileno()

    def sever(self) -> None:
        """Cut the connection, so that a call that waits in another thread fails at once."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            # The server or vramtap has closed it already.
            return

    def close(self) -> None:
        """End the connection. Harmless when called twice."""
        if self._socket.fileno() >= 0:
            self._socket.close()
            self.xcb.disconnect()
