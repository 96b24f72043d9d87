"""`Monitor`: a QMP connection to QEMU, with time limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, TypeVar

from qemu.qmp import ExecuteError, Message, QMPClient, QMPError, Runstate, StateError
from qemu.qmp.qmp_client import BadReplyError

from vramtap.concurrency import Observers
from vramtap.errors import Refused, TargetGone, TimedOut, VramtapError
from vramtap.targets.qemu.qmp_socket import brief, busy, connect_socket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

_LENT_BY: Final = "vramtap "
"""Start of the label of a lent descriptor; the pid of the lender follows."""

log: logging.Logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorTimeouts:
    """Time limits of a QMP connection.

    Args:
        connect_s: For QEMU to accept and greet vramtap, seconds. A free monitor greets at once, one with
            another client never does.
        command_s: For an answer to a command, seconds. QEMU's main loop answers between two of its rounds.
    """

    connect_s: float = 5.0
    command_s: float = 5.0


DEFAULT_TIMEOUTS: Final = MonitorTimeouts()


class Monitor:
    """A QMP connection. QEMU serves one client per monitor; a second client waits without any answer.

    Args:
        path: Path of the unix socket that QEMU was started with (`-qmp unix:PATH,server=on,wait=off`).
        name: What messages call it; `qemu:PATH` if empty.
        timeouts: Time limits.
    """

    def __init__(self, path: str, name: str = "", *, timeouts: MonitorTimeouts = DEFAULT_TIMEOUTS) -> None:
        self.path = path
        self.pid: int = 0
        """Pid of QEMU once connected; 0 if QEMU runs in a pid namespace that vramtap does not see."""
        self._name = name or f"qemu:{path}"
        self._timeouts = timeouts
        self._events: Observers[Callable[[str], None]] = Observers()
        self._client = QMPClient("vramtap")
        self._client.events.event_filter = self._on_event
        # The library logs every disconnection as an error with a traceback, and as a critical one if vramtap
        # is cancelled twice. vramtap reports each disconnection itself, once.
        self._client.logger.setLevel(logging.CRITICAL + 1)
        self._connected: asyncio.Task[None] | None = None
        self._socket: socket.socket | None = None

    def watch(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call `callback` with the name of each event that QEMU sends (`RESET`, `SHUTDOWN`).

        Args:
            callback: Must not block.

        Returns:
            A function that removes the callback; harmless when called twice.
        """
        return self._events.add(callback)

    async def connect(self) -> None:
        """Connect and negotiate. Afterwards `pid` is QEMU's.

        Raises:
            NotFound: there is no such socket, or no process listens on it.
            NotTappable: the path is not a socket.
            Refused: there is no permission, or another client holds the monitor.
        """
        limit_s = self._timeouts.connect_s
        connection = await connect_socket(self.path, self._name, limit_s)
        try:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            self.pid = struct.unpack("iII", credentials)[0]
            # The loop wraps the socket in an object that cannot send descriptors. The duplicate can.
            self._socket = connection.dup()
            async with asyncio.timeout(limit_s):
                await self._client.connect(connection)
        except TimeoutError as error:
            raise busy(self._name, f"no QMP greeting within {limit_s:g} s") from error
        except (QMPError, OSError, EOFError) as error:
            remedy = "is this QEMU's -qmp socket?"
            raise Refused("connect", self._name, f"no QMP: {brief(error)}", remedy) from error
        finally:
            if self._client.runstate is not Runstate.RUNNING:
                connection.close()
        self._connected = asyncio.create_task(self._wait_until_lost())

    def _on_event(self, event: Message) -> bool:
        """Pass the event on, and reject it: the library would keep every accepted event for ever."""
        self._events.notify(str(event["event"]))
        return False

    async def _wait_until_lost(self) -> None:
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a QMP command and return its result.

        Raises:
            VramtapError: QEMU refused the command.
            TargetGone: the connection has ended.
            TimedOut: QEMU did not answer in time: it hangs or is stopped.
        """
        return await self._bounded(command, lambda: self._client.execute(command, arguments))

    async def hmp(self, line: str) -> str:
        """Run a line of the human monitor and return its output.

        Raises:
            VramtapError: as `execute`.
        """
        return str(await self.execute("human-monitor-command", {"command-line": line}))

    @contextlib.asynccontextmanager
    async def batch(self) -> AsyncIterator[Self]:
        """Give the monitor itself: all its commands use one connection; see `Commands`."""
        yield self

    async def add_fd(self, fd: int, fdset: int) -> None:
        """Lend QEMU a descriptor.

        Args:
            fd: The descriptor. QEMU gets a duplicate.
            fdset: Number of a new set for it, which QEMU opens as `/dev/fdset/FDSET`. The caller chooses the
                number, so that it can take the descriptor back even if it did not wait for the answer.

        Raises:
            VramtapError: as `execute`.
        """

        async def lend() -> object:
            if self._socket is None:
                raise EOFError
            socket.send_fds(self._socket, [b" "], [fd])
            return await self._client.execute(
                "add-fd", {"fdset-id": fdset, "opaque": f"{_LENT_BY}{os.getpid()}"}
            )

        await self._bounded("add-fd", lend)

    async def remove_fd(self, fdset: int) -> None:
        """Take back what `add_fd` lent. If that fails, QEMU keeps it until no monitor is connected."""
        try:
            await self.execute("remove-fd", {"fdset-id": fdset})
        except VramtapError as error:
            log.debug("descriptor set %d stays with QEMU: %s", fdset, error)

    async def remove_lost_fds(self) -> None:
        """Take back the descriptors that killed taps have left with QEMU."""
        try:
            sets = await self.execute("query-fdsets")
        except TargetGone:
            raise
        except VramtapError as error:
            log.debug("%s", error)
            return
        for fdset in sets if isinstance(sets, list) else ():
            lost = isinstance(fdset, dict) and any(_is_lost(fd) for fd in fdset.get("fds") or ())
            if lost and type(fdset.get("fdset-id")) is int:
                await self.remove_fd(fdset["fdset-id"])

    async def _bounded(self, command: str, run: Callable[[], Awaitable[T]]) -> T:
        """Run a command within its time limit, and turn the library's errors into vramtap's."""
        limit_s = self._timeouts.command_s
        try:
            async with asyncio.timeout(limit_s):
                return await run()
        except TimeoutError as error:
            remedy = "is QEMU stopped by a debugger or SIGSTOP?"
            raise TimedOut(command, self._name, f"no answer within {limit_s:g} s", remedy) from error
        except ExecuteError as error:
            raise VramtapError(command, self._name, brief(error)) from error
        except BadReplyError as error:
            raise VramtapError(command, self._name, f"QEMU's answer is invalid: {brief(error)}") from error
        except (StateError, QMPError, OSError, EOFError, AssertionError) as error:
            raise TargetGone(command, self._name, "the monitor connection ended") from error

    async def ended(self) -> None:
        """Wait until the connection has ended."""
        if self._connected is not None:
            await asyncio.wait([self._connected])

    def hang_up(self) -> None:
        """Disconnect at once as far as QEMU sees, without waiting. The caller must still call `close`."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # QEMU hung up first
                self._socket.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Disconnect, so that another client can use the monitor. Harmless when called twice."""
        connected, self._connected = self._connected, None
        if connected is not None:
            connected.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._client.runstate is Runstate.IDLE:
            return
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                await self._client.disconnect()
        except Exception as error:
            # The library raises here whatever ended its reader, even a defect of its own that an invalid
            # answer met. The caller that waited for this answer already has the error.
            log.debug("disconnecting %s: %s", self._name, brief(error))


def _is_lost(fd: object) -> bool:
    """Return whether an entry of `query-fdsets` was lent by a tap that no longer runs."""
    label = fd.get("opaque") if isinstance(fd, dict) else None
    if not isinstance(label, str) or not label.startswith(_LENT_BY):
        return False
    pid = label.removeprefix(_LENT_BY)
    return pid.isdecimal() and pid.isascii() and not os.path.exists(f"/proc/{int(pid[:9])}")
