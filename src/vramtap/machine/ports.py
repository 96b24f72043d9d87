"""PortBus: passes each port access to its device. Any device can raise the line that ends a `hlt`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

log: logging.Logger = logging.getLogger(__name__)

NEVER_NS: Final = (1 << 63) - 1
"""Time of an event that is not due."""
_PORTS: Final = 1 << 16
_MASKS: Final[Mapping[int, int]] = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF}
_MAX_LOGGED: Final = 64
"""Number of unused ports that are logged, once each."""


class Device(Protocol):
    """A device behind ports. Calls come on the CPU's thread, with the devices locked."""

    @property
    def ports(self) -> Iterable[int]:
        """Ports of the device."""
        ...

    def read(self, port: int, size: int) -> int:
        """Execute an IN of 1, 2 or 4 bytes. The bus cuts the result to `size` bytes."""
        ...

    def write(self, port: int, size: int, value: int) -> None:
        """Execute an OUT of 1, 2 or 4 bytes; `value` fits into `size` bytes."""
        ...


RaiseLine = Callable[[], None]
"""What a device calls when it has data for the guest: the current `hlt`, or else the next one, returns."""


class PortBus:
    """Passes each access to its device. Unused ports read as ones and ignore writes.

    Args:
        devices: Devices whose ports do not overlap.

    Raises:
        ValueError: two devices have the same port.
    """

    def __init__(self, devices: Iterable[Device]) -> None:
        self._devices: dict[int, Device] = {}
        self._logged: set[int] = set()
        self.accesses: int = 0
        """Number of port accesses so far: a sign that the guest is active."""
        for device in devices:
            for port in device.ports:
                if port in self._devices or not 0 <= port < _PORTS:
                    raise ValueError(f"port {port:#x} belongs to two devices or does not exist")
                self._devices[port] = device

    def read(self, port: int, size: int) -> int:
        """Execute an IN of 1, 2 or 4 bytes."""
        self.accesses += 1
        device = self._devices.get(port)
        if device is None:
            self._log_unused(port, "read from")
            return _MASKS[size]
        return device.read(port, size) & _MASKS[size]

    def write(self, port: int, size: int, value: int) -> None:
        """Execute an OUT of 1, 2 or 4 bytes."""
        self.accesses += 1
        device = self._devices.get(port)
        if device is None:
            self._log_unused(port, "wrote to")
            return
        device.write(port, size, value & _MASKS[size])

    def _log_unused(self, port: int, what: str) -> None:
        if port not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged.add(port)
            log.debug("machine: the guest %s port %#x, which has no device", what, port)
