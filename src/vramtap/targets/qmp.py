"""QEMU's monitor: QMP commands with a time limit, HMP through it, and who is at the other end."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from qemu.qmp import ExecuteError, Message, QMPClient, QMPError, Runstate, StateError

from vramtap.errors import NotFound, Refused, TargetGone, TimedOut, VramtapError

CONNECT_TIMEOUT_S: Final = 5.0
"""A monitor that is free greets at once; one with another client never does."""
COMMAND_TIMEOUT_S: Final = 5.0
"""For commands that QEMU's main loop answers between two of its rounds."""

log = logging.getLogger(__name__)
T = TypeVar("T")


class Monitor:
    """A QMP connection. QEMU serves one client a monitor: a second one waits without a word.

    Args:
        path: Of the UNIX socket QEMU was started with (`-qmp unix:PATH,server=on,wait=off`).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.pid = 0
        self.on_event: Callable[[str], None] = lambda name: None
        """Called with the name of each event (`RESET`, `SHUTDOWN`); must not block."""
        self._client = QMPClient("vramtap")
        self._client.events.event_filter = self._hear
        # The library logs every disconnection as an error with a traceback; ours are reported once, by us.
        self._client.logger.setLevel(logging.CRITICAL)
        self._tasks: list[asyncio.Task[None]] = []
        self._socket: socket.socket | None = None

    async def connect(self) -> None:
        """Connect and negotiate; afterwards `pid` is QEMU's.

        Raises:
            NotFound: no such socket, or nobody listens on it.
            Refused: no permission, or another client holds the monitor.
        """
        where = f"qemu:{self.path}"
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(self.path)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            self.pid = struct.unpack("iII", credentials)[0]
            # The loop's own socket object cannot send descriptors; ours, to the same peer, can.
            self._socket = connection.dup()
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._client.connect(connection)
        except FileNotFoundError as error:
            raise NotFound(
                "connect", where, "no such socket", "start QEMU with -qmp unix:PATH,server=on,wait=off"
            ) from error
        except ConnectionRefusedError as error:
            raise NotFound("connect", where, "nobody listens: QEMU ended", "see vramtap ls") from error
        except PermissionError as error:
            remedy = "needs write permission on the socket"
            raise Refused("connect", where, "permission denied", remedy) from error
        except TimeoutError as error:
            connection.close()
            raise Refused(
                "connect",
                where,
                f"no QMP greeting within {CONNECT_TIMEOUT_S:g} s: another client holds this monitor, "
                "or it is no QMP socket",
                "give QEMU a second -qmp for vramtap",
            ) from error
        except (QMPError, OSError, EOFError) as error:
            connection.close()
            raise Refused("connect", where, f"no QMP: {error}", "is this QEMU's -qmp socket?") from error
        self._tasks = [asyncio.create_task(self._watch())]

    def _hear(self, event: Message) -> bool:
        """Hand the event over, and refuse it: the library would keep every event it accepts for ever."""
        self.on_event(str(event["event"]))
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

    async def add_fd(self, fd: int, fdset: int) -> None:
        """Hand QEMU a descriptor, as `/dev/fdset/FDSET`.

        Raises:
            VramtapError: as `execute`.
        """

        async def hand_over() -> object:
            if self._socket is None:
                raise EOFError
            socket.send_fds(self._socket, [b" "], [fd])
            return await self._client.execute("add-fd", {"fdset-id": fdset})

        await self._bounded("add-fd", hand_over)

    async def _bounded(self, what: str, run: Callable[[], Awaitable[T]]) -> T:
        where = f"qemu:{self.path}"
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                return await run()
        except TimeoutError as error:
            reason = f"no answer within {COMMAND_TIMEOUT_S:g} s"
            raise TimedOut(what, where, reason, "is QEMU stopped by a debugger or SIGSTOP?") from error
        except ExecuteError as error:
            raise VramtapError(what, where, str(error)) from error
        except (StateError, QMPError, OSError, EOFError, AssertionError) as error:
            raise TargetGone(what, where, "the monitor connection ended") from error

    async def ended(self) -> None:
        """Wait until the connection has ended."""
        if self._tasks:
            await asyncio.wait(self._tasks[:1])

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
        except (QMPError, OSError, EOFError, TimeoutError) as error:
            log.debug("disconnecting qemu:%s: %s", self.path, error)
