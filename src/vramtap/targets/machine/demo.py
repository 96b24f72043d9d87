"""DemoTarget: `demo:?workload=...`, the built-in VM with the package's own guest or the user's image."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Self, cast

from vramtap.concurrency import run_in_thread
from vramtap.errors import UsageError
from vramtap.machine.choose_cpu import CPU_NAMES, LOG_FORMS, CpuName, LogForm
from vramtap.machine.machine import Machine
from vramtap.machine.workloads import WORKLOADS
from vramtap.targets.machine.target import VmTarget

if TYPE_CHECKING:
    from types import TracebackType

    from vramtap.targets.url import TargetSpec

MAX_HZ: Final = 1024
_WIDTHS: Final = range(320, 2561, 8)
_HEIGHTS: Final = range(200, 1601)
"""Modes that the guest takes (machine/guest/options.h)."""
_MAX_FRAMES: Final = (1 << 32) - 1
FIRST_FRAME_S: Final = 1.0
"""Longest wait for the guest's first picture. A guest that never halts is then shown as it is."""


log: logging.Logger = logging.getLogger(__name__)


class DemoTarget(VmTarget):
    """A VM that lives as long as the tap.

    Args:
        spec: `demo:`, with `workload`, `seed`, `hz`, `mode`, `frames` for the guest, `cpu`, `log` and
            `image` for the VM.

    Raises:
        UsageError: a parameter is not valid.
    """

    def __init__(self, spec: TargetSpec) -> None:
        super().__init__(spec.url)
        self._cpu = cast("CpuName", spec.choice("cpu", CPU_NAMES, "auto"))
        self._log = cast("LogForm", spec.choice("log", LOG_FORMS, "bitmap"))
        self._image = spec.query.get("image")
        self._command_line = command_line(spec)

    async def __aenter__(self) -> Self:
        """Start the VM and let the guest draw its first picture; see `Target`.

        Raises:
            UsageError: the image is not valid.
            VramtapError: the chosen CPU does not work here.
        """
        # In a thread: to choose a CPU takes a trial run, which lasts 150 ms where KVM is emulated.
        machine = await run_in_thread(self._make, Machine.close)
        log.info("%s: CPU %s: %s", self.url, machine.cpu.name, machine.cpu_reason)
        self._show(machine)
        try:
            self._attach()
            machine.start()
            await asyncio.to_thread(machine.wait_for_halt, FIRST_FRAME_S)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    def _make(self) -> Machine:
        return Machine(self._image, cpu=self._cpu, log=self._log, command_line=self._command_line)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the VM; see `Target`."""
        await self._detach()
        if self._machine is not None:
            # This takes about a millisecond, even while the guest runs.
            self._machine.close()


def command_line(spec: TargetSpec) -> str:
    """Return the guest's command line for a target's parameters.

    Raises:
        UsageError: a value is not valid for the guest.
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
                "target",
                spec.url,
                f"hz={hz} is not a valid rate",
                f"use a power of two from 2 to {MAX_HZ}, or 0",
            )
        words.append(f"hz={hz}")
    if "mode" in spec.query:
        width, height = spec.size()
        if width not in _WIDTHS or height not in _HEIGHTS:
            bounds = (
                f"use {_WIDTHS[0]}x{_HEIGHTS[0]} to {_WIDTHS[-1]}x{_HEIGHTS[-1]}, the width a multiple of 8"
            )
            raise UsageError("target", spec.url, f"mode={width}x{height} is not a mode of the guest", bounds)
        words.append(f"mode={width}x{height}")
    if "frames" in spec.query:
        frames = spec.number("frames")
        if frames > _MAX_FRAMES:
            raise UsageError("target", spec.url, f"frames={frames} is outside 0..{_MAX_FRAMES}")
        words.append(f"frames={frames}")
    return " ".join(words)
