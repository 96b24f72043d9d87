"""One monitor of a real QEMU, shared by two taps and a program that uses it as libxl does."""

from __future__ import annotations

import asyncio
import os
import sys

import numpy as np

from support import fake_libxl
from support.painter import SIZE, Painter, painter
from support.testbed.supervise import spawn, stop
from vramtap.display.mode import Mode, PixelFormat
from vramtap.targets.qemu.vga import QemuVga
from vramtap.targets.xen.libxl_qmp import LibxlMonitor

HANG_S = 120
LIBXL_ROUNDS = 20
VRAM_BYTES = 16 << 20


def shared(guest: Painter) -> tuple[LibxlMonitor, QemuVga]:
    monitor = LibxlMonitor(f"{guest.directory}/qmp0", f"{guest.directory}/lock", "xen:7")
    return monitor, QemuVga(monitor, "xen:7")


async def placed(vga: QemuVga) -> Mode:
    """Return the mode once the guest has set one."""
    while True:
        mode = await vga.mode(VRAM_BYTES)
        if mode is not None:
            return mode


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def files(guest: Painter) -> list[str]:
    return os.listdir(guest.directory)


async def test_two_taps_and_libxl_share_a_real_device_model() -> None:
    with painter() as guest:
        (one, ones), (two, twos) = shared(guest), shared(guest)
        lock = f"{guest.directory}/lock"
        libxl = spawn(
            [sys.executable, fake_libxl.__file__, f"{guest.directory}/qmp0", lock, str(LIBXL_ROUNDS)]
        )
        try:
            async with asyncio.timeout(HANG_S):
                first, second = await asyncio.gather(placed(ones), placed(twos))
                assert first == second
                assert (first.height, first.width) == SIZE
                assert first.format is PixelFormat.XR24
                assert await ones.read_bars() == VRAM_BYTES
                assert ones.vram_bar == twos.vram_bar > 0
                assert ones.mmio_bar == twos.mmio_bar > 0
                reads = 0
                while libxl.poll() is None or min(one.sessions, two.sessions) < 5:
                    for mode in await asyncio.gather(ones.mode(VRAM_BYTES), twos.mode(VRAM_BYTES)):
                        assert mode == first
                    reads += 1
                assert libxl.returncode == 0
                assert reads > 0
                before = descriptors(guest.pid)
                await asyncio.to_thread(guest.monitor.execute, "stop")
                pictures = await asyncio.gather(ones.snapshot(), twos.snapshot())
                truth = guest.picture()
                assert truth.any()
                for picture in pictures:
                    assert np.array_equal(picture, truth)
                await asyncio.to_thread(guest.monitor.execute, "cont")
                assert await ones.mode(VRAM_BYTES) == first
        finally:
            stop(libxl)
            await one.close()
            await two.close()
        assert "lock" not in files(guest)
        # The tests' own monitor stays connected, so QEMU would keep a descriptor that was not taken back.
        assert guest.monitor.execute("query-fdsets") == []
        assert descriptors(guest.pid) <= before
