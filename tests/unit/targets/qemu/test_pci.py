"""Display devices in answers to `query-pci`, valid and invalid."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramtap.targets.qemu.pci import DisplayDevice, display_devices


def vga(**changed: object) -> dict[str, Any]:
    regions = [
        {"bar": 0, "address": 0xFD000000, "size": 1 << 24, "type": "memory"},
        {"bar": 2, "address": -1, "size": 4096, "type": "memory"},
    ]
    ident = {"vendor": 0x1234, "device": 0x1111}
    return {"class_info": {"class": 0x300}, "id": ident, "regions": regions} | changed


VGA = DisplayDevice(0x1234, 0x1111, {0: 0xFD000000, 2: -1}, {0: 1 << 24, 2: 4096})


def test_a_vga_is_found_among_other_devices() -> None:
    disk = vga(class_info={"class": 0x101})
    assert display_devices([{"bus": 0, "devices": [disk, vga(), disk]}]) == [VGA]


def test_a_display_controller_that_is_not_vga_is_found() -> None:
    assert display_devices([{"devices": [vga(class_info={"class": 0x380})]}]) == [VGA]


def test_devices_behind_bridges_are_found() -> None:
    bridge = {"class_info": {"class": 0x604}, "pci_bridge": {"bus": {}, "devices": [vga()]}}
    twice = {"pci_bridge": {"devices": [bridge]}}
    assert display_devices([{"devices": [twice]}]) == [VGA]


@pytest.mark.parametrize("number", [None, "4096", 1.5, True, 1 << 64, -2])
def test_an_address_that_is_not_a_64_bit_number_is_minus_one(number: object) -> None:
    (device,) = display_devices([{"devices": [vga(regions=[{"bar": 0, "address": number, "size": 1}])]}])
    assert device.addresses == {0: -1}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["devices", "pci_bridge", "class_info", "class", "id", "regions"]), inner
        )
    ),
)


@given(JSON)
def test_any_json_gives_bounded_devices(answer: object) -> None:
    for device in display_devices(answer):
        assert -1 <= device.vendor < 1 << 64
