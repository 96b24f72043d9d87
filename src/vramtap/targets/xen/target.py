"""Target `xen:DOMID-or-NAME`: the screen of a Xen HVM domain, through its QEMU and the hypervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from vramtap.concurrency import Observers
from vramtap.errors import KernelError, NotFound, NotTappable, TargetGone, VramtapError
from vramtap.linux.schedstat import SchedstatProbe
from vramtap.memory.extent import Extent
from vramtap.memory.foreign import XenSpace
from vramtap.pages import PAGE_SIZE
from vramtap.targets.qemu.input import QemuInput
from vramtap.targets.qemu.vga import QemuVga
from vramtap.targets.xen.input import XenInput
from vramtap.targets.xen.libxl_qmp import LibxlMonitor
from vramtap.targets.xen.lifecycle import DomainLifecycle
from vramtap.xen import domains
from vramtap.xen.devicemodel import MAX_FRAME
from vramtap.xen.foreignmemory import ForeignMemory
from vramtap.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from numpy.typing import NDArray

    from vramtap.display.mode import Mode
    from vramtap.keyboard.events import Input
    from vramtap.xen.domains import Domain

MAX_VRAM_BYTES: Final = 1 << 30
"""Video RAM followed at most; QEMU allows 256 MiB (hw/display/vga.c, vgamem_mb)."""
GEOMETRY_S: Final = 10.0
"""Between two questions for the geometry while the device model does nothing: a register may have been
written while the last one was answered."""
SETTLE_S: Final = 0.3
"""After a question QEMU runs on until our session has ended and it has seen that. Meanwhile the answer
stands: a session takes as long as several frames, and QEMU runs in it as for a guest that sets a mode."""
FLIPPING_S: Final = 1.0
"""After another mode or offset was found every question is asked: they come in series."""
PLACES_S: Final = 10.0
"""Between two questions for where the BARs are, while the registers answer: that answer is long."""
ATTACH_RETRY_S: Final = 0.25
"""Between two tries to attach to the domain that a reboot has made: nothing tells when it may be had."""
BLANK: Final = (640, 480)
"""Columns and rows of what is shown while there is no domain, before any has been seen."""

log = logging.getLogger(__name__)


class _Attached:
    """What belongs to one domain, and goes with it."""

    def __init__(self, domain: Domain, url: str) -> None:
        self.domain = domain
        lock = domains.qmp_lock(domain.domid, domain.uuid)
        self.monitor = LibxlMonitor(domains.qmp_socket(domain.domid), lock, str(domain))
        self.vga = QemuVga(self.monitor, url, 'configure the domain with vga="stdvga"')
        self.clock: SchedstatProbe | None = None

    async def close(self) -> None:
        """Leave the domain alone."""
        if self.clock is not None:
            self.clock.close()
        await self.monitor.close()


class XenTarget:
    """The screen of an HVM domain with `vga="stdvga"`.

    Its video RAM is mapped through the hypervisor; geometry, input, and the picture in modes without a linear
    framebuffer come from its QEMU in dom0, over the monitor that libxl uses too. A reboot makes another
    domain of the same UUID, which is followed; so does what is restored soon after it was saved.

    Args:
        url: `xen:3`, `xen:debian`.
        wanted: Domain id or name.
    """

    def __init__(self, url: str, wanted: str) -> None:
        self.url = url
        self.extent: Extent
        self.input: Input | None = None
        self.tolerates_injection = False
        # Nothing changes it but QEMU, whose running the tracker tells of as of a write.
        self.announces_mode = True
        self._activity: Observers[Callable[[], None]] = Observers()
        self._wanted = wanted
        self._attached: _Attached | None = None
        self._space: XenSpace | None = None
        self._known: Mode | None = None
        self._settled: bytes | None = None
        """The device model's clock once it had dealt with the last question; None while it has not."""
        self._flipping_until_s = self._places_next_s = float("-inf")
        self._again: asyncio.TimerHandle | None = None
        self._last_size = BLANK
        self._close = contextlib.AsyncExitStack()
        self._life: asyncio.Task[str] | None = None

    async def __aenter__(self) -> Self:
        """Attach; see `Target`."""
        async with contextlib.AsyncExitStack() as stack:
            store = stack.enter_context(Xenstore())
            domain = domains.find(store, self._wanted)
            if domain is None:
                remedy = "see vramtap ls, or xl list"
                raise NotFound("attach", self.url, f"no domain {self._wanted}", remedy)
            stack.push_async_callback(self._let_go)
            size = await self._attach(domain)
            memory = stack.enter_context(ForeignMemory())
            self._space = XenSpace(memory, size // PAGE_SIZE, str(domain), domain.uuid or domain.name)
            stack.callback(self._space.close)
            self.extent = Extent(self._space, 0, size // PAGE_SIZE)
            await self._place()
            self.input = XenInput()
            self._use_input()
            life = stack.enter_context(DomainLifecycle(store, domain))
            self._life = asyncio.create_task(self._live(life))
            stack.push_async_callback(self._stop_living)
            self._close = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach: unmap, and let go of the monitor."""
        await self._close.aclose()

    async def _attach(self, domain: Domain) -> int:
        """Have a monitor for a domain; returns the bytes of its video RAM."""
        if not domain.model_pid:
            reason = f"{domain} has no device model in dom0"
            raise NotTappable(
                "attach", self.url, reason, "only HVM domains without a stub domain have a screen"
            )
        attached = _Attached(domain, self.url)
        try:
            size = await attached.vga.find()
            if not 0 < size <= MAX_VRAM_BYTES or size % PAGE_SIZE:
                raise NotTappable("attach", self.url, f"video RAM of {size} bytes")
            if self._space is not None and size != self.extent.size_bytes:
                reason = f"{domain} has {size} bytes of video RAM, its predecessor {self.extent.size_bytes}"
                raise NotTappable("attach", self.url, reason, "start vramtap again")
        except BaseException:
            await attached.close()
            raise
        try:
            attached.clock = SchedstatProbe(domain.model_pid)
        except KernelError as error:
            log.info("%s: looked at again and again: %s", self.url, error)
        self._attached = attached
        return size

    def _use_input(self) -> None:
        if self._attached is not None and isinstance(self.input, XenInput):
            self.input.use(QemuInput(self._attached.monitor))

    async def _let_go(self) -> None:
        """The domain has ended, or we leave it."""
        attached, self._attached, self._known, self._settled = self._attached, None, None, None
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if isinstance(self.input, XenInput):
            self.input.use(None)
        if self._space is not None:
            self._space.unplace()
        if attached is not None:
            await attached.close()

    async def _place(self) -> bool:
        """Follow the video RAM to where the guest has placed it; returns whether it is anywhere."""
        attached, space = self._attached, self._space
        if attached is None or space is None:
            return False
        if space.model is not attached.clock:
            former, space.model = space.model, attached.clock
            if former is not None:
                former.close()
        bar = attached.vga.vram_bar
        # The guest writes the BAR: it may say anything.
        if bar < 0 or bar % PAGE_SIZE or bar + self.extent.size_bytes > MAX_FRAME * PAGE_SIZE:
            space.unplace()
            return False
        return space.place(attached.domain.domid, bar // PAGE_SIZE)

    # What it shows

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when the domain ends or returns, or its mode may be stale; see `Target`."""
        return self._activity.add(callback)

    async def mode(self) -> Mode | None:
        """Read the DISPI registers through the monitor, if QEMU has run since it was last done.

        Without having run it cannot have obeyed the guest, and the question itself makes it run, which would
        look like activity for ever. See `Target`.
        """
        attached = self._attached
        if attached is None:
            return None
        now_s = asyncio.get_running_loop().time()
        if self._known is not None and self._stands(attached, now_s):
            return self._known
        try:
            mode = await self._ask(attached, now_s)
        except TargetGone as error:
            # Whether it comes back is for `gone` to say.
            log.debug("%s", error)
            return None
        if mode is not None and self._known not in (None, mode):
            self._flipping_until_s = now_s + FLIPPING_S
        self._known, self._settled = mode, None
        if mode is not None:
            self._last_size = mode.width, mode.height
            self._later(SETTLE_S, lambda: self._settle(attached))
        elif self._again is not None:
            # What was shown before must not be believed any more.
            self._again.cancel()
            self._again = None
        return mode

    def _stands(self, attached: _Attached, now_s: float) -> bool:
        """Whether the last answer is still to be believed."""
        if self._settled is None:
            return self._again is not None and now_s >= self._flipping_until_s
        return attached.clock is not None and attached.clock.read() == self._settled

    async def _ask(self, attached: _Attached, now_s: float) -> Mode | None:
        if self._known is None or now_s >= self._places_next_s:
            await attached.vga.find()
            self._places_next_s = now_s + PLACES_S
        return await attached.vga.mode(self.extent.size_bytes) if await self._place() else None

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        if self._again is not None:
            self._again.cancel()
        self._again = asyncio.get_running_loop().call_later(delay_s, call)

    def _settle(self, attached: _Attached) -> None:
        """Our own question is over: what QEMU does from now on is somebody else's doing."""
        self._settled = attached.clock.read() if attached.clock is not None else None
        self._again = None
        if self._settled is not None:
            self._later(GEOMETRY_S, self._forget)

    def _forget(self) -> None:
        self._again, self._settled = None, None
        self._activity.notify()

    async def snapshot(self) -> NDArray[np.uint32]:
        """QEMU's screendump, or black while there is no domain; see `Target`."""
        attached = self._attached
        if attached is not None:
            try:
                picture = await attached.vga.snapshot()
            except TargetGone as error:
                log.debug("%s", error)
            else:
                self._last_size = picture.shape[1], picture.shape[0]
                return picture
        width, height = self._last_size
        return np.zeros((height, width), dtype=np.uint32)

    # How it lives

    async def _live(self, life: DomainLifecycle) -> str:
        """Follow the domain through its reboots; returns how it ended at last."""
        try:
            while True:
                await life.ended()
                await self._let_go()
                self._activity.notify()
                log.info("%s: %s", self.url, life.how)
                async with asyncio.timeout(life.patience_s):
                    await self._follow(life)
                log.info("%s: now %s", self.url, life.domain)
                self._activity.notify()
        except TimeoutError:
            return life.how
        except VramtapError as error:
            return f"{life.how or life.domain}; {error}"

    async def _follow(self, life: DomainLifecycle) -> None:
        """Attach to the domain that comes after."""
        while True:
            await life.successor()
            try:
                await self._attach(life.domain)
                await self._place()
            except NotTappable:
                raise
            except VramtapError as error:
                log.debug("%s: %s", self.url, error)
                await self._let_go()
                await asyncio.sleep(ATTACH_RETRY_S)
                continue
            self._use_input()
            return

    async def _stop_living(self) -> None:
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life])

    async def gone(self) -> str:
        """Wait until the domain has ended and no other follows it; see `Target`."""
        if self._life is None:
            return f"{self.url} was never attached"
        return await asyncio.shield(self._life)
