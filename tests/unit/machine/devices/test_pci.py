"""PciDevice: a guest finds and sizes the display."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vramtap.machine.devices.pci import PciDevice
from vramtap.machine.layout import PORT_PCI_ADDRESS, PORT_PCI_DATA, VRAM_BASE, VRAM_BYTES
from vramtap.machine.ports import PortBus


def config(bus: PortBus, device: int, register: int, size: int = 4) -> int:
    bus.write(PORT_PCI_ADDRESS, 4, 1 << 31 | device << 11 | register & 0xFC)
    return bus.read(PORT_PCI_DATA + (register & 3), size)


def test_bus_has_a_bridge_and_a_display_only() -> None:
    bus = PortBus([PciDevice()])
    found = {device: config(bus, device, 0) for device in range(32)}
    assert {device: ids for device, ids in found.items() if ids != 0xFFFF_FFFF} == {
        0: 0x1237_8086,
        2: 0x1111_1234,
    }
    assert config(bus, 0, 8) >> 16 == 0x0600
    assert config(bus, 2, 8) >> 16 == 0x0300
    assert config(bus, 2, 0x0A, 2) == 0x0300
    assert config(bus, 2, 0x0B, 1) == 0x03
    assert config(bus, 2, 0x02, 2) == 0x1111


def test_bar_0_is_the_video_ram_and_can_be_sized() -> None:
    bus = PortBus([PciDevice()])
    assert config(bus, 2, 0x10) == VRAM_BASE | 8
    bus.write(PORT_PCI_DATA, 4, 0xFFFF_FFFF)
    sized = bus.read(PORT_PCI_DATA, 4)
    assert sized & 0xF == 8
    assert (~sized & 0xFFFF_FFF0 | 0xF) + 1 == VRAM_BYTES
    bus.write(PORT_PCI_DATA, 4, 0xD000_0000)
    assert config(bus, 2, 0x10) == VRAM_BASE | 8
    assert config(bus, 2, 0x14) == 0


def test_address_port_masks_reserved_bits() -> None:
    bus = PortBus([PciDevice()])
    bus.write(PORT_PCI_ADDRESS, 4, 0xFFFF_FFFF)
    assert bus.read(PORT_PCI_ADDRESS, 4) == 0x80FF_FFFC
    bus.write(PORT_PCI_ADDRESS, 1, 0)
    assert bus.read(PORT_PCI_ADDRESS, 4) == 0x80FF_FFFC
    assert bus.read(PORT_PCI_DATA, 4) == 0xFFFF_FFFF
    bus.write(PORT_PCI_ADDRESS, 4, 0)
    assert bus.read(PORT_PCI_DATA, 4) == 0xFFFF_FFFF


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*range(0xCF8, 0xD00)]),
            st.sampled_from([1, 2, 4]),
            st.integers(0, 0xFFFF_FFFF) | st.just(1 << 31 | 2 << 11 | 0x10),
        ),
        max_size=30,
    )
)
def test_random_writes_do_not_move_the_display(writes: list[tuple[int, int, int]]) -> None:
    bus = PortBus([PciDevice()])
    for port, size, value in writes:
        bus.write(port, size, value)
        assert 0 <= bus.read(port, size) < 1 << 8 * size
    config(bus, 2, 0x10)
    bus.write(PORT_PCI_DATA, 4, 0)
    assert config(bus, 2, 0x10) == VRAM_BASE | 8
