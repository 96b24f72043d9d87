"""Display devices in the answer of QEMU's `query-pci`, of which no part is believed to be there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_DISPLAY_CLASS: Final = 3
"""Base class of display controllers (PCI Code and ID Assignment Specification, 1.4)."""


@dataclass(frozen=True, slots=True)
class Device:
    """A PCI device that shows something.

    Args:
        vendor: PCI vendor id.
        device: PCI device id.
        addresses: Guest-physical address of each BAR by its number; -1 while the guest has not placed it.
        sizes: Bytes of each BAR, by its number.
    """

    vendor: int
    device: int
    addresses: Mapping[int, int]
    sizes: Mapping[int, int]


def display_devices(answer: object) -> list[Device]:
    """All display controllers, those behind bridges too (QEMU: qapi/pci.json, PciInfo).

    Args:
        answer: Decoded JSON of any shape; what is not where it should be is passed over.
    """
    found = []
    buses = _items(answer)
    while buses:
        for member in _items(_member(buses.pop(), "devices")):
            behind = _member(member, "pci_bridge")
            if behind is not None:
                buses.append(behind)
            if _number(_member(member, "class_info"), "class") >> 8 == _DISPLAY_CLASS:
                found.append(_device(member))
    return found


def _device(member: object) -> Device:
    ident = _member(member, "id")
    addresses, sizes = {}, {}
    for region in _items(_member(member, "regions")):
        bar = _number(region, "bar")
        addresses[bar], sizes[bar] = _number(region, "address"), _number(region, "size")
    return Device(_number(ident, "vendor"), _number(ident, "device"), addresses, sizes)


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _number(value: object, name: str) -> int:
    """A member that is a number of up to 64 bits, else -1."""
    number = _member(value, name)
    return number if type(number) is int and -1 <= number < 1 << 64 else -1
