"""`demo:?workload=...`: the embedded machine, with the package's own guest or the user's."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Self, cast

from vramtap.concurrency import run_in_thread
from vramtap.errors import UsageError
from vramtap.machine.choose_cpu import CPU_NAMES, LOG_FORMS, CpuName, LogForm
from vramtap.machine.machine import Machine
from vramtap.machine.workloads import WORKLOADS
from vramtap.targets.machine.target import MachineTarget

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from vramtap.display.mode import Mode
    from vramtap.keyboard.events import Input
    from vramtap.memory.extent import Extent
    from vramtap.targets.url import TargetSpec

MAX_HZ: Final = 1024
_WIDTHS: Final = range(320, 2561, 8)
_HEIGHTS: Final = range(200, 1601)
"""Modes the guest takes (machine/guest/options.h)."""
_MAX_FRAMES: Final = (1 << 32) - 1
FIRST_FRAME_S: Final = 1.0
"""How long a guest's first picture is waited for; one that never halts is then shown as it is."""


log = logging.getLogger(__name__)


class DemoTarget:
    """A machine that lives as long as the tap.

    Args:
        spec: `demo:`, with `workload`, `seed`, `hz`, `mode`, `frames` for the guest, `cpu`, `log` and
            `image` for the machine.

    Raises:
        UsageError: a parameter means nothing.
    """

    def __init__(self, spec: TargetSpec) -> None:
        self.url = spec.url
        self.extent: Extent
        self.input: Input | None = None
        self.tolerates_injection = True
        self.announces_mode = True
        self._cpu = cast("CpuName", spec.choice("cpu", CPU_NAMES, "auto"))
        self._log = cast("LogForm", spec.choice("log", LOG_FORMS, "bitmap"))
        self._image = spec.query.get("image")
        self._command_line = command_line(spec)
        self._on_activity: Callable[[], None] = lambda: None
        self._machine: Machine | None = None
        self._target: MachineTarget | None = None

    @property
    def on_activity(self) -> Callable[[], None]:
        """See `Target`."""
        return self._on_activity

    @on_activity.setter
    def on_activity(self, call: Callable[[], None]) -> None:
        self._on_activity = call
        if self._target is not None:
            self._target.on_activity = call

    async def __aenter__(self) -> Self:
        """Start the machine and let the guest draw its first picture; see `Target`.

        Raises:
            UsageError: the image is no good.
            VramtapError: the CPU asked for does not work here.
        """
        # Choosing a CPU runs a trial of 150 ms where KVM is emulated.
        self._machine = await run_in_thread(self._make, Machine.close)
        log.info("%s: CPU %s: %s", self.url, self._machine.cpu.name, self._machine.cpu_why)
        try:
            self._target = MachineTarget(self._machine, self.url)
            await self._target.__aenter__()
            self.extent, self.input = self._target.extent, self._target.input
            self._machine.start()
            await asyncio.to_thread(self._machine.wait_for_halt, FIRST_FRAME_S)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    def _make(self) -> Machine:
        return Machine(self._image, cpu=self._cpu, log=self._log, command_line=self._command_line)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the machine; see `Target`."""
        if self._target is not None:
            await self._target.__aexit__(kind, error, trace)
        if self._machine is not None:
            # A guest that runs is stopped in about a millisecond.
            self._machine.close()

    async def mode(self) -> Mode | None:
        """See `Target`."""
        return await self._attached().mode()

    async def snapshot(self) -> NDArray[np.uint32]:
        """See `Target`."""
        return await self._attached().snapshot()

    async def gone(self) -> str:
        """See `Target`."""
        return await self._attached().gone()

    def _attached(self) -> MachineTarget:
        if self._target is None:
            raise RuntimeError(f"{self.url} is not entered")
        return self._target


def command_line(spec: TargetSpec) -> str:
    """What the guest is told, each value checked.

    Raises:
        UsageError: a value means nothing to the guest.
    """
    words = []
    if "workload" in spec.query:
        words.append(f"workload={spec.choice('workload', WORKLOADS, '')}")
    if "seed" in spec.query:
        words.append(f"seed={spec.number('seed')}")
    if "hz" in spec.query:
        hz = spec.number("hz")
        if hz & hz - 1 or hz == 1 or hz > MAX_HZ:
            raise UsageError(
                "target", spec.url, f"hz={hz} is no rate", f"a power of two from 2 to {MAX_HZ}, or 0"
            )
        words.append(f"hz={hz}")
    if "mode" in spec.query:
        width, height = spec.size()
        if width not in _WIDTHS or height not in _HEIGHTS:
            bounds = f"{_WIDTHS[0]}x{_HEIGHTS[0]} to {_WIDTHS[-1]}x{_HEIGHTS[-1]}, the width a multiple of 8"
            raise UsageError("target", spec.url, f"mode={width}x{height} is no mode of the guest's", bounds)
        words.append(f"mode={width}x{height}")
    if "frames" in spec.query:
        frames = spec.number("frames")
        if frames > _MAX_FRAMES:
            raise UsageError("target", spec.url, f"frames={frames} is outside 0..{_MAX_FRAMES}")
        words.append(f"frames={frames}")
    return " ".join(words)
