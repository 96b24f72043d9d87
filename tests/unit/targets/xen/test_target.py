"""A Xen domain as a target: attached, followed through reboots, and left as it was."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support.fake_xen.domain import LINEAR, UUID, FakeDomain
from support.fake_xen.host import VRAM_FRAME, FakeXen, fake_xen
from vramtap.display.mode import Mode, PixelFormat
from vramtap.errors import VramtapError
from vramtap.keyboard.events import KeyEvent
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.targets.xen.lifecycle import SuccessorWaits
from vramtap.targets.xen.mode_cache import ModeCache, ModeTimings
from vramtap.targets.xen.target import XenTarget, XenTimings
from vramtap.xen import domains
from vramtap.xen.control import ShutdownReason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

HANG_S = 30
PAGES = 16
MODE = Mode(64, 32, 256, PixelFormat.XR24, 0)


@pytest.fixture
def xen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeXen]:
    monkeypatch.setattr(domains, "qmp_socket", lambda domid: str(tmp_path / f"qmp-libxl-{domid}"))
    monkeypatch.setattr(domains, "qmp_lock", lambda domid, uuid: str(tmp_path / f"lock-{domid}-{uuid}"))
    with fake_xen() as xen:
        yield xen


@contextlib.asynccontextmanager
async def attached(
    wanted: str = "debian",
    *,
    modes: ModeTimings = ModeTimings(),  # noqa: B008 - frozen
    waits: SuccessorWaits = SuccessorWaits(),  # noqa: B008 - frozen
) -> AsyncIterator[XenTarget]:
    timings = XenTimings(modes=modes, waits=waits)
    async with asyncio.timeout(HANG_S), XenTarget(f"xen:{wanted}", wanted, timings=timings) as target:
        yield target


async def settled() -> None:
    """Let a read of the mode settle, whose `settle_s` is 0."""
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.fixture
def run_time(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Run time of the device model: the last element is what the probe reads."""
    runs = [0]
    monkeypatch.setattr("vramtap.linux.schedstat.SchedstatProbe.read", lambda probe: b"%d" % runs[-1])
    return runs


def first_byte(target: XenTarget, page: int) -> int:
    into = np.zeros(PAGE_SIZE, dtype=np.uint8)
    target.extent.read(PageRuns([(page, page + 1)]), into, page)
    return int(into[0])


async def refused(wanted: str) -> str:
    with pytest.raises(VramtapError) as caught:
        async with attached(wanted):
            pass
    message = str(caught.value)
    assert "\n" not in message
    return f"{type(caught.value).__name__} {message}"


@pytest.mark.parametrize("wanted", ["debian", "3"])
async def test_a_domain_is_attached_and_left(xen: FakeXen, tmp_path: Path, wanted: str) -> None:
    with FakeDomain(xen, tmp_path) as domain:
        async with attached(wanted) as target:
            assert target.extent.pages == PAGES
            assert target.extent.space.name == "domain debian (id 3)"
            assert target.announces_mode
            assert not target.tolerates_injection
            assert await target.mode() == MODE
            assert xen.mapped(3) == PAGES
            xen.write(3, 7, 0x77)
            assert first_byte(target, 7) == 0x77
            assert target.input is not None
            await target.input.key(KeyEvent(keysym=0x61, down=True, scancode=0x1E))
            assert "input-send-event" in domain.commands
        assert xen.mapped(3) == 0
        assert set(xen.handles.values()) == {0}


async def test_the_mode_is_read_again_after_the_device_model_has_run(
    xen: FakeXen, tmp_path: Path, run_time: list[int]
) -> None:
    with FakeDomain(xen, tmp_path) as domain:
        async with attached(modes=ModeTimings(settle_s=0.0)) as target:
            assert await target.mode() == MODE
            await settled()
            commands = len(domain.commands)
            domain.words[1] = 48
            for _ in range(3):
                assert await target.mode() == MODE
            assert len(domain.commands) == commands, "it has not run, and no command makes it run"
            run_time.append(1)
            assert await target.mode() == Mode(48, 32, 256, PixelFormat.XR24, 0)


async def test_no_timer_restores_a_mode_that_vanished(
    xen: FakeXen, tmp_path: Path, run_time: list[int]
) -> None:
    with FakeDomain(xen, tmp_path) as domain:
        async with attached(modes=ModeTimings(settle_s=0.0)) as target:
            assert await target.mode() == MODE
            await settled()
            domain.words[4] = 0
            run_time.append(1)
            assert target._model is not None
            cache = target._model.modes
            assert cache is not None
            assert cache._timer is not None
            assert await target.mode() is None
            assert cache._timer is None


async def test_the_mode_holds_while_the_device_model_deals_with_a_read(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path) as domain:
        async with attached(modes=ModeTimings(settle_s=1000.0)) as target:
            assert await target.mode() == MODE
            commands = len(domain.commands)
            domain.words[1] = 48
            assert await target.mode() == MODE
            assert len(domain.commands) == commands


async def test_the_mode_is_read_at_every_call_while_it_flips(
    xen: FakeXen, tmp_path: Path, run_time: list[int]
) -> None:
    with FakeDomain(xen, tmp_path) as domain:
        async with attached(modes=ModeTimings(settle_s=0.0, flipping_s=1000.0)) as target:
            assert await target.mode() == MODE
            await settled()
            run_time.append(1)
            for width in (48, 32, 48):
                domain.words[1] = width
                # No turn of the loop in between, so the read before has not settled.
                assert await target.mode() == Mode(width, 32, 256, PixelFormat.XR24, 0)


async def test_an_old_mode_is_read_again_although_the_device_model_has_not_run(
    xen: FakeXen, tmp_path: Path, run_time: list[int]
) -> None:
    stale = asyncio.Event()
    with FakeDomain(xen, tmp_path) as domain:
        async with attached(modes=ModeTimings(settle_s=0.0, stale_after_s=0.0)) as target:
            target.watch(stale.set)
            assert await target.mode() == MODE
            domain.words[1] = 48
            await stale.wait()
            assert await target.mode() == Mode(48, 32, 256, PixelFormat.XR24, 0)


async def test_without_a_placed_framebuffer_the_mode_is_none_and_pages_read_zero(
    xen: FakeXen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModeCache, "_holds", lambda cache, now_s: False)
    with FakeDomain(xen, tmp_path) as domain:
        domain.place(0)
        async with attached(modes=ModeTimings(bars_s=0.0)) as target:
            for _ in range(2):
                assert await target.mode() is None
                assert first_byte(target, 0) == 0
            domain.place(VRAM_FRAME)
            assert await target.mode() == MODE
            xen.write(3, 1, 5)
            assert first_byte(target, 1) == 5
            domain.place(0xE_0000)
            assert await target.mode() == MODE
            xen.write(3, 1, 6)
            assert first_byte(target, 1) == 6
            xen.lose(3, 4)
            domain.place(0xD_0000)
            assert await target.mode() is None
            assert xen.mapped(3) == 0


@pytest.mark.parametrize(
    "words",
    [
        [0xFFFF] * 11,
        [0] * 11,
        [0xB0C5, 0xFFFF, 0xFFFF, 32, 0x41, 0, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 1],
        [*LINEAR[:3], 15, *LINEAR[4:]],
        [0xB0C5],
    ],
)
async def test_invalid_registers_give_no_mode(xen: FakeXen, tmp_path: Path, words: list[int]) -> None:
    with FakeDomain(xen, tmp_path) as domain:
        domain.words = words
        async with attached() as target:
            assert await target.mode() is None


@pytest.mark.parametrize("bar", [-1, -4096, 0, 1, 0xF0000001, 0xF0000800, (1 << 64) - 4096, 1 << 64, 1 << 80])
async def test_an_invalid_bar_is_not_mapped(xen: FakeXen, tmp_path: Path, bar: int) -> None:
    with FakeDomain(xen, tmp_path) as domain:
        async with attached() as target:
            domain.bar = bar
            assert await target.mode() is None
            assert xen.mapped(3) == 0
            domain.bar = None
            assert await target.mode() == MODE


async def test_domains_that_cannot_be_tapped_are_refused_with_a_reason(xen: FakeXen, tmp_path: Path) -> None:
    assert await refused("nobody") == (
        "NotFound attach xen:nobody: no domain nobody (see vramtap ls, or xl list)"
    )
    assert await refused("3") == "NotFound attach xen:3: no domain 3 (see vramtap ls, or xl list)"
    xen.store("/local/domain/5/name", "pv")
    assert (await refused("pv")).startswith("NotTappable attach xen:pv: domain pv (id 5) has no device model")
    with FakeDomain(xen, tmp_path) as domain:
        domain.vendor = 0x1013
        message = await refused("debian")
        assert message.startswith("NotTappable attach xen:debian: no linear framebuffer: Cirrus")
        assert message.endswith('(configure the domain with vga="stdvga")')
        domain.vendor = 0x1234
        async with attached() as target:
            assert await target.mode() == MODE
    xen.absent.add("libxenforeignmemory")
    with FakeDomain(xen, tmp_path, 4):
        assert "apt install libxenforeignmemory1" in await refused("4")
    assert set(xen.handles.values()) == {0}


async def test_a_failed_attach_leaks_no_descriptor(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path):
        async with attached():
            pass  # the loop has all it needs
        before = sorted(os.listdir("/proc/self/fd"))
        xen.fail("xenforeignmemory_open", 13)
        assert "Refused" in await refused("debian")
        assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("size", [0, 1 << 31])
async def test_video_ram_of_an_invalid_size_is_refused(xen: FakeXen, tmp_path: Path, size: int) -> None:
    with FakeDomain(xen, tmp_path) as domain:
        domain.pages = size // PAGE_SIZE
        assert await refused("debian") == f"NotTappable attach xen:debian: video RAM of {size} bytes"


async def test_without_a_probe_the_mode_is_read_at_every_call(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path, pid=1 << 22) as domain:
        async with attached(modes=ModeTimings(settle_s=0.0)) as target:
            assert await target.mode() == MODE
            await settled()
            commands = len(domain.commands)
            assert await target.mode() == MODE
            assert len(domain.commands) > commands


# The end of a domain and its successor


async def test_gone_returns_when_the_domain_is_destroyed(xen: FakeXen, tmp_path: Path) -> None:
    events = []
    with FakeDomain(xen, tmp_path) as domain:
        async with attached() as target:
            target.watch(lambda: events.append("event"))
            assert await target.mode() == MODE
            domain.destroy()
            assert await target.gone() == "domain debian (id 3) was destroyed"
            assert await target.gone() == "domain debian (id 3) was destroyed"
            assert events
            assert xen.mapped(3) == 0, "nothing keeps the domain alive"
            assert await target.mode() is None
            assert np.array_equal(await target.snapshot(), np.zeros((32, 64), dtype=np.uint32))
            assert target.input is not None
            await target.input.key(KeyEvent(keysym=0x61, down=True, scancode=0x1E))
            await target.input.release_all()


@pytest.mark.parametrize("why", [ShutdownReason.REBOOT, ShutdownReason.SUSPEND, ShutdownReason.CRASH])
async def test_the_target_follows_its_domain_through_reboots(
    xen: FakeXen, tmp_path: Path, why: ShutdownReason
) -> None:
    with contextlib.ExitStack() as stack:
        domain = stack.enter_context(FakeDomain(xen, tmp_path))
        async with attached("3") as target:
            assert await target.mode() == MODE
            space = target.extent.space
            for domid in (4, 9):
                event = asyncio.Event()
                domain.shut_down(why)
                domain.destroy()
                domain = stack.enter_context(FakeDomain(xen, tmp_path, domid))
                target.watch(event.set)
                while await target.mode() != MODE or not xen.mapped(domid):
                    await event.wait()
                    event.clear()
                assert target.extent.space is space
                xen.write(domid, 2, domid)
                assert first_byte(target, 2) == domid
                assert target.input is not None
                await target.input.key(KeyEvent(keysym=0x61, down=True, scancode=0x1E))
                assert "input-send-event" in domain.commands
                assert xen.mapped(domid) == PAGES
            domain.destroy()
            assert await target.gone() == "domain debian (id 9) was destroyed"


@pytest.mark.parametrize(
    ("why", "end"), [(ShutdownReason.REBOOT, "rebooted"), (ShutdownReason.SUSPEND, "was saved")]
)
async def test_the_wait_for_a_successor_ends(
    xen: FakeXen, tmp_path: Path, why: ShutdownReason, end: str
) -> None:
    with FakeDomain(xen, tmp_path) as domain:
        async with attached(waits=SuccessorWaits(reboot_s=0.05, restore_s=0.05)) as target:
            domain.shut_down(why)
            domain.destroy()
            assert await target.gone() == f"domain debian (id 3) {end}"
            assert xen.mapped(3) == 0


async def test_a_successor_with_other_video_ram_ends_the_target(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path) as domain, contextlib.ExitStack() as stack:
        async with attached() as target:
            domain.shut_down(ShutdownReason.REBOOT)
            domain.destroy()
            stack.enter_context(FakeDomain(xen, tmp_path, 4, pages=32))
            end = await target.gone()
    assert end.startswith("domain debian (id 3) rebooted; attach xen:debian: domain debian (id 4) has 131072")


async def test_another_domain_of_the_same_name_is_not_followed(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path) as domain, contextlib.ExitStack() as stack:
        async with attached(waits=SuccessorWaits(reboot_s=0.2)) as target:
            domain.shut_down(ShutdownReason.REBOOT)
            domain.destroy()
            stack.enter_context(FakeDomain(xen, tmp_path, 4, uuid=UUID.replace("6f", "7f")))
            assert await target.gone() == "domain debian (id 3) rebooted"


async def test_detach_while_waiting_for_a_successor_closes_every_handle(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path) as domain:
        async with attached() as target:
            event = asyncio.Event()
            target.watch(event.set)
            domain.shut_down(ShutdownReason.REBOOT)
            domain.destroy()
            await event.wait()
    assert set(xen.handles.values()) == {0}


async def test_gone_returns_for_a_target_that_was_never_attached() -> None:
    assert await XenTarget("xen:3", "3").gone() == "xen:3 was never attached"
