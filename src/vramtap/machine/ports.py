"""The port bus: which device answers at which port, and the line by which any of them ends a `hlt`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

log = logging.getLogger(__name__)

NEVER_NS: Final = (1 << 63) - 1
"""No event is due."""
_PORTS: Final = 1 << 16
_MASKS: Final[Mapping[int, int]] = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF}
_LISTED: Final = 64
"""Ports with nothing behind them are named in the log once each, and so many of them at most."""


class Device(Protocol):
    """Something behind ports. Called under the bus's lock: on the CPU's thread, or by who brings input."""

    @property
    def ports(self) -> Iterable[int]:
        """Where it answers."""
        ...

    def read(self, port: int, size: int) -> int:
        """IN of 1, 2 or 4 bytes; more than `size` bytes of the answer are cut off."""
        ...

    def write(self, port: int, size: int, value: int) -> None:
        """OUT of 1, 2 or 4 bytes; `value` fits them."""
        ...


class TimedDevice(Device, Protocol):
    """A device that raises its line by itself as time goes by."""

    def due_ns(self) -> int:
        """When `tick` is to be called next, on the clock of `time.monotonic_ns`; `NEVER_NS` if not."""
        ...

    def tick(self, now_ns: int) -> None:
        """Time has passed."""
        ...


RaiseLine = Callable[[], None]
"""What a device calls when it has something for the guest: the next `hlt`, or this one, returns."""


class PortBus:
    """Gives each access to its device; ports with nothing behind them read as ones and swallow writes.

    Args:
        devices: Disjoint in their ports.

    Raises:
        ValueError: two devices claim a port.
    """

    def __init__(self, devices: Iterable[Device]) -> None:
        self._devices: dict[int, Device] = {}
        self._unknown: set[int] = set()
        self.accesses = 0
        """How often the guest has used a port: that it still does something."""
        for device in devices:
            for port in device.ports:
                if port in self._devices or not 0 <= port < _PORTS:
                    raise ValueError(f"port {port:#x} is claimed twice or does not exist")
                self._devices[port] = device

    def read(self, port: int, size: int) -> int:
        """IN of 1, 2 or 4 bytes."""
        self.accesses += 1
        device = self._devices.get(port)
        if device is None:
            self._note(port, "read")
            return _MASKS[size]
        return device.read(port, size) & _MASKS[size]

    def write(self, port: int, size: int, value: int) -> None:
        """OUT of 1, 2 or 4 bytes."""
        self.accesses += 1
        device = self._devices.get(port)
        if device is None:
            self._note(port, "written")
            return
        device.write(port, size, value & _MASKS[size])

    def _note(self, port: int, what: str) -> None:
        if port not in self._unknown and len(self._unknown) < _LISTED:
            self._unknown.add(port)
            log.debug("machine: port %#x was %s; nothing is there", port, what)
