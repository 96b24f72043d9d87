"""`LibxlMonitor`: the monitor of a Xen domain's QEMU, shared with libxl under libxl's own lock."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qemu.qmp import ConnectError

from vramtap.errors import AttachError, KernelError, NotFound, Refused, TargetGone, TimedOut
from vramtap.linux.flock import LockFile, holder
from vramtap.targets.qemu.qmp import DEFAULT_TIMEOUTS, Monitor, MonitorTimeouts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from vramtap.targets.qemu.commands import Batch

LOCK_RETRY_S: Final = 0.01
"""Time between two attempts to take the lock. A thread that waits in flock(2) would get it sooner, but cannot
be cancelled, and waits without an end would pile up. The slower way is intended: libxl waits in flock(2), and
so goes first."""

log: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTimings:
    """How long a `LibxlMonitor` keeps the lock and leaves it alone, seconds.

    Args:
        linger_s: How long a session stays open after its last command. It is longer than the time between
            two events of a moving pointer, or two reads of a mode that changes.
        hold_s: How long a session lasts at most while commands follow each other. libxl gives many an
            operation 10 s, including the wait for the lock (libxl_internal.h, LIBXL_QMP_CMD_TIMEOUT;
            libxl_domain.c, libxl_set_vcpuonline). A command or batch that has begun is completed.
        gap_s: How long the lock is left alone after a session: two attempts of another tap, which cannot be
            seen waiting.
        gap_wanted_s: The same if another process was seen to wait. The kernel must first wake it, in a dom0
            that may be busy.
        lock_timeout_s: How long to wait for the lock. It is more than libxl's longest wait for one command.
    """

    linger_s: float = 0.1
    hold_s: float = 0.25
    gap_s: float = 0.02
    gap_wanted_s: float = 0.1
    lock_timeout_s: float = 15.0


DEFAULT_SESSION_TIMINGS: Final = SessionTimings()


@dataclass(eq=False)
class _Session:
    """A connection under the lock.

    Args:
        lock: The lock, held.
        monitor: The connected monitor.
        until_s: Time of the loop's clock at which the session ends even if commands follow.
    """

    lock: LockFile
    monitor: Monitor
    until_s: float


class LibxlMonitor:
    """Sends commands to the device model of a Xen HVM domain, over the socket that libxl uses too.

    Facts. QEMU serves one client per monitor. libxl connects for each operation (vcpu-set, cd-insert, a
    device, save) and guards the socket with a lock file (Xen's tools/libs/light, libxl_internal.c:
    libxl__ev_slowlock_lock; libxl_qmp.c). flock(2) is not fair.

    Consequence. vramtap must take the same lock, must not keep it for long, and must leave it alone
    afterwards so that libxl gets it.

    Decision. A session takes the lock, connects, runs the commands, disconnects and unlocks. It lasts while
    commands follow each other closely, up to a limit (`SessionTimings`). Between sessions vramtap holds no
    lock and no connection, so it gets no events from QEMU and must ask for everything.

    If vramtap is killed, the kernel unlocks the file, and QEMU sees the end of the connection and closes the
    descriptors it was lent (monitor_fdsets_cleanup). The file stays. libxl uses it as it is, and deletes it
    at its next unlock or with the domain (libxl__userdata_destroyall).

    Args:
        socket_path: `/var/run/xen/qmp-libxl-DOMID`.
        lock_path: `/var/lib/xen/userdata-l.DOMID.UUID.qmp-socket-lock`, with the UUID of the domain's `vm`
            path in xenstore.
        name: What messages call the monitor; the socket's path if empty.
        timings: Durations of sessions.
        timeouts: Time limits of the connection.
    """

    def __init__(
        self,
        socket_path: str,
        lock_path: str,
        name: str = "",
        *,
        timings: SessionTimings = DEFAULT_SESSION_TIMINGS,
        timeouts: MonitorTimeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self.socket_path = socket_path
        self.lock_path = lock_path
        self.sessions: int = 0
        """Number of sessions so far."""
        self._name = name or socket_path
        self._timings = timings
        self._timeouts = timeouts
        self._batch_lock = asyncio.Lock()
        self._session: _Session | None = None
        self._connecting: Monitor | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._not_before_s = float("-inf")
        self._closed = False
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """Whether a session is open."""
        return self._session is not None

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a QMP command; see `Monitor.execute`.

        Raises:
            VramtapError: QEMU refused the command.
            TargetGone: QEMU has ended, or this monitor is closed.
            TimedOut: QEMU did not answer in time, or another process holds the lock.
            Refused: there is no permission, or a client that ignores the lock holds the monitor.
        """
        async with self.batch() as monitor:
            return await monitor.execute(command, arguments)

    async def hmp(self, line: str) -> str:
        """Run a line of the human monitor; see `Monitor.hmp`.

        Raises:
            VramtapError: as `execute`.
        """
        async with self.batch() as monitor:
            return await monitor.hmp(line)

    @contextlib.asynccontextmanager
    async def batch(self) -> AsyncIterator[Batch]:
        """Give an object whose commands all use one connection; see `Commands`. Keep the block short.

        Raises:
            VramtapError: as `execute`.
        """
        async with self._batch_lock:
            session = self._session or await self._begin_session()
            self._cancel_expiry()
            try:
                yield session.monitor
            except Exception as error:
                # The answer may still come, or never; the connection is of no use.
                if isinstance(error, TargetGone | TimedOut):
                    self._end_session()
                raise
            except BaseException:
                self._end_session()
                raise
            finally:
                self._schedule_end()

    async def _begin_session(self) -> _Session:
        """Take the lock and connect."""
        lock = await self._take_lock()
        monitor = Monitor(self.socket_path, self._name, timeouts=self._timeouts)
        session = _Session(lock, monitor, asyncio.get_running_loop().time() + self._timings.hold_s)
        self._connecting = monitor
        try:
            await monitor.connect()
            self._check_open()
        except AttachError as error:
            self._release(session)
            raise self._explained(error) from error
        except BaseException:
            self._release(session)
            raise
        finally:
            self._connecting = None
        self._session = session
        self.sessions += 1
        return session

    async def _take_lock(self) -> LockFile:
        loop = asyncio.get_running_loop()
        limit_s = self._timings.lock_timeout_s
        give_up_s = loop.time() + limit_s
        while True:
            self._check_open()
            now_s = loop.time()
            if now_s < self._not_before_s:
                await asyncio.sleep(self._not_before_s - now_s)
                continue
            lock = self._try_lock()
            if lock is not None:
                return lock
            if now_s >= give_up_s:
                who = holder(self.lock_path) or "libxl or another program"
                reason = f"{who} holds the device model's lock for more than {limit_s:g} s"
                raise TimedOut("lock", self.lock_path, reason, "see what xl or the toolstack is doing")
            # No event tells when a lock is free.
            await asyncio.sleep(LOCK_RETRY_S)

    def _try_lock(self) -> LockFile | None:
        try:
            return LockFile.take(self.lock_path)
        except KernelError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                raise Refused("lock", self.lock_path, "permission denied", "run as root in dom0") from error
            if error.errno == errno.ENOENT:
                remedy = "run in the domain that Xen's toolstack runs in"
                raise NotFound("lock", self.lock_path, "no such directory", remedy) from error
            raise

    def _explained(self, error: AttachError) -> AttachError | TargetGone:
        """Return what a failed connection means for a domain."""
        cause = error.__cause__
        if isinstance(cause, ConnectError):
            cause = cause.exc
        if isinstance(error, NotFound) or isinstance(cause, EOFError | ConnectionError) or self._closed:
            return TargetGone("connect", self._name, "the device model has ended")
        if isinstance(cause, PermissionError):
            return Refused("connect", self._name, "permission denied", "run as root in dom0")
        if isinstance(cause, TimeoutError | BlockingIOError):
            reason = f"{error.reason}, and ignores {self.lock_path}"
            remedy = "end the other client, or the device model if it hangs"
            return Refused("connect", self._name, reason, remedy)
        return error

    def _check_open(self) -> None:
        if self._closed:
            raise TargetGone("connect", self._name, "this monitor was closed")

    def _schedule_end(self) -> None:
        """End the session now if its time is up, else after a while without commands."""
        if self._session is None:
            return
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if now_s >= self._session.until_s:
            self._end_session()
        else:
            end_s = min(now_s + self._timings.linger_s, self._session.until_s)
            self._expiry = loop.call_at(end_s, self._end_session)

    def _cancel_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _end_session(self) -> None:
        """End the session at once, if there is one."""
        session, self._session = self._session, None
        self._cancel_expiry()
        if session is not None:
            self._release(session)

    def _release(self, session: _Session) -> None:
        """Disconnect and unlock. This waits for nothing, so that a second cancellation cannot stop it."""
        session.monitor.hang_up()
        wanted = session.lock.wanted()
        try:
            session.lock.release(leave_file=wanted)
        except KernelError as error:
            # A file that stays does no harm: see LockFile.
            log.debug("%s", error)
        loop = asyncio.get_running_loop()
        self._not_before_s = loop.time() + (self._timings.gap_wanted_s if wanted else self._timings.gap_s)
        closing = loop.create_task(session.monitor.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """End the session at once, and allow no other. Harmless when called twice.

        Commands that run or wait for the lock end with TargetGone.
        """
        self._closed = True
        if self._connecting is not None:
            self._connecting.hang_up()
        self._end_session()
        if self._closing:
            await asyncio.wait(set(self._closing))
