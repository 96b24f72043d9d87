"""`open_target`: makes the target that a TARGET string names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vramtap.targets.url import TargetSpec, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vramtap.machine.machine import Machine
    from vramtap.targets.base import Target

# Each kind is imported when it is used, so that a tap of QEMU needs no X library.


def _qemu(spec: TargetSpec) -> Target:
    from vramtap.targets.qemu.target import QemuTarget

    return QemuTarget(spec.rest)


def _x11(spec: TargetSpec) -> Target:
    from vramtap.targets.x11.target import X11Target

    return X11Target(spec)


def _xen(spec: TargetSpec) -> Target:
    from vramtap.targets.xen.target import XenTarget

    return XenTarget(spec.url, spec.rest)


def _pid(spec: TargetSpec) -> Target:
    from vramtap.targets.process import ProcessTarget

    return ProcessTarget(spec)


def _shm(spec: TargetSpec) -> Target:
    from vramtap.targets.shm import FileTarget

    return FileTarget(spec)


def _demo(spec: TargetSpec) -> Target:
    from vramtap.targets.machine.demo import DemoTarget

    return DemoTarget(spec)


_KINDS: Final[Mapping[str, Callable[[TargetSpec], Target]]] = {
    "qemu": _qemu,
    "x11": _x11,
    "xen": _xen,
    "pid": _pid,
    "shm": _shm,
    "demo": _demo,
}


def open_target(url: str) -> Target:
    """Return the target that a TARGET string names, not yet attached.

    Args:
        url: A string of one of the kinds `qemu:`, `x11:`, `xen:`, `pid:`, `shm:` and `demo:`
            (`qemu:/run/vm.qmp`, `x11::99`).

    Returns:
        An async context manager; to enter it is to attach.

    Raises:
        UsageError: the string is not valid.
    """
    spec = parse(url)
    return _KINDS[spec.kind](spec)


def machine_target(machine: Machine) -> Target:
    """Return the target for a VM that the caller runs in this process."""
    from vramtap.targets.machine.target import MachineTarget

    return MachineTarget(machine)
