"""Target `xen:NAME` or `xen:ID`: the screen of a Xen HVM domain, through its QEMU and the hypervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
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
from vramtap.targets.xen.lifecycle import DEFAULT_WAITS, DomainLifecycle, SuccessorWaits
from vramtap.targets.xen.mode_cache import DEFAULT_MODE_TIMINGS, ModeCache, ModeTimings
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
"""Largest video RAM. QEMU allows 256 MiB (hw/display/vga.c, vgamem_mb)."""
ATTACH_RETRY_S: Final = 0.25
"""Time between two attempts to attach to a domain after a reboot. No event tells when it can be attached."""
BLANK: Final = (640, 480)
"""Width and height of the black screen shown while there is no domain, if no size is known."""

log: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class XenTimings:
    """Intervals of a tapped domain.

    Args:
        modes: When the mode is read again.
        waits: How long a domain's successor is waited for.
    """

    modes: ModeTimings = DEFAULT_MODE_TIMINGS
    waits: SuccessorWaits = DEFAULT_WAITS


class _DeviceModel:
    """The QEMU of one domain. It ends with the domain."""

    def __init__(self, domain: Domain, url: str) -> None:
        self.domain = domain
        lock = domains.qmp_lock(domain.domid, domain.uuid)
        self.monitor = LibxlMonitor(domains.qmp_socket(domain.domid), lock, str(domain))
        self.vga = QemuVga(self.monitor, url, 'configure the domain with vga="stdvga"')
        self.probe: SchedstatProbe | None = None
        self.modes: ModeCache | None = None

    async def close(self) -> None:
        if self.modes is not None:
            self.modes.close()
        if self.probe is not None:
            self.probe.close()
        await self.monitor.close()


class XenTarget:
    """The screen of an HVM domain with `vga="stdvga"`.

    vramtap maps the domain's video RAM through the hypervisor. Its QEMU in dom0 gives the mode, takes input,
    and gives the picture in modes without a linear framebuffer, over the monitor that libxl uses too.
    vramtap follows the domain through a reboot, and through a restore soon after a save, each of which
    makes another domain of the same UUID.

    Args:
        url: `xen:3`, `xen:debian`.
        wanted: Domain id or name.
        timings: Intervals.
    """

    def __init__(self, url: str, wanted: str, *, timings: XenTimings | None = None) -> None:
        self.url = url
        self.extent: Extent
        self.input: Input | None = None
        self.tolerates_injection = False
        # Only QEMU changes the mode, and the tracker reports a run of QEMU like a write.
        self.announces_mode = True
        self._activity: Observers[Callable[[], None]] = Observers()
        self._wanted = wanted
        self._timings = timings or XenTimings()
        self._model: _DeviceModel | None = None
        self._space: XenSpace | None = None
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
            stack.push_async_callback(self._detach_model)
            size = await self._attach_model(domain)
            memory = stack.enter_context(ForeignMemory())
            self._space = XenSpace(memory, size // PAGE_SIZE, str(domain), domain.uuid or domain.name)
            stack.callback(self._space.close)
            self.extent = Extent(self._space, 0, size // PAGE_SIZE)
            self._place()
            self.input = XenInput()
            self._connect_input()
            life = stack.enter_context(DomainLifecycle(store, domain, waits=self._timings.waits))
            self._life = asyncio.create_task(self._live(life))
            stack.push_async_callback(self._stop_living)
            self._close = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unmap the video RAM and disconnect from the device model; see `Target`."""
        await self._close.aclose()

    async def _attach_model(self, domain: Domain) -> int:
        """Attach to the device model of a domain; return the size of its video RAM in bytes."""
        if not domain.model_pid:
            reason = f"{domain} has no device model in dom0"
            remedy = "only HVM domains without a stub domain have a screen"
            raise NotTappable("attach", self.url, reason, remedy)
        model = _DeviceModel(domain, self.url)
        try:
            size = await model.vga.read_bars()
            if not 0 < size <= MAX_VRAM_BYTES or size % PAGE_SIZE:
                raise NotTappable("attach", self.url, f"video RAM of {size} bytes")
            if self._space is not None and size != self.extent.size_bytes:
                reason = f"{domain} has {size} bytes of video RAM, its predecessor {self.extent.size_bytes}"
                raise NotTappable("attach", self.url, reason, "start vramtap again")
        except BaseException:
            await model.close()
            raise
        try:
            model.probe = SchedstatProbe(domain.model_pid)
        except KernelError as error:
            log.info("%s: the mode is read at every scan: %s", self.url, error)
        model.modes = ModeCache(
            lambda bars: self._read_mode(model, bars=bars),
            model.probe,
            self._activity.notify,
            timings=self._timings.modes,
        )
        self._model = model
        return size

    def _connect_input(self) -> None:
        if self._model is not None and isinstance(self.input, XenInput):
            self.input.use(QemuInput(self._model.monitor))

    async def _detach_model(self) -> None:
        """Detach from the device model: the domain has ended, or vramtap leaves it."""
        model, self._model = self._model, None
        if isinstance(self.input, XenInput):
            self.input.use(None)
        if self._space is not None:
            self._space.unplace()
        if model is not None:
            await model.close()

    def _place(self) -> bool:
        """Map the video RAM where the guest has placed it; return whether it is placed."""
        model, space = self._model, self._space
        if model is None or space is None:
            return False
        if space.model is not model.probe:
            former, space.model = space.model, model.probe
            if former is not None:
                former.close()
        bar = model.vga.vram_bar
        # The guest writes the BAR, so it may have any value.
        if bar < 0 or bar % PAGE_SIZE or bar + self.extent.size_bytes > MAX_FRAME * PAGE_SIZE:
            space.unplace()
            return False
        return space.place(model.domain.domid, bar // PAGE_SIZE)

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when the domain ends or returns, or its mode may be stale; see `Target`."""
        return self._activity.add(callback)

    async def mode(self) -> Mode | None:
        """Return the mode, read again if QEMU may have changed it; see `ModeCache`, `Target`."""
        model = self._model
        if model is None or model.modes is None:
            return None
        try:
            mode = await model.modes.mode()
        except TargetGone as error:
            # `gone` decides whether the domain comes back.
            log.debug("%s", error)
            return None
        if mode is not None:
            self._last_size = mode.width, mode.height
        return mode

    async def _read_mode(self, model: _DeviceModel, *, bars: bool) -> Mode | None:
        if bars:
            await model.vga.read_bars()
        return await model.vga.mode(self.extent.size_bytes) if self._place() else None

    async def snapshot(self) -> NDArray[np.uint32]:
        """Return QEMU's screendump, or a black screen while there is no domain; see `Target`."""
        model = self._model
        if model is not None:
            try:
                picture = await model.vga.snapshot()
            except TargetGone as error:
                log.debug("%s", error)
            else:
                self._last_size = picture.shape[1], picture.shape[0]
                return picture
        width, height = self._last_size
        return np.zeros((height, width), dtype=np.uint32)

    async def _live(self, life: DomainLifecycle) -> str:
        """Follow the domain through its reboots; return how it ended in the end."""
        try:
            while True:
                await life.ended()
                await self._detach_model()
                self._activity.notify()
                log.info("%s: %s", self.url, life.end)
                async with asyncio.timeout(life.successor_wait_s):
                    await self._attach_successor(life)
                log.info("%s: now %s", self.url, life.domain)
                self._activity.notify()
        except TimeoutError:
            return life.end
        except VramtapError as error:
            return f"{life.end or life.domain}; {error}"

    async def _attach_successor(self, life: DomainLifecycle) -> None:
        while True:
            await life.successor()
            try:
                await self._attach_model(life.domain)
                self._place()
            except NotTappable:
                raise
            except VramtapError as error:
                log.debug("%s: %s", self.url, error)
                await self._detach_model()
                await asyncio.sleep(ATTACH_RETRY_S)
                continue
            self._connect_input()
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
