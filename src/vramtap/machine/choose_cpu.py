"""Choice of a VM's CPU: the named one, or the faster of those that run a trial loop here."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Final, Literal, get_args

from vramtap.errors import UsageError, VramtapError
from vramtap.machine.boot import prepare
from vramtap.machine.cpu import Cpu, ExitKind, NoPorts, Ports
from vramtap.machine.layout import BOOT_PML4, BOOT_STACK, IMAGE_BASE
from vramtap.machine.memory import GuestMemory
from vramtap.machine.unicorn_cpu import UnicornCpu

CpuName = Literal["auto", "unicorn", "kvm"]
LogForm = Literal["bitmap", "manual", "ring"]
CPU_NAMES: Final[tuple[str, ...]] = get_args(CpuName)
LOG_FORMS: Final[tuple[str, ...]] = get_args(LogForm)

_TURNS: Final = 100_000
"""Turns of the trial loop, three instructions each: 1 ms at 200 M instructions a second under Unicorn, 150 ms
at 2 M under a KVM that is itself emulated."""
_LOOP: Final = bytes.fromhex("b9") + _TURNS.to_bytes(4, "little") + bytes.fromhex("890f ffc9 75fa f4")
"""mov ecx, TURNS; 1: mov [rdi], ecx; dec ecx; jnz 1b; hlt"""


@dataclass(frozen=True, slots=True)
class CpuTrial:
    """Result of the trial loop on one CPU.

    Args:
        name: The CPU.
        took_s: Duration, seconds; None if the CPU does not work here.
        reason: Why it does not work.
    """

    name: Literal["unicorn", "kvm"]
    took_s: float | None
    reason: str = ""


def make_cpu(
    name: str, memory: GuestMemory, ports: Ports, *, log: str = "bitmap", record_writes: bool = False
) -> tuple[Cpu, str]:
    """Make a CPU for a VM.

    Args:
        name: One of `CPU_NAMES`.
        memory: The VM's memory, which the CPU uses in place.
        ports: The VM's ports, called on the thread that runs the CPU.
        log: One of `LOG_FORMS`; other forms than `bitmap` need KVM.
        record_writes: Record stores to the video RAM; needs Unicorn.

    Returns:
        The CPU, and the reason for the choice as text.

    Raises:
        UsageError: no such name, or an option that this CPU does not have.
        VramtapError: the named CPU does not work here.
    """
    if name not in CPU_NAMES:
        raise UsageError("cpu", name, "no such CPU", f"use one of {', '.join(CPU_NAMES)}")
    if log not in LOG_FORMS:
        raise UsageError("log", log, "no such form of KVM's log", f"use one of {', '.join(LOG_FORMS)}")
    why = "as requested"
    if name == "auto":
        if record_writes:
            name, why = "unicorn", "only Unicorn records stores"
        elif log != "bitmap":
            name, why = "kvm", f"only KVM has a log of the form {log}"
        else:
            name, why = fastest()
    if name == "unicorn":
        if log != "bitmap":
            raise UsageError("log", log, "is a form of KVM's log", "omit it, or add cpu=kvm")
        return UnicornCpu(memory, ports, record_writes=record_writes), why
    if record_writes:
        raise UsageError("cpu", name, "does not record stores", "use unicorn")
    return _kvm(memory, ports, log), why


@functools.cache
def fastest() -> tuple[Literal["unicorn", "kvm"], str]:
    """Return the CPU that runs the trial loop faster, and the reason as text. Tried once a process."""
    unicorn, kvm = trials()
    if unicorn.took_s is None:
        raise VramtapError("machine", "unicorn", unicorn.reason, "reinstall the package unicorn")
    if kvm.took_s is None:
        return "unicorn", f"KVM does not work here: {kvm.reason}"
    slow, fast = sorted((unicorn, kvm), key=lambda trial: trial.took_s or 0.0, reverse=True)
    ratio = (slow.took_s or 0.0) / (fast.took_s or 1e-9)
    return fast.name, f"{ratio:.1f} times as fast as {slow.name} in a trial loop"


def trials() -> tuple[CpuTrial, CpuTrial]:
    """Run the trial loop on Unicorn and on KVM."""
    return _trial("unicorn"), _trial("kvm")


def _trial(name: Literal["unicorn", "kvm"]) -> CpuTrial:
    memory = GuestMemory()
    prepare(memory, "")
    memory.store(IMAGE_BASE, _LOOP)
    try:
        cpu, _ = make_cpu(name, memory, NoPorts())
    except VramtapError as error:
        return CpuTrial(name, None, str(error))
    try:
        # The loop stores to the top of the stack, which it does not use otherwise.
        cpu.start_at(IMAGE_BASE, stack=BOOT_STACK, argument=BOOT_STACK - 8, tables=BOOT_PML4)
        began_s = time.perf_counter()
        stop = cpu.run()
        took_s = time.perf_counter() - began_s
    finally:
        cpu.close()
    if stop.kind is not ExitKind.HALT:
        return CpuTrial(name, None, f"the trial loop ended with {stop.kind.name} {stop.detail}")
    return CpuTrial(name, took_s)


def _kvm(memory: GuestMemory, ports: Ports, log: str) -> Cpu:
    # Imported on demand: a machine without KVM must not need it.
    from vramtap.machine.kvm_cpu import KvmCpu

    return KvmCpu(memory, ports, log=log)
