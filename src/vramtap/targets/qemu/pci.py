"""Reads the display devices from the answer to QEMU's `query-pci`, which may have any content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_DISPLAY_CLASS: Final = 3
"""Base class of display controllers (PCI Code and ID Assignment Specification, 1.4)."""


@dataclass(frozen=True, slots=True)
class DisplayDevice:
    """A PCI display controller.

    Args:
        vendor: PCI vendor id.
        device: PCI device id.
        addresses: Guest-physical address of each BAR, by its number; -1 if the guest has not placed it.
        sizes: Size of each BAR in bytes, by its number.
    """

    vendor: int
    device: int
    addresses: Mapping[int, int]
    sizes: Mapping[int, int]


def display_devices(answer: object) -> list[DisplayDevice]:
    """Return all display controllers, including those behind bridges (QEMU: qapi/pci.json, PciInfo).

    Args:
        answer: Decoded JSON of any shape. Parts that do not have the documented shape are skipped.
    """
    found = []
    buses = _items(answer)
    while buses:
        for member in _items(_member(buses.pop(), "devices")):
            bridge = _member(member, "pci_bridge")
            if bridge is not None:
                buses.append(bridge)
            if _number(_member(member, "class_info"), "class") >> 8 == _DISPLAY_CLASS:
                found.append(_device(member))
    return found


def _device(member: object) -> DisplayDevice:
    ident = _member(member, "id")
    addresses, sizes = {}, {}
    for region in _items(_member(member, "regions")):
        bar = _number(region, "bar")
        addresses[bar], sizes[bar] = _number(region, "address"), _number(region, "size")
    return DisplayDevice(_number(ident, "vendor"), _number(ident, "device"), addresses, sizes)


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _number(value: object, name: str) -> int:
    """Return a member that is a number of at most 64 bits, else -1."""
    number = _member(value, name)
    return number if type(number) is int and -1 <= number < 1 << 64 else -1
