"""Machine: memory, devices and a CPU on a thread of its own, made to run, stop, halt and end."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from vramtap.errors import TargetGone, TimedOut, UsageError, VramtapError
from vramtap.machine.boot import prepare
from vramtap.machine.choose_cpu import CpuName, LogForm, make_cpu
from vramtap.machine.cpu import Cpu, Exit, ExitKind, Registers
from vramtap.machine.devices.debug import DebugDevice
from vramtap.machine.devices.dispi import DispiDevice
from vramtap.machine.devices.pci import PciDevice
from vramtap.machine.devices.ps2 import Ps2Device
from vramtap.machine.devices.rtc import RtcDevice
from vramtap.machine.image import load, read_image
from vramtap.machine.layout import BOOT_INFO, BOOT_PML4, BOOT_STACK
from vramtap.machine.memory import GuestMemory
from vramtap.machine.ports import NEVER_NS, PortBus
from vramtap.machine.run_notifier import RunNotifier
from vramtap.machine.space import vram_extent
from vramtap.machine.unicorn_cpu import UnicornCpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from vramtap.pages import PageRuns

log = logging.getLogger(__name__)

KICK_AGAIN_S: Final = 0.001
"""Until a kick is given once more: it is lost if the CPU was just about to run."""
FRAMES_TIMEOUT_S: Final = 60.0
"""How long `run_frames` waits by default: a guest under a slow KVM draws a frame in seconds."""
GUEST: Final = "guest.elf"
"""The guest that comes with the package, beside `machine/guest/`'s sources."""


class Machine:
    """A small x86-64 machine with a framebuffer, run on a thread of its own.

    A context manager: entering it starts the guest, leaving it ends it. What the guest finds is described
    in `machine.layout`.

    Args:
        image: What to run: a flat binary or an ELF64 executable, as a path or as its bytes; the guest that
            comes with the package by default.
        cpu: `unicorn`, `kvm`, or `auto` for the faster one that works here.
        log: With KVM, the form of its dirty log: `bitmap`, `manual` (cleared by a second call) or `ring`.
        command_line: What the guest reads at `BootInfo.command_line`.
        record_writes: With Unicorn, keep the true set of pages stored into for `written`; slow.
        held: Do not run until `run_frames` or `release`.

    Raises:
        UsageError: the image or the command line is no good.
        VramtapError: the CPU asked for does not work here.

    Attributes:
        memory: RAM and video RAM.
        extent: The video RAM, for a tracker.
        runs: Tells who wants to know when the CPU runs and when it stands still.
        dispi: The display's registers; `words()`.
        ps2: Keyboard and mouse.
        debug: What the guest said on its debug port.
        ended: What ended the guest, in one clause; None while it runs.
    """

    def __init__(
        self,
        image: str | Path | bytes | None = None,
        *,
        cpu: CpuName = "auto",
        log: LogForm = "bitmap",
        command_line: str = "",
        record_writes: bool = False,
        held: bool = False,
    ) -> None:
        self.memory = GuestMemory()
        self.runs = RunNotifier()
        self.extent = vram_extent(self)
        self.ended: str | None = None
        self.on_end: Callable[[], None] = lambda: None
        """Called on the machine's thread, once, when the guest has ended."""
        self.on_mode: Callable[[], None] = lambda: None
        """Called on the machine's thread when the guest wrote a register that moves or shapes the scanout."""
        self.halts = 0
        """How often the guest has halted."""
        # Facts: the devices are used by the guest, on our thread, and by who brings input; a device that
        # raises its line does so with the devices locked. So the devices' lock comes first, and nothing
        # that holds `_changed` asks for it.
        self._devices = threading.Lock()
        self._changed = threading.Condition()
        self._running = False
        self._pausers = 0
        self._stopping = False
        self._held = held
        self._limit: int | None = None
        self._line = False
        self.dispi = DispiDevice(self.memory, self._mode_changed)
        self.ps2 = Ps2Device(self.raise_line)
        self.rtc = RtcDevice(self.raise_line)
        self.debug = DebugDevice(
            on_frame=self._frame_done, raise_line=self.raise_line, on_exit=self._guest_exits
        )
        self._bus = PortBus([self.dispi, self.ps2, self.rtc, PciDevice(), self.debug])
        name, content = _image(image)
        entry = load(self.memory, content, name)
        prepare(self.memory, command_line)
        self._cpu, self.cpu_why = make_cpu(
            cpu, self.memory, _Locked(self._bus, self._devices), log=log, record_writes=record_writes
        )
        try:
            self._cpu.start_at(entry, stack=BOOT_STACK, argument=BOOT_INFO, tables=BOOT_PML4)
        except BaseException:
            self._cpu.close()
            raise
        self._thread = threading.Thread(target=self._main, name="vramtap-machine", daemon=True)

    # Who uses it

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Let the guest run; once."""
        self._thread.start()

    def close(self) -> None:
        """End the guest and its thread; harmless twice, and before `start`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            while self._running:
                self._cpu.kick()
                self._changed.wait(KICK_AGAIN_S)
        if self._thread.ident is not None:
            self._thread.join()
        self._cpu.close()

    @property
    def cpu(self) -> Cpu:
        """The CPU; to be touched inside `paused` only."""
        return self._cpu

    @property
    def frames(self) -> int:
        """How many frames the guest says it has drawn."""
        return self.debug.frames

    @property
    def running(self) -> bool:
        """Whether the CPU runs this moment: not halted, stopped or ended."""
        return self._running

    @property
    def progress(self) -> int:
        """Grows whenever the guest halts or uses a port."""
        return self.halts + self._bus.accesses

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While inside, the CPU is stopped.

        Costs next to nothing while the guest is halted, about 0.1 ms while it runs.

        Raises:
            TargetGone: the guest has ended.
        """
        with self._changed:
            self._check()
            self._pausers += 1
            while self._running:
                self._cpu.kick()
                self._changed.wait(KICK_AGAIN_S)
        try:
            yield
        finally:
            with self._changed:
                self._pausers -= 1
                self._changed.notify_all()

    def registers(self) -> Registers:
        """Of the CPU, stopped for the question.

        Raises:
            TargetGone: the guest has ended.
        """
        with self.paused():
            return self._cpu.registers()

    def run_frames(self, count: int, timeout_s: float = FRAMES_TIMEOUT_S) -> None:
        """Let the guest draw so many frames, and hold it there.

        It is held at the `hlt` that follows the last frame, before it draws anything of the next.

        Raises:
            TargetGone: the guest ended meanwhile.
            TimedOut: it did not draw them in time; it is not held.
        """
        with self._changed:
            self._limit = self.debug.frames + count
            self._held = False
            self._changed.notify_all()
            if not self._changed.wait_for(self._is_held_or_gone, timeout_s):
                self._limit = None
                raise TimedOut("run_frames", "machine", f"{count} frames were not drawn in {timeout_s:g} s")
            self._check()

    def wait_for_halt(self, timeout_s: float) -> None:
        """Wait until the guest has halted once or has ended, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.halts > 0 or self.ended is not None, timeout_s)

    def release(self) -> None:
        """Let a guest that is held run on."""
        with self._changed:
            self._held, self._limit = False, None
            self._changed.notify_all()

    def wait_end(self, timeout_s: float) -> bool:
        """Wait for the guest's end, for so many seconds at most; returns whether it has ended."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ended is not None, timeout_s)

    def written(self) -> PageRuns:
        """The pages of the video RAM the guest has stored into since the last call, devices not included.

        Raises:
            ValueError: constructed without `record_writes`.
        """
        if not isinstance(self._cpu, UnicornCpu):
            raise ValueError("stores are recorded by Unicorn only")
        with self._stopped_or_gone():
            return self._cpu.written()

    @contextlib.contextmanager
    def devices(self) -> Iterator[None]:
        """While inside, the guest cannot reach its devices: for who brings input."""
        with self._devices:
            yield

    def raise_line(self) -> None:
        """End the `hlt` the guest is in, or the next one."""
        with self._changed:
            self._line = True
            self._changed.notify_all()

    def _check(self) -> None:
        if self.ended is not None:
            raise TargetGone("machine", "guest", self.ended)

    @contextlib.contextmanager
    def _stopped_or_gone(self) -> Iterator[None]:
        with contextlib.nullcontext() if self.ended is not None else self.paused():
            yield

    def _is_held_or_gone(self) -> bool:
        return self.ended is not None or (self._held and not self._running)

    # What devices tell, on the machine's thread

    def _mode_changed(self) -> None:
        self.on_mode()

    def _frame_done(self, number: int) -> None:
        with self._changed:
            if self._limit is not None and self.debug.frames >= self._limit:
                self._held = True

    def _guest_exits(self, status: int) -> None:
        raise _GuestExit(status)

    # The machine's thread

    def _main(self) -> None:
        why = "ended by a defect of vramtap; see the log"
        try:
            why = self._run()
        except _GuestExit as leaving:
            why = f"the guest ended with status {leaving.status}"
        except VramtapError as error:
            why = str(error)
        except Exception:
            log.exception("machine: a defect of vramtap ends it")
        finally:
            with self._changed:
                self._running = False
                self.ended = why
                self._changed.notify_all()
            self.on_end()

    def _run(self) -> str:
        while self._may_run():
            stop = self._run_cpu()
            if stop.kind is ExitKind.FAULT:
                at = self._cpu.registers()
                return f"the guest stopped: {stop.detail} at rip {at.rip:#x}, cr2 {at.cr2:#x}"
            if stop.kind is ExitKind.HALT:
                self._halt()
        return "the machine was closed"

    def _run_cpu(self) -> Exit:
        halted = False
        self.runs.begin()
        try:
            stop = self._cpu.run()
            halted = stop.kind is ExitKind.HALT
            return stop
        finally:
            with self._changed:
                self._running = False
                self.halts += halted
                self._changed.notify_all()
            self.runs.end(halted=halted)

    def _may_run(self) -> bool:
        """Wait until nobody pauses or holds the guest; False when it is to end."""
        with self._changed:
            if self._held:
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopping or not (self._pausers or self._held))
            if self._stopping:
                return False
            self._running = True
            return True

    def _halt(self) -> None:
        """Wait until a device has raised its line."""
        while True:
            now_ns = time.monotonic_ns()
            with self._devices:
                if now_ns >= self.rtc.due_ns():
                    self.rtc.tick(now_ns)
                due_ns = self.rtc.due_ns()
            with self._changed:
                if self._line or self._stopping or self._held:
                    self._line = False
                    return
                wait_s = None if due_ns == NEVER_NS else (due_ns - now_ns) / 1e9
                if wait_s is None or wait_s > 0:
                    self._changed.wait(wait_s)


class _GuestExit(Exception):
    """The guest asked for its end."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Locked:
    """The bus as the CPU sees it: one access at a time, with input."""

    def __init__(self, bus: PortBus, lock: threading.Lock) -> None:
        self._bus = bus
        self._lock = lock

    def read(self, port: int, size: int) -> int:
        with self._lock:
            return self._bus.read(port, size)

    def write(self, port: int, size: int, value: int) -> None:
        with self._lock:
            self._bus.write(port, size, value)


def _image(image: str | Path | bytes | None) -> tuple[str, bytes]:
    if isinstance(image, bytes):
        return "image", image
    if image is not None:
        return str(image), read_image(Path(image))
    guest = files("vramtap.machine.guest") / GUEST
    if not guest.is_file():
        raise UsageError("image", GUEST, "this installation has no guest", "build the package anew")
    return GUEST, guest.read_bytes()
