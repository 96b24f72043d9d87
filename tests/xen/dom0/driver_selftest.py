"""Self-test of the boot-sector guest: runs each command once and compares the video memory with the model.

In dom0, `python3 -m xen.dom0.driver_selftest [HAP]`; HAP is 1 (the default) or 0.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Final

from xen.dom0 import driver_domain
from xen.dom0.driver import BootSectorGuest, DriverError, Paging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROW: Final = 4096


def writes(guest: BootSectorGuest, *, mode: Paging, alias: bool) -> None:
    """Write and read in one paging mode.

    Raises:
        DriverError: The processor is not in that mode, or the video memory differs from the model.
    """
    guest.paging(mode, alias=alias)
    seen = guest.registers
    wanted = (mode is not Paging.OFF, mode >= Paging.PAE_LARGE, mode >= Paging.LONG_LARGE)
    if (seen.paging, seen.pae, seen.long_mode) != wanted:
        raise DriverError(f"{mode.name}: the processor is in another mode: {seen}")
    base = mode * 7 * _ROW
    guest.fill(base + 40 * _ROW, 3000, 0xFF000 + mode, alias=alias)
    guest.strided(base + 80 * _ROW, 30, 0xFF0000 + mode, 3 * _ROW + 4, alias=alias)
    guest.rect(base + 400, 33, 21, 0xABC000 + mode, alias=alias)
    guest.scatter(0x200000, 500, 0x40000, 77 + mode, alias=alias)
    guest.check()
    dwords = 100_000
    answered, right = guest.read(0, dwords, alias=alias), guest.model.sum(0, dwords)
    if answered != right:
        raise DriverError(f"{mode.name}: read {answered:#x}, not {right:#x}")


def queue(guest: BootSectorGuest) -> None:
    """Send more commands than the queue can hold, without waiting between them."""
    with guest.batch():
        for number in range(700):
            guest.rect(4 * number + _ROW * number, 20, 10, number)
    guest.check()


def video(guest: BootSectorGuest) -> None:
    """Test modes, a page flip, text, and the bank window."""
    guest.set_mode(800, 600, 32)
    _same("mode", (guest.width, guest.height, guest.bpp, guest.pitch), (800, 600, 32, 3200))
    guest.set_mode(640, 480, 16, virtual_width=1024, keep=True)
    _same("mode", (guest.width, guest.height, guest.bpp, guest.pitch), (640, 480, 16, 2048))
    guest.set_offset(8, 480)
    _same("scanout", guest.scanout, 480 * 2048 + 8 * 2)
    _same("frame", guest.frame().shape, (480, 640 * 2))
    guest.text_mode()
    _same("text", (guest.width, guest.height, guest.bpp), (80, 25, 0))
    before = guest.read_vram(0, 1 << 18)
    guest.text(80, 26, ord("A"), step=1)
    # Xen buffers writes to the VGA window, and the device model reads the buffer later.
    driver_domain.wait_for("text", lambda: True if guest.read_vram(0, 1 << 18) != before else None, 10)
    guest.set_mode(1024, 768, 32)
    guest.banked(0x2FFF0 * 4, 40_000, 0x55AA55)
    driver_domain.wait_for("banked writes", lambda: None if _differs(guest) else True, 10)


def write_protect(guest: BootSectorGuest) -> None:
    """Clear and set CR0.WP."""
    for on in (False, True):
        guest.write_protect(on)
        _same("CR0.WP", guest.registers.write_protect, on)
        guest.fill(0, 16, on)
        guest.check()


def clock(guest: BootSectorGuest) -> None:
    """Test another tick, and polling without sleeping."""
    guest.tick(1000)
    guest.fill(0, 1, 1)
    guest.tick(100)
    guest.spin(True)
    guest.fill(0, 1, 2)
    guest.spin(False)
    guest.check()


def steps() -> Iterator[tuple[str, Callable[[BootSectorGuest], None]]]:
    """Yield all steps with their names."""
    for mode in Paging:
        for alias in (False, True)[: 1 if mode is Paging.OFF else 2]:
            name = f"{mode.name}{' alias' if alias else ''}"
            yield name, functools.partial(writes, mode=mode, alias=alias)
    yield "paging off", lambda guest: guest.paging(Paging.OFF)
    yield "queue", queue
    yield "CR0.WP", write_protect
    yield "clock", clock
    yield "video", video


def _differs(guest: BootSectorGuest) -> str | None:
    return guest.model.difference(guest.read_vram())


def _same(what: str, seen: object, wanted: object) -> None:
    if seen != wanted:
        raise DriverError(f"{what}: {seen}, not {wanted}")


def main(hap: str = "1") -> int:
    """Run all steps on a new guest, and return the number of failed steps."""
    failed = 0
    with BootSectorGuest("selftest", hap=hap == "1") as guest:
        for name, step in steps():
            try:
                step(guest)
                print(f"ok   {name}", flush=True)
            except DriverError as error:
                failed += 1
                print(f"FAIL {name}: {error}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
