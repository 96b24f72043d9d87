"""Life: a Xen domain's end, and the domain that comes after it.

Facts. A reboot is another domain: the toolstack destroys the one that has shut down and makes a new one, of
the same name and UUID and another id, two seconds later (xl: tools/xl/xl_vmcontrol.c). Saving shuts the
domain down with reason `suspend` and destroys it, or lets it go on; restoring makes another. xenstored fires
`@releaseDomain` when a domain shuts down and again when it is gone, `@introduceDomain` when one begins; a
device model writes `running` under its path when it serves. Why a domain has shut down only the hypervisor
knows.

Consequence. Whether to wait for a successor, and how long, depends on a reason that is to be had between two
events.

Decision. At each event both are asked. Destroyed and powered off is the end; after a reboot or a crash the
next is waited for as long as a slow toolstack takes; without libxenctrl the reason is not known and it is
waited a while.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self

from vramtap.errors import VramtapError
from vramtap.xen import domains
from vramtap.xen.control import Control, ShutdownReason

if TYPE_CHECKING:
    from types import TracebackType

    from vramtap.xen.domains import Domain
    from vramtap.xen.xenstore import Xenstore

REBOOT_S: Final = 30.0
"""How long the domain that a reboot makes is waited for."""
RESTORE_S: Final = 15.0
"""How long the domain that a save's restore makes is waited for: it may also never be made."""
UNKNOWN_S: Final = 8.0
"""The same where it is not known why a domain has ended."""
_WATCHED: Final = ("@releaseDomain", "@introduceDomain", "/local/domain/0/device-model")

_ENDS: Final = {
    ShutdownReason.POWEROFF: ("powered off", 0.0),
    ShutdownReason.REBOOT: ("rebooted", REBOOT_S),
    ShutdownReason.SUSPEND: ("was saved", RESTORE_S),
    ShutdownReason.CRASH: ("crashed", REBOOT_S),
    ShutdownReason.WATCHDOG: ("was ended by its watchdog", REBOOT_S),
    ShutdownReason.SOFT_RESET: ("was reset", REBOOT_S),
}

log = logging.getLogger(__name__)


class DomainLifecycle:
    """A domain and those that follow it under its UUID; a context manager inside of which events are heard.

    Args:
        store: Open; no one else may watch with it.
        domain: The first.
    """

    def __init__(self, store: Xenstore, domain: Domain) -> None:
        self.domain = domain
        """The domain now, or the last there was."""
        self.how = ""
        """How the last one ended, in one clause."""
        self.patience_s = 0.0
        """How long the next one is worth waiting for."""
        self._store = store
        self._event = asyncio.Event()
        self._lost: VramtapError | None = None
        self._reason: int | None = None
        self._close = ExitStack()
        self._control: Control | None = None

    def __enter__(self) -> Self:
        """Begin to listen.

        Raises:
            VramtapError: xenstore is lost.
        """
        with ExitStack() as stack:
            try:
                self._control = stack.enter_context(Control())
            except VramtapError as error:
                log.info("why a domain ends is not known: %s", error)
            for path in _WATCHED:
                self._store.watch(path)
            loop, descriptor = asyncio.get_running_loop(), self._store.fileno()
            loop.add_reader(descriptor, self._hear)
            stack.callback(loop.remove_reader, descriptor)
            self._close = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listen no more."""
        self._close.close()

    def _hear(self) -> None:
        try:
            self._store.changed()
        except VramtapError as error:
            self._lost = error
            self._close.close()
        self._event.set()

    async def ended(self) -> None:
        """Wait until the domain has gone; then `how` and `patience_s` say what to think of it.

        Raises:
            VramtapError: xenstore or the hypervisor is lost.
        """
        self._reason = None
        while self._alive():
            await self._next()
        if self._control is None:
            what, self.patience_s = "has ended", UNKNOWN_S
        elif self._reason is None:
            what, self.patience_s = "was destroyed", 0.0
        else:
            known = self._reason in ShutdownReason.__members__.values()
            end = _ENDS[ShutdownReason(self._reason)] if known else ("has ended", UNKNOWN_S)
            what, self.patience_s = end
        self.how = f"{self.domain} {what}"

    def _alive(self) -> bool:
        """Whether the domain is there; notes why it has shut down."""
        domid = self.domain.domid
        if self._control is None:
            return domains.domain(self._store, domid) is not None
        info = self._control.domain(domid)
        if info is None:
            return False
        # A domain that was saved and goes on has no reason any more.
        if not info.dying or info.shutdown is not None:
            self._reason = info.shutdown
        return not info.dying

    async def successor(self) -> None:
        """Wait until a domain of the same UUID is served by its device model; `domain` is that one then.

        Raises:
            VramtapError: xenstore or the hypervisor is lost.
        """
        while True:
            for each in domains.domains(self._store):
                same = each.uuid == self.domain.uuid if each.uuid else each.name == self.domain.name
                if not same or (each.domid == self.domain.domid and not self._alive()):
                    continue
                if self._store.read(domains.model_state_path(each.domid)) == "running":
                    self.domain = each
                    return
            await self._next()

    async def _next(self) -> None:
        await self._event.wait()
        if self._lost is not None:
            raise self._lost
        self._event.clear()
