"""Machine: the built-in VM, made of memory, devices and a CPU that runs on a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from vramtap.concurrency import Observers
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

    from vramtap.memory.extent import Extent
    from vramtap.pages import PageRuns

log: logging.Logger = logging.getLogger(__name__)

KICK_INTERVAL_S: Final = 0.001
"""Time between two kicks. A kick is lost if it comes just before the CPU runs, so it is repeated."""
FRAMES_TIMEOUT_S: Final = 60.0
"""Default timeout of `run_frames`. Under a slow KVM a guest needs seconds for a frame."""
GUEST: Final = "guest.elf"
"""File name of the guest that comes with the package, built from the sources in `machine/guest/`."""


class Machine:
    """The built-in VM: a small x86-64 PC with a framebuffer, run on a thread of its own.

    A context manager: entering it starts the guest, leaving it ends the guest and the thread.
    `vramtap.open(machine)` taps its screen. `machine.layout` describes what the guest finds in memory and
    behind its ports.

    Any thread but the one that runs the guest may call any method.

    Args:
        image: What to run: path or content of a flat binary or of an ELF64 executable. Default: the guest
            that comes with the package.
        cpu: `unicorn` emulates, `kvm` uses the processor, `auto` takes the faster one that works here.
        log: Form of KVM's dirty log: `bitmap`, `manual` (cleared by a second call) or `ring`. Other forms
            than `bitmap` need KVM.
        command_line: Text that the guest reads at `BootInfo.command_line`: printable ASCII, at most 1,791
            characters.
        record_writes: Record the exact set of written pages for `written`. Needs Unicorn; about a hundred
            times slower.
        held: Do not run the guest until `run_frames` or `release`.

    Raises:
        UsageError: the image, the command line or a combination of options is not valid.
        VramtapError: the chosen CPU does not work here.

    Attributes:
        memory: RAM and video RAM: `memory.ram`, shape `(64 Mi,)`, and `memory.vram`, shape `(16 Mi,)`, uint8.
        extent: All video RAM, as trackers take it.
        runs: Reports to watchers when the CPU runs and when it stands still.
        dispi: Registers of the display; see `words()`.
        ps2: Keyboard and mouse. Enter `devices` to use it.
        rtc: Real-time clock.
        debug: What the guest wrote to its debug port: `text` and `frames`.
        halts: How often the guest has halted.
        cpu_reason: Why the machine got its CPU, as text.
        ended: Why the guest ended, in one clause; None while it has not.
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
        self.memory: GuestMemory = GuestMemory()
        self.runs: RunNotifier = RunNotifier()
        self.extent: Extent = vram_extent(self)
        self.ended: str | None = None
        self.halts: int = 0
        self._mode_watchers: Observers[Callable[[], None]] = Observers()
        self._end_watchers: Observers[Callable[[], None]] = Observers()
        # Facts: the guest uses the devices on the machine's thread, and input uses them on other threads. A
        # device that raises its line does so while the devices are locked. Consequence: take `_devices`
        # before `_changed`, never the other way round.
        self._devices = threading.Lock()
        self._changed = threading.Condition()
        self._running = False
        self._pausers = 0
        self._stopping = False
        self._held = held
        self._frame_limit: int | None = None
        self._line = False
        self.dispi: DispiDevice = DispiDevice(self.memory, self._on_mode)
        self.ps2: Ps2Device = Ps2Device(self.raise_line)
        self.rtc: RtcDevice = RtcDevice(self.raise_line)
        self.debug: DebugDevice = DebugDevice(
            on_frame=self._on_frame, raise_line=self.raise_line, on_exit=self._on_exit
        )
        self._bus = PortBus([self.dispi, self.ps2, self.rtc, PciDevice(), self.debug])
        name, content = _read(image)
        entry = load(self.memory, content, name)
        prepare(self.memory, command_line)
        ports = _LockedPorts(self._bus, self._devices)
        self.cpu_reason: str
        self._cpu, self.cpu_reason = make_cpu(cpu, self.memory, ports, log=log, record_writes=record_writes)
        try:
            self._cpu.start_at(entry, stack=BOOT_STACK, argument=BOOT_INFO, tables=BOOT_PML4)
        except BaseException:
            self._cpu.close()
            raise
        self._thread = threading.Thread(target=self._run_thread, name="vramtap-machine", daemon=True)

    # For its users

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the guest; call it once only."""
        self._thread.start()

    def close(self) -> None:
        """End the guest and its thread; harmless when called twice or before `start`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            self._kick_until_stopped()
        if self._thread.ident is not None:
            self._thread.join()
        self._cpu.close()

    @property
    def cpu(self) -> Cpu:
        """The CPU. Use it inside `paused` only."""
        return self._cpu

    @property
    def frames(self) -> int:
        """Number of frames that the guest has reported as drawn."""
        return self.debug.frames

    @property
    def running(self) -> bool:
        """Whether the CPU runs at this moment: it is not halted, stopped or ended."""
        return self._running

    @property
    def progress(self) -> int:
        """A number that grows whenever the guest halts or uses a port."""
        return self.halts + self._bus.accesses

    def watch_mode(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after the guest wrote a display register that moves or shapes the scanout.

        The call comes on the machine's thread, possibly millions of times a second. The guest waits for its
        return.

        Returns:
            A function that removes the callback; harmless when called twice.
        """
        return self._mode_watchers.add(callback)

    def watch_end(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back once when the guest has ended, on the machine's thread; at once if it has ended already.

        Returns:
            A function that removes the callback; harmless when called twice.
        """
        with self._changed:
            if self.ended is None:
                return self._end_watchers.add(callback)
        callback()
        return lambda: None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the CPU stopped inside the `with` block.

        Costs next to nothing while the guest is halted, about 0.1 ms while it runs. Several threads may be
        inside at a time.

        Raises:
            TargetGone: the guest has ended.
        """
        with self._changed:
            self._raise_if_ended()
            self._pausers += 1
            self._kick_until_stopped()
        try:
            yield
        finally:
            with self._changed:
                self._pausers -= 1
                self._changed.notify_all()

    def registers(self) -> Registers:
        """Stop the CPU for a moment and return its registers.

        Raises:
            TargetGone: the guest has ended.
        """
        with self.paused():
            return self._cpu.registers()

    def run_frames(self, count: int, timeout_s: float = FRAMES_TIMEOUT_S) -> None:
        """Let the guest draw a number of frames, and hold it there.

        The guest is held at the `hlt` that follows the last frame, before it draws anything of the next one.

        Args:
            count: Number of frames.
            timeout_s: Longest wait, seconds.

        Raises:
            TargetGone: the guest ended before it had drawn them.
            TimedOut: the time is over. The guest runs on and is not held.
        """
        with self._changed:
            self._frame_limit = self.debug.frames + count
            self._held = False
            self._changed.notify_all()
            if not self._changed.wait_for(self._is_held_or_ended, timeout_s):
                self._frame_limit = None
                raise TimedOut("run_frames", "machine", f"{count} frames were not drawn in {timeout_s:g} s")
            self._raise_if_ended()

    def wait_for_halt(self, timeout_s: float) -> None:
        """Wait until the guest has halted once or has ended, `timeout_s` seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: self.halts > 0 or self.ended is not None, timeout_s)

    def release(self) -> None:
        """Let a held guest run on."""
        with self._changed:
            self._held, self._frame_limit = False, None
            self._changed.notify_all()

    def wait_end(self, timeout_s: float) -> bool:
        """Wait until the guest has ended, `timeout_s` seconds at most; return whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ended is not None, timeout_s)

    def written(self) -> PageRuns:
        """Return the pages of the video RAM that the guest has stored into since the last call.

        Stores by devices are not included.

        Raises:
            ValueError: the machine was made without `record_writes`.
        """
        if not isinstance(self._cpu, UnicornCpu):
            raise ValueError("only Unicorn records stores; make the machine with record_writes=True")
        with self._paused_or_ended():
            return self._cpu.written()

    @contextlib.contextmanager
    def devices(self) -> Iterator[None]:
        """Keep the guest away from its devices inside the `with` block, for input from another thread."""
        with self._devices:
            yield

    def raise_line(self) -> None:
        """Wake the guest: end the `hlt` it is in, or else its next one."""
        with self._changed:
            self._line = True
            self._changed.notify_all()

    def _kick_until_stopped(self) -> None:
        """Stop the CPU; `_changed` is locked."""
        while self._running:
            self._cpu.kick()
            self._changed.wait(KICK_INTERVAL_S)

    def _raise_if_ended(self) -> None:
        if self.ended is not None:
            raise TargetGone("machine", "guest", self.ended)

    @contextlib.contextmanager
    def _paused_or_ended(self) -> Iterator[None]:
        with contextlib.nullcontext() if self.ended is not None else self.paused():
            yield

    def _is_held_or_ended(self) -> bool:
        return self.ended is not None or (self._held and not self._running)

    # Callbacks of the devices, on the machine's thread

    def _on_mode(self) -> None:
        self._mode_watchers.notify()

    def _on_frame(self, number: int) -> None:
        with self._changed:
            if self._frame_limit is not None and self.debug.frames >= self._frame_limit:
                self._held = True

    def _on_exit(self, status: int) -> None:
        raise _GuestExit(status)

    # The machine's thread

    def _run_thread(self) -> None:
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
                callbacks = self._end_watchers.snapshot()
            for callback in callbacks:
                callback()

    def _run(self) -> str:
        while self._wait_until_allowed():
            stop = self._run_cpu()
            if stop.kind is ExitKind.FAULT:
                at = self._cpu.registers()
                return f"the guest stopped: {stop.detail} at rip {at.rip:#x}, cr2 {at.cr2:#x}"
            if stop.kind is ExitKind.HALT:
                self._wait_for_line()
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

    def _wait_until_allowed(self) -> bool:
        """Wait until no thread pauses or holds the guest; return False if the machine is to end."""
        with self._changed:
            if self._held:
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopping or not (self._pausers or self._held))
            if self._stopping:
                return False
            self._running = True
            return True

    def _wait_for_line(self) -> None:
        """Wait in the guest's `hlt` until a device has raised its line."""
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
    """The guest wrote to its exit port."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _LockedPorts:
    """The port bus as the CPU uses it: locked against input from other threads."""

    def __init__(self, bus: PortBus, lock: threading.Lock) -> None:
        self._bus = bus
        self._lock = lock

    def read(self, port: int, size: int) -> int:
        with self._lock:
            return self._bus.read(port, size)

    def write(self, port: int, size: int, value: int) -> None:
        with self._lock:
            self._bus.write(port, size, value)


def _read(image: str | Path | bytes | None) -> tuple[str, bytes]:
    """Return an image's name for messages, and its content."""
    if isinstance(image, bytes):
        return "image", image
    if image is not None:
        return str(image), read_image(Path(image))
    guest = files("vramtap.machine.guest") / GUEST
    if not guest.is_file():
        raise UsageError("image", GUEST, "this installation has no guest", "rebuild the package")
    return GUEST, guest.read_bytes()
