"""`DomainLifecycle`: waits for a Xen domain's end and for the domain that follows it.

Facts. A reboot makes a new domain: the toolstack destroys the domain that has shut down, and two seconds
later makes one with the same name and UUID and another id (xl: tools/xl/xl_vmcontrol.c). Saving shuts the
domain down with the reason `suspend`, and then destroys it or lets it run on. Restoring makes a new domain.
xenstored fires `@releaseDomain` when a domain shuts down and again when it is gone, and `@introduceDomain`
when a domain begins. A device model writes `running` under its path once it serves. Only the hypervisor
knows why a domain has shut down.

Consequence. Whether a successor will come, and how soon, depends on a reason that exists only between two
events.

Decision. At each event vramtap asks both xenstore and the hypervisor. A domain that was destroyed or powered
off has ended. After a reboot or a crash vramtap waits for a successor as long as a slow toolstack takes.
Without libxenctrl the reason is unknown, and vramtap waits a shorter time.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from vramtap.errors import VramtapError
from vramtap.xen import domains
from vramtap.xen.control import Control, ShutdownReason

if TYPE_CHECKING:
    from types import TracebackType

    from vramtap.xen.domains import Domain
    from vramtap.xen.xenstore import Xenstore


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessorWaits:
    """How long to wait for the domain that follows another one.

    Args:
        reboot_s: After a reboot, a crash or a reset, seconds.
        restore_s: After a save, seconds. The domain may also never be restored.
        unknown_s: If the reason of the end is unknown, seconds.
    """

    reboot_s: float = 30.0
    restore_s: float = 15.0
    unknown_s: float = 8.0

    def after(self, reason: int | None) -> tuple[str, float]:
        """Return what happened to a domain, and how long to wait for its successor.

        Args:
            reason: Why the domain has shut down; None if it had not shut down.
        """
        if reason is None:
            return "was destroyed", 0.0
        ends = {
            ShutdownReason.POWEROFF: ("powered off", 0.0),
            ShutdownReason.REBOOT: ("rebooted", self.reboot_s),
            ShutdownReason.SUSPEND: ("was saved", self.restore_s),
            ShutdownReason.CRASH: ("crashed", self.reboot_s),
            ShutdownReason.WATCHDOG: ("was ended by its watchdog", self.reboot_s),
            ShutdownReason.SOFT_RESET: ("was reset", self.reboot_s),
        }
        known = reason in ShutdownReason.__members__.values()
        return ends[ShutdownReason(reason)] if known else ("has ended", self.unknown_s)


DEFAULT_WAITS: Final = SuccessorWaits()
_WATCHED_PATHS: Final = ("@releaseDomain", "@introduceDomain", "/local/domain/0/device-model")

log: logging.Logger = logging.getLogger(__name__)


class DomainLifecycle:
    """A domain and those that follow it under its UUID. A context manager that watches xenstore meanwhile.

    Args:
        store: An open connection that has no other watches.
        domain: The first domain.
        waits: How long to wait for successors.
    """

    def __init__(self, store: Xenstore, domain: Domain, *, waits: SuccessorWaits = DEFAULT_WAITS) -> None:
        self.domain: Domain = domain
        """The current domain, or the last one."""
        self.end: str = ""
        """How the last domain ended, in one clause; empty before."""
        self.successor_wait_s: float = 0.0
        """How long to wait for the successor of the last domain."""
        self._store = store
        self._waits = waits
        self._event = asyncio.Event()
        self._lost: VramtapError | None = None
        self._reason: int | None = None
        self._close = ExitStack()
        self._control: Control | None = None

    def __enter__(self) -> Self:
        """Watch xenstore.

        Raises:
            VramtapError: the connection to xenstore is lost.
        """
        with ExitStack() as stack:
            try:
                self._control = stack.enter_context(Control())
            except VramtapError as error:
                log.info("vramtap cannot tell why a domain ends: %s", error)
            for path in _WATCHED_PATHS:
                self._store.watch(path)
            loop, descriptor = asyncio.get_running_loop(), self._store.fileno()
            loop.add_reader(descriptor, self._on_readable)
            stack.callback(loop.remove_reader, descriptor)
            self._close = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self._close.close()

    def _on_readable(self) -> None:
        try:
            self._store.changed()
        except VramtapError as error:
            self._lost = error
            self._close.close()
        self._event.set()

    async def ended(self) -> None:
        """Wait until the domain has gone. Then `end` and `successor_wait_s` say what that means.

        Raises:
            VramtapError: the connection to xenstore or the hypervisor is lost.
        """
        self._reason = None
        while self._is_alive():
            await self._next_event()
        if self._control is None:
            what, self.successor_wait_s = "has ended", self._waits.unknown_s
        else:
            what, self.successor_wait_s = self._waits.after(self._reason)
        self.end = f"{self.domain} {what}"

    def _is_alive(self) -> bool:
        """Return whether the domain exists; note the reason if it has shut down."""
        domid = self.domain.domid
        if self._control is None:
            return domains.domain(self._store, domid) is not None
        info = self._control.domain(domid)
        if info is None:
            return False
        # A domain that was saved and runs on has no reason any more.
        if not info.dying or info.shutdown is not None:
            self._reason = info.shutdown
        return not info.dying

    async def successor(self) -> None:
        """Wait until a device model serves a domain of the same UUID. That is `domain` then.

        Raises:
            VramtapError: the connection to xenstore or the hypervisor is lost.
        """
        while True:
            for each in domains.domains(self._store):
                same = each.uuid == self.domain.uuid if each.uuid else each.name == self.domain.name
                if not same or (each.domid == self.domain.domid and not self._is_alive()):
                    continue
                if self._store.read(domains.model_state_path(each.domid)) == "running":
                    self.domain = each
                    return
            await self._next_event()

    async def _next_event(self) -> None:
        await self._event.wait()
        if self._lost is not None:
            raise self._lost
        self._event.clear()
