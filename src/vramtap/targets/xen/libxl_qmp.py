"""The monitor of a Xen domain's QEMU, shared with libxl: taken for a moment, under libxl's own lock."""

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
from vramtap.targets.qemu.qmp import Batch, Monitor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

LINGER_S: Final = 0.1
"""How long a connection is kept after the last command: longer than between two events of a pointer that
moves, or two looks at the geometry while it changes."""
HOLD_S: Final = 0.25
"""How long it is kept at most while commands keep coming. libxl gives many an
operation 10 s with its wait for the lock (libxl_internal.h, LIBXL_QMP_CMD_TIMEOUT; libxl_domain.c,
libxl_set_vcpuonline). What has been begun, a command or a batch, is waited for."""
LOCK_RETRY_S: Final = 0.01
"""Between two tries to take the lock. A thread that waits in flock(2) would hear sooner, but cannot be called
off, and as many would pile up as there were waits that nobody gave an end. This is the slower way on purpose:
whoever waits in flock(2), as libxl does, goes first."""
GAP_S: Final = 0.02
"""How long the lock is left alone once let go: two tries of another tap, whose waiting is not seen."""
GAP_WANTED_S: Final = 0.1
"""The same where somebody was seen to wait, who has to be woken first, in a dom0 that may be busy."""
LOCK_TIMEOUT_S: Final = 15.0
"""How long others may hold the lock: more than libxl's longest wait for a single command."""

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Session:
    """A connection under the lock.

    Args:
        lock: Held.
        monitor: Connected.
        until_s: When it ends even if commands keep coming, by the loop's clock.
    """

    lock: LockFile
    monitor: Monitor
    until_s: float


class LibxlMonitor:
    """Commands to the device model of a Xen HVM domain, over the socket that libxl uses too.

    QEMU serves one client a monitor. libxl connects for each operation (vcpu-set, cd-insert, a device, save)
    and guards the socket with a lock file; so does this: a session takes the lock, connects, runs what
    there is to run, disconnects and lets go. It lasts as long as commands follow each other closely, but not
    longer than `HOLD_S`, and then leaves the lock alone for a while, since flock(2) is not fair. Between
    sessions nothing is connected or held. Events are heard by nobody: who needs one has to ask.

    If this process is killed, the kernel unlocks the file, and QEMU sees the connection's end and closes what
    it was lent (monitor_fdsets_cleanup). The file stays; libxl takes it as it is, and deletes it when it next
    unlocks it or with the domain (libxl__userdata_destroyall).

    Facts about libxl: Xen's tools/libs/light, libxl_internal.c (libxl__ev_slowlock_lock) and libxl_qmp.c.

    Args:
        socket_path: `/var/run/xen/qmp-libxl-DOMID`.
        lock_path: `/var/lib/xen/userdata-l.DOMID.UUID.qmp-socket-lock`, with the UUID of the domain's `vm`
            path in xenstore.
        name: What messages call it; the socket if empty.
    """

    def __init__(self, socket_path: str, lock_path: str, name: str = "") -> None:
        self.socket_path = socket_path
        self.lock_path = lock_path
        self.sessions = 0
        """How many there have been."""
        self._name = name or socket_path
        self._turn = asyncio.Lock()
        self._session: _Session | None = None
        self._connecting: Monitor | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._not_before_s = float("-inf")
        self._closed = False
        self._tidying: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """Whether a session is open."""
        return self._session is not None

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run a QMP command; see `Monitor.execute`.

        Raises:
            VramtapError: QEMU refused it.
            TargetGone: QEMU has ended, or this is closed.
            TimedOut: no answer in time, or others hold the lock.
            Refused: no permission, or a client that does not heed the lock holds the monitor.
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
        """Commands over one connection, one after the other; see `Batch`. Keep it short.

        Raises:
            VramtapError: as `execute`.
        """
        async with self._turn:
            session = self._session or await self._begin()
            if self._expiry is not None:
                self._expiry.cancel()
                self._expiry = None
            try:
                yield session.monitor
            except Exception as error:
                # An answer that nobody waits for any more may still come, or none ever.
                if isinstance(error, TargetGone | TimedOut):
                    self._end()
                raise
            except BaseException:
                self._end()
                raise
            finally:
                self._linger()

    async def _begin(self) -> _Session:
        """Take the lock and connect."""
        lock = await self._lock()
        monitor = Monitor(self.socket_path, self._name)
        session = _Session(lock, monitor, asyncio.get_running_loop().time() + HOLD_S)
        self._connecting = monitor
        try:
            await monitor.connect()
            self._check_open()
        except AttachError as error:
            self._let_go(session)
            raise self._why(error) from error
        except BaseException:
            self._let_go(session)
            raise
        finally:
            self._connecting = None
        self._session = session
        self.sessions += 1
        return session

    async def _lock(self) -> LockFile:
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + LOCK_TIMEOUT_S
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
                reason = f"{who} holds the device model's lock for more than {LOCK_TIMEOUT_S:g} s"
                raise TimedOut("lock", self.lock_path, reason, "see what xl or the toolstack is doing")
            # Nothing becomes readable when a lock is free.
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

    def _why(self, error: AttachError) -> AttachError | TargetGone:
        """What it means here that there is no connection."""
        cause = error.__cause__
        if isinstance(cause, ConnectError):
            cause = cause.exc
        if isinstance(error, NotFound) or isinstance(cause, EOFError | ConnectionError) or self._closed:
            return TargetGone("connect", self._name, "the device model has ended")
        if isinstance(cause, PermissionError):
            return Refused("connect", self._name, "permission denied", "run as root in dom0")
        if isinstance(cause, TimeoutError | BlockingIOError):
            reason = f"{error.reason}, and does not heed {self.lock_path}"
            return Refused(
                "connect", self._name, reason, "end the other client, or a device model that hangs"
            )
        return error

    def _check_open(self) -> None:
        if self._closed:
            raise TargetGone("connect", self._name, "this monitor was closed")

    def _linger(self) -> None:
        """End the session when its time is up, or when nothing more comes."""
        if self._session is None:
            return
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if now_s >= self._session.until_s:
            self._end()
        else:
            self._expiry = loop.call_at(min(now_s + LINGER_S, self._session.until_s), self._end)

    def _end(self) -> None:
        """End the session, if there is one, at this instant."""
        session, self._session = self._session, None
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if session is not None:
            self._let_go(session)

    def _let_go(self, session: _Session) -> None:
        """Disconnect and unlock; nothing is waited for, where one who is cancelled again could be stopped."""
        session.monitor.hang_up()
        wanted = session.lock.wanted()
        try:
            session.lock.release(leave_file=wanted)
        except KernelError as error:
            # The file that stays is no harm: see LockFile.
            log.debug("%s", error)
        loop = asyncio.get_running_loop()
        self._not_before_s = loop.time() + (GAP_WANTED_S if wanted else GAP_S)
        tidy = loop.create_task(session.monitor.close())
        self._tidying.add(tidy)
        tidy.add_done_callback(self._tidying.discard)

    async def close(self) -> None:
        """End the session at once, and let none begin; harmless twice.

        Commands that are being run or wait for the lock end with TargetGone.
        """
        self._closed = True
        if self._connecting is not None:
            self._connecting.hang_up()
        self._end()
        if self._tidying:
            await asyncio.wait(set(self._tidying))
