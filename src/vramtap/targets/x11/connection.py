"""Connecting to an X server of this machine, and knowing which process it is.

The connection is made here and handed to libxcb, not made by it: the process is then known from the very
socket that is used, a server that does not answer can be given up, and a refusal comes back as an error
where libxcb would print it.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import xcffib
import xcffib.xproto

from vramtap.errors import NotFound, NotTappable, Refused, UsageError, VramtapError
from vramtap.linux import procfs
from vramtap.targets.x11.xauthority import cookies, server_authority

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vramtap.targets.url import TargetSpec

SOCKET_DIRECTORY: Final = "/tmp/.X11-unix"
ANSWER_TIMEOUT_S: Final = 5.0
"""For a server to answer one greeting. It answers within milliseconds unless it is stopped, or grabbed."""
MAX_DISPLAY: Final = 65535
MAX_COOKIES: Final = 8
"""Of one file, that are tried."""
_UCRED: Final = struct.Struct("3i")
_DISPLAY: Final = re.compile(r"(.*):([0-9]{1,5})(?:\.([0-9]{1,3}))?", re.ASCII)

# xcffib says that it is typed; what it makes at run time is not.
_xcffib: Final[Any] = xcffib


@dataclass(frozen=True, slots=True)
class Display:
    """A display of this machine.

    Args:
        number: Of the display.
        screen: Of the screen on it.
    """

    number: int
    screen: int = 0

    def __str__(self) -> str:
        """As DISPLAY names it."""
        return f":{self.number}.{self.screen}" if self.screen else f":{self.number}"


def parse_display(spec: TargetSpec) -> Display:
    """The display of an `x11:` target.

    Args:
        spec: `x11::NUMBER`, or `x11::NUMBER.SCREEN`.

    Raises:
        UsageError: it is no display, or one of another machine.
    """
    match = _DISPLAY.fullmatch(spec.rest)
    if match is None or int(match[2]) > MAX_DISPLAY:
        raise UsageError("target", spec.url, f"{spec.rest!r} is not a display", "x11::99 for DISPLAY=:99")
    if match[1] not in ("", "unix"):
        what = f"the memory of a server on {match[1]!r} cannot be reached from here"
        raise UsageError("target", spec.url, what, f"for a local display write x11::{match[2]}")
    return Display(int(match[2]), int(match[3] or 0))


def server_name(pid: int) -> str:
    """What runs in a server's process: `Xvfb`.

    Raises:
        NotFound: it has ended.
        Refused: no permission.
    """
    # The kernel says so when the program was replaced on disk, by an upgrade.
    return os.path.basename(procfs.exe(pid)).removesuffix(" (deleted)")


def server_pid(display: Display) -> int:
    """The process that listens for a display's clients; it notices a connection that says nothing.

    Raises:
        NotFound: no such display, or the server has ended.
        Refused: no permission.
        NotTappable: the process cannot be known, or takes no connection.
    """
    connected, pid = _connect(display)
    connected.close()
    return pid


class Link:
    """A connection to an X server.

    Not for two threads at once, except `sever`. A server that was started to end or to reset itself with
    its last client does so when this connection is the last.

    Args:
        display: Which.

    Raises:
        NotFound: no such display, or the server has ended.
        Refused: the server or the kernel refuses us.
        NotTappable: the server's process cannot be known, or it does not answer.
    """

    def __init__(self, display: Display) -> None:
        self.display = display
        greeted, self.pid, auth = _accepted(display)
        # Kept until the real connection stands: a server may end itself when its last client leaves.
        with greeted:
            self._socket, pid = _connect(display)
            if pid != self.pid:
                self._socket.close()
                raise NotFound("connect", str(display), "the server was replaced meanwhile", "try again")
            try:
                with self.guarded():
                    self.connection = self._hand_over(auth)
            except _xcffib.ConnectionException as error:
                self._socket.close()
                raise NotFound(
                    "connect", str(display), f"the server hung up ({error})", "try again"
                ) from error
        roots = self.connection.get_setup().roots
        if display.screen >= len(roots):
            self.close()
            remedy = f"x11::{display.number} is the first"
            raise NotFound("connect", str(display), f"the server has {len(roots)} screens", remedy)
        self.screen: Any = roots[display.screen]
        self.root = int(self.screen.root)

    def _hand_over(self, auth: tuple[bytes, bytes]) -> Any:  # noqa: ANN401 - xcffib is not typed
        """Give libxcb a duplicate of our socket; xcffib's own way would let go of the cookie too early."""
        name, data = (_xcffib.ffi.new("char[]", part) for part in auth)
        info = _xcffib.ffi.new("xcb_auth_info_t *")
        info.name, info.namelen, info.data, info.datalen = name, len(auth[0]), data, len(auth[1])
        descriptor = os.dup(self._socket.fileno())
        given = _xcffib.lib.xcb_connect_to_fd(descriptor, info if auth[0] else _xcffib.ffi.NULL)
        try:
            failed = int(_xcffib.lib.xcb_connection_has_error(given))
            if failed:
                raise _xcffib.ConnectionException(failed)
            return _xcffib.wrap(given)
        except BaseException:
            _xcffib.lib.xcb_disconnect(given)
            raise

    @contextlib.contextmanager
    def guarded(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Iterator[None]:
        """Inside, calls fail when the server has not answered in this time; the connection is lost then."""
        timer = threading.Timer(timeout_s, self.sever)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def fileno(self) -> int:
        """The connection's descriptor; readable when the server has something to say, -1 once closed."""
        return self._socket.fileno()

    def sever(self) -> None:
        """Cut the connection: a call that waits in another thread fails at once."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            # Closed, by the server or by us: nothing waits any more.
            return

    def close(self) -> None:
        """End the connection; harmless twice."""
        if self._socket.fileno() >= 0:
            self._socket.close()
            self.connection.disconnect()


def _connect(display: Display) -> tuple[socket.socket, int]:
    """Connect to a display's socket; returns it and the process that listens there."""
    path = f"{SOCKET_DIRECTORY}/X{display.number}"
    reasons = []
    # Xorg listens at the path and at the abstract name alike; a container may share only one of them.
    for address in (path, f"\0{path}"):
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            found.settimeout(ANSWER_TIMEOUT_S)
            found.connect(address)
            credentials = found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        except OSError as error:
            found.close()
            reasons.append(error)
            continue
        pid = int(_UCRED.unpack(credentials)[0])
        if pid <= 0:
            found.close()
            what = "the server runs in another pid namespace"
            raise NotTappable("connect", str(display), what, "run vramtap where its process is seen")
        return found, pid
    raise _not_connected(display, path, reasons[0])


def _not_connected(display: Display, path: str, error: OSError) -> VramtapError:
    if isinstance(error, FileNotFoundError):
        return NotFound("connect", str(display), f"no X server there ({path} is missing)", "see vramtap ls")
    if isinstance(error, ConnectionRefusedError):
        return NotFound("connect", str(display), f"the server has ended and left {path}", "see vramtap ls")
    if isinstance(error, TimeoutError):
        return _silent(display)
    return Refused("connect", str(display), f"{path}: {error.strerror or error}", "run as the server's user")


def _silent(display: Display) -> NotTappable:
    what = f"the server does not answer for {ANSWER_TIMEOUT_S:g} s"
    return NotTappable("connect", str(display), what, "is it stopped, or grabbed by one of its clients?")


def _accepted(display: Display) -> tuple[socket.socket, int, tuple[bytes, bytes]]:
    """Find a cookie that the server accepts.

    Returns:
        The connection it was accepted on, the server's process, and name and data of the cookie, both
        empty where none is needed.
    """
    refusal, tried, own = "", 0, None
    candidates = cookies(display.number)[:MAX_COOKIES]
    while True:
        greeted, pid = _connect(display)
        if not tried:
            # The file the server itself was started with (xvfb-run, display managers), if we may read it.
            own = server_authority(pid)
            candidates += cookies(display.number, own)[:MAX_COOKIES] if own else []
            candidates.append((b"", b""))
        answer = _greet(greeted, display, candidates[tried])
        if answer is None:
            return greeted, pid, candidates[tried]
        greeted.close()
        refusal, tried = refusal or answer, tried + 1
        if tried == len(candidates):
            remedy = f"set XAUTHORITY to its cookie file{f', {own}' if own else ''}, or run as its user"
            raise Refused("connect", str(display), f"the X server says: {refusal}", remedy)


def _greet(greeted: socket.socket, display: Display, auth: tuple[bytes, bytes]) -> str | None:
    """Say hello; returns why we are refused, or None (X protocol, "Connection Setup")."""
    name, data = auth
    hello = struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(data))
    hello += name + bytes(-len(name) % 4) + data + bytes(-len(data) % 4)
    try:
        greeted.sendall(hello)
        head = _receive(greeted, 8)
        if head[0] == 1:
            return None
        reason = _receive(greeted, head[1]) if head[0] == 0 else b"it wants another authentication"
    except OSError as error:
        greeted.close()
        if isinstance(error, TimeoutError):
            raise _silent(display) from error
        raise NotFound("connect", str(display), f"the server hung up ({error})", "has it exited?") from error
    return " ".join(reason.decode("ascii", "replace").split()) or "no"


def _receive(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise ConnectionResetError("end of stream")
        data += more
    return data
