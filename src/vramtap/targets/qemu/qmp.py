"""QEMU's monitor: QMP commands with a time limit, HMP through it, and who is at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeVar

from qemu.qmp import ExecuteError, Message, QMPClient, QMPError, Runstate, StateError
from qemu.qmp.qmp_client import BadReplyError

from vramtap.concurrency import Observers
from vramtap.errors import NotFound, NotTappable, Refused, TargetGone, TimedOut, VramtapError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

CONNECT_TIMEOUT_S: Final = 5.0
"""A monitor that is free greets at once; one with another client never does."""
QUEUE_RETRY_S: Final = 0.05
"""Between two tries to get into a full queue."""
COMMAND_TIMEOUT_S: Final = 5.0
"""For commands that QEMU's main loop answers between two of its rounds."""
_LENT_BY: Final = "vramtap "
"""What a lent descriptor's label begins with; the pid of the lender follows."""
_BRIEF_CHARS: Final = 200
"""Of what the other side said, in a message."""

log = logging.getLogger(__name__)
T = TypeVar("T")


class Commands(Protocol):
    """What QEMU can be told, whoever keeps the connection and however long; see `Monitor`."""

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a QMP command."""
        ...

    async def hmp(self, line: str) -> str:
        """Run a line of the human monitor."""
        ...

    def batch(self) -> AbstractAsyncContextManager[Batch]:
        """Commands that must come over one connection; the block gets what runs them."""
        ...


class Batch(Commands, Protocol):
    """Commands over one connection, so that a descriptor can be lent: QEMU closes it with the last one."""

    async def add_fd(self, fd: int, fdset: int) -> None:
        """Hand QEMU a descriptor."""
        ...

    async def remove_fd(self, fdset: int) -> None:
        """Take it back."""
        ...


class Monitor:
    """A QMP connection. QEMU serves one client a monitor: a second one waits without a word.

    Args:
        path: Of the UNIX socket QEMU was started with (`-qmp unix:PATH,server=on,wait=off`).
        name: What messages call it; `qemu:PATH` if empty.
    """

    def __init__(self, path: str, name: str = "") -> None:
        self.path = path
        self.pid = 0
        """Of QEMU, once connected; 0 if it runs in a pid namespace not seen from here."""
        self._where = name or f"qemu:{path}"
        self._events: Observers[Callable[[str], None]] = Observers()
        self._client = QMPClient("vramtap")
        self._client.events.event_filter = self._hear
        # The library logs every disconnection as an error with a traceback; ours are reported once, by us.
        # Or, where we are cancelled twice, as a critical one.
        self._client.logger.setLevel(logging.CRITICAL + 1)
        self._tasks: list[asyncio.Task[None]] = []
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
        """Connect and negotiate; afterwards `pid` is QEMU's.

        Raises:
            NotFound: no such socket, or nobody listens on it.
            Refused: no permission, or another client holds the monitor.
        """
        connection = await self._queue()
        try:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            self.pid = struct.unpack("iII", credentials)[0]
            # The loop's own socket object cannot send descriptors; ours, to the same peer, can.
            self._socket = connection.dup()
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._client.connect(connection)
        except TimeoutError as error:
            raise self._busy(f"no QMP greeting within {CONNECT_TIMEOUT_S:g} s: ") from error
        except (QMPError, OSError, EOFError) as error:
            remedy = "is this QEMU's -qmp socket?"
            raise Refused("connect", self._where, f"no QMP: {_brief(error)}", remedy) from error
        finally:
            if self._client.runstate is not Runstate.RUNNING:
                connection.close()
        self._tasks = [asyncio.create_task(self._watch())]

    async def _queue(self) -> socket.socket:
        """A connection; waits for a place in QEMU's queue, which empties when a client has gone."""
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + CONNECT_TIMEOUT_S
        while True:
            try:
                return self._open()
            except BlockingIOError as error:
                if loop.time() >= give_up_s:
                    raise self._busy(f"its queue stayed full for {CONNECT_TIMEOUT_S:g} s: ") from error
            # No event tells that there is a place: connect(2) on such a socket fails at once, always.
            await asyncio.sleep(QUEUE_RETRY_S)

    def _open(self) -> socket.socket:
        """A connection to whoever listens."""
        where = self._where
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(self.path)
        except BaseException as error:
            connection.close()
            if isinstance(error, FileNotFoundError):
                remedy = "start QEMU with -qmp unix:PATH,server=on,wait=off"
                raise NotFound("connect", where, "no such socket", remedy) from error
            if isinstance(error, ConnectionRefusedError):
                if not Path(self.path).is_socket():
                    remedy = "give the path of QEMU's -qmp socket"
                    raise NotTappable("connect", where, "this is no socket", remedy) from error
                raise NotFound("connect", where, "nobody listens: QEMU ended", "see vramtap ls") from error
            if isinstance(error, PermissionError):
                remedy = "needs write permission on the socket"
                raise Refused("connect", where, "permission denied", remedy) from error
            # BlockingIOError: so many wait already that the kernel takes no more.
            if isinstance(error, OSError) and not isinstance(error, BlockingIOError):
                remedy = "give the path of QEMU's -qmp socket"
                raise Refused("connect", where, _brief(error), remedy) from error
            raise
        return connection

    def _busy(self, seen: str) -> Refused:
        reason = f"{seen}another client holds this monitor, or it is no QMP socket"
        return Refused("connect", self._where, reason, "give QEMU a second -qmp for vramtap")

    def _hear(self, event: Message) -> bool:
        """Hand the event over, and refuse it: the library would keep every event it accepts for ever."""
        self._events.notify(str(event["event"]))
        return False

    async def _watch(self) -> None:
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a QMP command.

        Raises:
            VramtapError: QEMU refused it.
            TargetGone: the connection ended.
            TimedOut: no answer in time: QEMU hangs or is stopped.
        """
        return await self._bounded(command, lambda: self._client.execute(command, arguments))

    async def hmp(self, line: str) -> str:
        """Run a line of the human monitor and return what it printed.

        Raises:
            VramtapError: as `execute`.
        """
        return str(await self.execute("human-monitor-command", {"command-line": line}))

    @contextlib.asynccontextmanager
    async def batch(self) -> AsyncIterator[Self]:
        """Commands over one connection: here all of them are."""
        yield self

    async def add_fd(self, fd: int, fdset: int) -> None:
        """Hand QEMU a descriptor.

        Args:
            fd: It is duplicated.
            fdset: The number of a set that QEMU makes for it, and opens it as: `/dev/fdset/FDSET`. Ours to
                choose, so that it can be taken back when the answer was not waited for.

        Raises:
            VramtapError: as `execute`.
        """

        async def hand_over() -> object:
            if self._socket is None:
                raise EOFError
            socket.send_fds(self._socket, [b" "], [fd])
            return await self._client.execute(
                "add-fd", {"fdset-id": fdset, "opaque": f"{_LENT_BY}{os.getpid()}"}
            )

        await self._bounded("add-fd", hand_over)

    async def remove_fd(self, fdset: int) -> None:
        """Take back what `add_fd` lent; where that fails QEMU keeps it until no monitor is connected."""
        try:
            await self.execute("remove-fd", {"fdset-id": fdset})
        except VramtapError as error:
            log.debug("descriptor set %d stays with QEMU: %s", fdset, error)

    async def remove_lost_fds(self) -> None:
        """Take back what taps that were killed have left with QEMU."""
        try:
            sets = await self.execute("query-fdsets")
        except TargetGone:
            raise
        except VramtapError as error:
            log.debug("%s", error)
            return
        for fdset in sets if isinstance(sets, list) else ():
            lost = isinstance(fdset, dict) and any(_lost(fd) for fd in fdset.get("fds") or ())
            if lost and type(fdset.get("fdset-id")) is int:
                await self.remove_fd(fdset["fdset-id"])

    async def _bounded(self, what: str, run: Callable[[], Awaitable[T]]) -> T:
        where = self._where
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                return await run()
        except TimeoutError as error:
            reason = f"no answer within {COMMAND_TIMEOUT_S:g} s"
            raise TimedOut(what, where, reason, "is QEMU stopped by a debugger or SIGSTOP?") from error
        except ExecuteError as error:
            raise VramtapError(what, where, _brief(error)) from error
        except BadReplyError as error:
            raise VramtapError(what, where, f"QEMU's answer makes no sense: {_brief(error)}") from error
        except (StateError, QMPError, OSError, EOFError, AssertionError) as error:
            raise TargetGone(what, where, "the monitor connection ended") from error

    async def ended(self) -> None:
        """Wait until the connection has ended."""
        if self._tasks:
            await asyncio.wait(self._tasks[:1])

    def hang_up(self) -> None:
        """Disconnect at this instant, as far as QEMU sees, without waiting; `close` is still to be called."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it was QEMU that hung up
                self._socket.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Disconnect, so that another client can have the monitor; harmless twice."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._client.runstate is Runstate.IDLE:
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._client.disconnect()
        except Exception as error:
            # The library raises here whatever ended its reader, be it a defect of its own that an answer
            # of no sense met; whoever waited for that answer has been told that the connection ended.
            log.debug("disconnecting %s: %s", self._where, _brief(error))


def _brief(said: object) -> str:
    """What the other side said, on one line of a length that it does not choose, fit for a terminal."""
    text = "".join(char if char.isprintable() else " " for char in str(said)[: 4 * _BRIEF_CHARS])
    text = " ".join(text.split())
    return text if len(text) <= _BRIEF_CHARS else text[:_BRIEF_CHARS] + "..."


def _lost(fd: object) -> bool:
    """Whether a descriptor in an answer to `query-fdsets` was lent by a tap that does not run any more."""
    label = fd.get("opaque") if isinstance(fd, dict) else None
    if not isinstance(label, str) or not label.startswith(_LENT_BY):
        return False
    pid = label.removeprefix(_LENT_BY)
    return pid.isdecimal() and pid.isascii() and not os.path.exists(f"/proc/{int(pid[:9])}")
