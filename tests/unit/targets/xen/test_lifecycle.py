"""How a domain's end is understood, and who comes after it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING

import pytest

from support.fake_xen.domain import UUID, FakeDomain
from support.fake_xen.host import FakeXen, fake_xen
from vramtap.errors import KernelError
from vramtap.targets.xen.lifecycle import REBOOT_S, RESTORE_S, UNKNOWN_S, DomainLifecycle
from vramtap.xen import domains
from vramtap.xen.control import ShutdownReason
from vramtap.xen.foreignmemory import ForeignMemory
from vramtap.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HANG_S = 30


@pytest.fixture
def xen() -> Iterator[FakeXen]:
    with fake_xen() as xen:
        yield xen


@contextlib.contextmanager
def living(domid: int = 3) -> Iterator[DomainLifecycle]:
    with Xenstore() as store:
        domain = domains.domain(store, domid)
        assert domain is not None
        with DomainLifecycle(store, domain) as life:
            yield life


async def within(waiting: asyncio.Task[None]) -> None:
    async with asyncio.timeout(HANG_S):
        await waiting


async def turned() -> None:
    """All that is readable has been read."""
    for _ in range(5):
        await asyncio.sleep(0)


ENDS = [
    (None, "was destroyed", 0.0),
    (ShutdownReason.POWEROFF, "powered off", 0.0),
    (ShutdownReason.REBOOT, "rebooted", REBOOT_S),
    (ShutdownReason.SUSPEND, "was saved", RESTORE_S),
    (ShutdownReason.CRASH, "crashed", REBOOT_S),
    (ShutdownReason.WATCHDOG, "was ended by its watchdog", REBOOT_S),
    (ShutdownReason.SOFT_RESET, "was reset", REBOOT_S),
    (77, "has ended", UNKNOWN_S),
]


@pytest.mark.parametrize(("why", "how", "patience_s"), ENDS)
async def test_each_end_is_known_by_its_reason(
    xen: FakeXen, tmp_path: Path, why: int | None, how: str, patience_s: float
) -> None:
    with FakeDomain(xen, tmp_path) as domain, living() as life:
        ended = asyncio.create_task(life.ended())
        await turned()
        if why is not None:
            domain.shut_down(why)
            await turned()
            assert not ended.done(), "it has shut down, but it is still there"
        domain.destroy()
        await within(ended)
    assert life.how == f"domain debian (id 3) {how}"
    assert life.patience_s == patience_s


async def test_one_that_was_saved_and_goes_on_is_destroyed_after_all(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path) as domain, living() as life:
        ended = asyncio.create_task(life.ended())
        await turned()
        domain.shut_down(ShutdownReason.SUSPEND)
        await turned()
        domain.shut_down(-1)
        await turned()
        assert not ended.done()
        domain.destroy()
        await within(ended)
    assert life.how.endswith("was destroyed")


async def test_one_that_cannot_go_because_it_is_mapped_has_ended(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path) as domain, living() as life, ForeignMemory() as memory:
        mapping = memory.map(3, domain.frame, 4)
        domain.shut_down(ShutdownReason.REBOOT)
        ended = asyncio.create_task(life.ended())
        await turned()
        domain.destroy()
        await within(ended)
        assert life.how.endswith("rebooted")
        mapping.close()


async def test_without_libxenctrl_the_reason_is_not_known(xen: FakeXen, tmp_path: Path) -> None:
    xen.absent.add("libxenctrl")
    with FakeDomain(xen, tmp_path) as domain, living() as life:
        ended = asyncio.create_task(life.ended())
        await turned()
        domain.shut_down(ShutdownReason.POWEROFF)
        await turned()
        assert not ended.done()
        domain.destroy()
        await within(ended)
    assert (life.how, life.patience_s) == ("domain debian (id 3) has ended", UNKNOWN_S)


async def test_the_successor_is_the_one_of_its_uuid_once_it_is_served(xen: FakeXen, tmp_path: Path) -> None:
    other = UUID.replace("6f", "7f")
    with FakeDomain(xen, tmp_path) as domain, living() as life:
        domain.destroy()
        await life.ended()
        next_one = asyncio.create_task(life.successor())
        await turned()
        with FakeDomain(xen, tmp_path, 4, uuid=other), FakeDomain(xen, tmp_path, 5) as successor:
            xen.remove("/local/domain/0/device-model/5")
            await turned()
            if not next_one.done():
                successor.serve()
            await within(next_one)
            assert (life.domain.domid, life.domain.uuid) == (5, UUID)


async def test_a_successor_without_uuid_is_known_by_its_name(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path, uuid="") as domain, living() as life:
        domain.destroy()
        await life.ended()
        with (
            FakeDomain(xen, tmp_path, 4, uuid="", name="other"),
            FakeDomain(xen, tmp_path, 6, uuid="", name="debian"),
        ):
            await within(asyncio.create_task(life.successor()))
            assert life.domain.domid == 6


async def test_the_one_that_is_on_its_way_out_is_not_its_own_successor(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path), living() as life:
        # The toolstack clears xenstore after the hypervisor has the domain no more.
        xen.destroy(3)
        await life.ended()
        waiting = asyncio.create_task(life.successor())
        xen.fire("@introduceDomain")
        await turned()
        assert not waiting.done()
        waiting.cancel()
        xen.create(3)


async def test_a_xenstore_that_is_lost_is_told(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path), living() as life:
        ended = asyncio.create_task(life.ended())
        await turned()
        xen.fail("xs_check_watch", errno.EIO)
        xen.fire("@releaseDomain")
        with pytest.raises(KernelError, match="xs_check_watch"):
            await within(ended)


async def test_what_cannot_be_watched(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path):
        xen.fail("xs_watch", errno.E2BIG)
        with pytest.raises(KernelError, match="xs_watch @releaseDomain"), living():
            pass
        assert xen.handles["control"] == 0
