"""The end of a domain, its reason, and the domain that follows it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from typing import TYPE_CHECKING

import pytest

from support.fake_xen.domain import UUID, FakeDomain
from support.fake_xen.host import FakeXen, fake_xen
from vramtap.errors import KernelError
from vramtap.targets.xen.lifecycle import DEFAULT_WAITS, DomainLifecycle
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
def watched_domain(domid: int = 3) -> Iterator[DomainLifecycle]:
    with Xenstore() as store:
        domain = domains.domain(store, domid)
        assert domain is not None
        with DomainLifecycle(store, domain) as life:
            yield life


async def within(waiting: asyncio.Task[None]) -> None:
    async with asyncio.timeout(HANG_S):
        await waiting


async def events_handled() -> None:
    """Let the loop handle everything that is readable."""
    for _ in range(5):
        await asyncio.sleep(0)


REBOOT_S, RESTORE_S, UNKNOWN_S = DEFAULT_WAITS.reboot_s, DEFAULT_WAITS.restore_s, DEFAULT_WAITS.unknown_s
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


@pytest.mark.parametrize(("why", "end", "wait_s"), ENDS)
async def test_the_reason_of_the_shutdown_decides_the_wait(
    xen: FakeXen, tmp_path: Path, why: int | None, end: str, wait_s: float
) -> None:
    with FakeDomain(xen, tmp_path) as domain, watched_domain() as life:
        ended = asyncio.create_task(life.ended())
        await events_handled()
        if why is not None:
            domain.shut_down(why)
            await events_handled()
            assert not ended.done(), "it has shut down, but still exists"
        domain.destroy()
        await within(ended)
    assert life.end == f"domain debian (id 3) {end}"
    assert life.successor_wait_s == wait_s


async def test_a_saved_domain_that_runs_on_has_no_reason_any_more(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path) as domain, watched_domain() as life:
        ended = asyncio.create_task(life.ended())
        await events_handled()
        domain.shut_down(ShutdownReason.SUSPEND)
        await events_handled()
        domain.shut_down(-1)
        await events_handled()
        assert not ended.done()
        domain.destroy()
        await within(ended)
    assert life.end.endswith("was destroyed")


async def test_a_dying_domain_that_is_still_mapped_has_ended(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path) as domain, watched_domain() as life, ForeignMemory() as memory:
        mapping = memory.map(3, domain.frame, 4)
        domain.shut_down(ShutdownReason.REBOOT)
        ended = asyncio.create_task(life.ended())
        await events_handled()
        domain.destroy()
        await within(ended)
        assert life.end.endswith("rebooted")
        mapping.close()


async def test_without_libxenctrl_the_reason_is_unknown(xen: FakeXen, tmp_path: Path) -> None:
    xen.absent.add("libxenctrl")
    with FakeDomain(xen, tmp_path) as domain, watched_domain() as life:
        ended = asyncio.create_task(life.ended())
        await events_handled()
        domain.shut_down(ShutdownReason.POWEROFF)
        await events_handled()
        assert not ended.done()
        domain.destroy()
        await within(ended)
    assert (life.end, life.successor_wait_s) == ("domain debian (id 3) has ended", UNKNOWN_S)


async def test_the_successor_has_the_same_uuid_and_a_running_device_model(
    xen: FakeXen, tmp_path: Path
) -> None:
    other = UUID.replace("6f", "7f")
    with FakeDomain(xen, tmp_path) as domain, watched_domain() as life:
        domain.destroy()
        await life.ended()
        next_one = asyncio.create_task(life.successor())
        await events_handled()
        with FakeDomain(xen, tmp_path, 4, uuid=other), FakeDomain(xen, tmp_path, 5) as successor:
            xen.remove("/local/domain/0/device-model/5")
            await events_handled()
            if not next_one.done():
                successor.serve()
            await within(next_one)
            assert (life.domain.domid, life.domain.uuid) == (5, UUID)


async def test_a_successor_without_uuid_has_the_same_name(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path, uuid="") as domain, watched_domain() as life:
        domain.destroy()
        await life.ended()
        with (
            FakeDomain(xen, tmp_path, 4, uuid="", name="other"),
            FakeDomain(xen, tmp_path, 6, uuid="", name="debian"),
        ):
            await within(asyncio.create_task(life.successor()))
            assert life.domain.domid == 6


async def test_a_dying_domain_is_not_its_own_successor(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path), watched_domain() as life:
        # The hypervisor has destroyed the domain, and the toolstack has not yet cleared xenstore.
        xen.destroy(3)
        await life.ended()
        waiting = asyncio.create_task(life.successor())
        xen.fire("@introduceDomain")
        await events_handled()
        assert not waiting.done()
        waiting.cancel()
        xen.create(3)


async def test_a_lost_xenstore_raises(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path), watched_domain() as life:
        ended = asyncio.create_task(life.ended())
        await events_handled()
        xen.fail("xs_check_watch", errno.EIO)
        xen.fire("@releaseDomain")
        with pytest.raises(KernelError, match="xs_check_watch"):
            await within(ended)


async def test_a_refused_watch_raises_and_closes_the_hypervisor_handle(xen: FakeXen, tmp_path: Path) -> None:
    with FakeDomain(xen, tmp_path):
        xen.fail("xs_watch", errno.E2BIG)
        with pytest.raises(KernelError, match="xs_watch @releaseDomain"), watched_domain():
            pass
        assert xen.handles["control"] == 0
