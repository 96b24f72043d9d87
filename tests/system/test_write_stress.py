"""Stress tests: several threads write while a tap scans, and in the end its screen equals the memory."""

from __future__ import annotations

import asyncio
import contextlib
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import vramtap
from support.forced import ArmAtOnce, Counted, ForcedPolicy, armed, require_arming, tapped, until
from support.model_client import ModelClient
from support.seeds import new_seed
from support.writers import writer_of
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns
from vramtap.policy.decide import OnlinePolicy, State
from vramtap.tap.timings import TapTimings
from vramtap.trackers.base import AllDirty
from vramtap.trackers.userfault.hybrid import HybridTracker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractContextManager

    from support.testbed.writer import Writer
    from vramtap.linux.watchdog import Watchdog
    from vramtap.memory.extent import Extent
    from vramtap.tap.tap import Tap

TRACKERS = ("log", "compare")
WRITES = 10_000_000
PAUSE_EVERY = 100
"""Writes between two pauses of a thread. So a run lasts seconds, and many scans fall into it."""
VISIT = 2000
"""Writes in one place. So the last write to most pages comes in the middle of a run. If a scan misses such a
write, no later write hides that."""
REST_US = 5000
"""Longest rest of a thread after the writes in one place, us. The writes take a tenth of a millisecond and
the rest several scans, so at times all threads rest together."""
BUSY = TapTimings(interval_s=0.001, idle_after_s=0.0)
"""The tap scans without a pause, and arms at once."""
ROUNDS = 60
"""Rounds in which a broken tracker must lose a write. It usually takes one or two; on a busy
machine it took more than 20."""
MIN_COLLECTS = 30
"""Smallest number of scans in a run. On a busy machine the run lasts longer."""

Pixels = NDArray[np.uint32]


def stressing(
    memory: str, size_bytes: int, writes: int, seed: int, threads: int = 4, *, visit: int = VISIT
) -> AbstractContextManager[Writer]:
    """Start a writer whose threads pause after some writes."""
    return writer_of(
        memory, size_bytes, threads=threads, writes=writes, seed=seed, visit=visit, pause_every=PAUSE_EVERY
    )


@dataclass(frozen=True)
class Geometry:
    """A mode as in a target URL, and a slow decoder of its pixels."""

    width: int
    height: int
    format: str
    stride: int
    offset: int

    @property
    def end(self) -> int:
        """Offset of the first byte after the last pixel."""
        return self.offset + (self.height - 1) * self.stride + self.width * BYTES[self.format]

    def url(self, writer: Writer) -> str:
        """Return the target URL of a writer's memory."""
        return (
            f"pid:{writer.pid}?address={writer.address:#x}&mode={self.width}x{self.height}"
            f"&format={self.format}&stride={self.stride}&offset={self.offset}"
        )

    def decode(self, memory: NDArray[np.uint8]) -> Pixels:
        """Return the picture in the memory, byte by byte, with channels widened by multiplication."""
        size = BYTES[self.format]
        at = (
            self.offset
            + np.arange(self.height)[:, None, None] * self.stride
            + np.arange(self.width)[None, :, None] * size
            + np.arange(size)
        )
        part = memory[at].astype(np.int64)
        match self.format:
            case "C8":
                red = green = blue = part[..., 0]
            case "RG16" | "XR15":
                word = part[..., 0] | part[..., 1] << 8
                bits = 6 if self.format == "RG16" else 5
                red, blue = _widened(word >> (5 + bits), 5), _widened(word, 5)
                green = _widened(word >> 5, bits)
            case "XB24":
                red, green, blue = part[..., 0], part[..., 1], part[..., 2]
            case _:
                red, green, blue = part[..., 2], part[..., 1], part[..., 0]
        pixels: Pixels = (red << 16 | green << 8 | blue).astype(np.uint32)
        return pixels


BYTES = {"XR24": 4, "AR24": 4, "XB24": 4, "RG16": 2, "XR15": 2, "RG24": 3, "C8": 1}


def _widened(word: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Return a channel of 5 or 6 bits widened to 8, with its high bits repeated."""
    channel = word & (1 << bits) - 1
    return channel * ((1 << bits) + 1) >> 2 * bits - 8


@asynccontextmanager
async def followed(
    writer: Writer, geometry: Geometry, tracker: str
) -> AsyncIterator[tuple[Tap, ModelClient]]:
    """Open a tap with a client. The tracker `forced` is the hybrid, forced through its states."""
    async with contextlib.AsyncExitStack() as stack:
        url = geometry.url(writer)
        if tracker == "forced":
            tap, _ = await stack.enter_async_context(tapped(url, ForcedPolicy(1), timings=BUSY))
        else:
            tap = await stack.enter_async_context(vramtap.open(url, tracker=tracker))
        yield tap, await stack.enter_async_context(ModelClient(tap))


SCREEN = Geometry(2048, 2048, "XR24", 8192, 0)


@pytest.mark.stress
@pytest.mark.parametrize("memory", ["anonymous", "memfd"])
@pytest.mark.parametrize("tracker", TRACKERS)
async def test_no_write_is_missed(tracker: str, memory: str, stress: int) -> None:
    seed = new_seed()
    with stressing(memory, SCREEN.end, WRITES // 4, seed) as writer:
        async with followed(writer, SCREEN, tracker) as (tap, client):
            for number in range(1, stress + 1):
                written = 0
                while written < WRITES or min(tap.stats.collects, client.updates) < number * MIN_COLLECTS:
                    written += await asyncio.to_thread(writer.run)
                await client.shows(SCREEN.decode(await asyncio.to_thread(writer.memory)))
            assert tap.stats.tracker == tracker
            assert tap.stats.failures == 0


SMALL = Geometry(1024, 512, "XR24", 4096, 0)
"""To read all of it takes a millisecond, so the tap arms and wakes up many times a second."""


def resting(memory: str, seed: int) -> AbstractContextManager[Writer]:
    """Start a writer whose threads rest between two places."""
    return writer_of(
        memory, SMALL.end, threads=2, writes=WRITES // 10, seed=seed, visit=VISIT, rest_us=REST_US
    )


TRANSITIONS = 100
"""Smallest number of transitions of each kind in a run."""


def policies(name: str, seed: int) -> Counted:
    """Return a policy for the hybrid that counts its decisions."""
    return Counted(ForcedPolicy(seed, arm=0.8) if name == "forced" else OnlinePolicy())


@pytest.mark.stress
@pytest.mark.parametrize("memory", ["anonymous", "memfd"])
async def test_no_write_is_missed_by_a_hybrid_forced_through_its_states(
    memory: str, stress: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At times all threads rest together, so the tap arms in the middle of a run."""
    require_arming()
    seed = new_seed()
    policy = policies("forced", seed)
    with resting(memory, seed) as writer:
        async with (
            tapped(SMALL.url(writer), policy, timings=BUSY) as (tap, _),
            ModelClient(tap) as client,
        ):
            reasons = tap.stats.all_dirty
            for number in range(1, stress + 1):
                written = 0
                while written < WRITES or min(reasons["armed"], reasons["woken"]) < number * TRANSITIONS:
                    written += await asyncio.to_thread(writer.run)
                    await client.shows(SMALL.decode(await asyncio.to_thread(writer.memory)))
            print(f"{dict(reasons)}, {policy.opened} tiles opened, {policy.closed} closed")
            assert min(policy.opened, policy.closed) >= stress * TRANSITIONS
            assert tap.stats.failures == 0


@pytest.mark.stress
@pytest.mark.parametrize("memory", ["anonymous", "memfd"])
async def test_no_write_is_missed_by_a_hybrid_with_its_own_policy(memory: str, stress: int) -> None:
    """Threads stay in one place for a while, as a video does. Between two runs no thread writes.

    A tile is as large as the place of a thread, so it is written at every scan and unprotected.
    """
    require_arming()
    seed = new_seed()
    policy = policies("online", seed)
    with stressing(memory, SCREEN.end, WRITES // 4, seed, visit=100 * VISIT) as writer:
        async with (
            tapped(SCREEN.url(writer), policy, timings=BUSY, tile_pages=4) as (tap, tracker),
            ModelClient(tap) as client,
        ):
            for number in range(1, stress + 1):
                written = 0
                while written < WRITES or tap.stats.all_dirty["woken"] < 3 * number:
                    await armed(tap, tracker)
                    written += await asyncio.to_thread(writer.run)
                    await client.shows(SCREEN.decode(await asyncio.to_thread(writer.memory)))
            await armed(tap, tracker)
            print(f"{dict(tap.stats.all_dirty)}, {policy.opened} tiles opened, {policy.closed} closed")
            assert min(policy.opened, policy.closed) > 0
            assert tap.stats.failures == 0


class NoComparisonAfterArming(HybridTracker):
    """Defect: does not compare after arming. It loses writes made while the log was suspended."""

    def _arm(self, extent: Extent) -> bool:
        armed = super()._arm(extent)
        if armed:
            self._log.take_pending()
        return armed


class NoComparisonAfterDisarming(HybridTracker):
    """Defect: does not compare after a wake-up. It loses even the write that woke it up."""

    def _disarm(self, extent: Extent, watchdog: Watchdog) -> PageRuns:
        super()._disarm(extent, watchdog)
        self._log.take_pending()
        return NO_PAGES


class NoReportOfUnprotectedTiles(HybridTracker):
    """Defect: does not report the unprotected tiles."""

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        unprotected = self.unprotected
        answer = super().collect(window)
        return answer if isinstance(answer, AllDirty) else answer.difference(unprotected)


class ProtectsTilesAfterReading(HybridTracker):
    """Defect: protects an unprotected tile after the tile was read, instead of before."""

    def _apply(self, state: State) -> None:
        super()._apply(state)
        closed = self._tiles.runs(self._reprotected)
        if closed and not self.armed:
            answer = self._log.collect()
            if isinstance(answer, PageRuns):
                self._log.restore(answer.difference(closed))


@pytest.mark.parametrize("kind", [NoReportOfUnprotectedTiles, ProtectsTilesAfterReading])
async def test_a_hybrid_with_a_defect_in_its_tiles_loses_writes(
    kind: type[HybridTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    with resting("anonymous", 5) as writer:
        async with (
            tapped(SMALL.url(writer), ForcedPolicy(5, arm=0.0), kind=kind, timings=BUSY) as (tap, _),
            ModelClient(tap),
        ):
            for _ in range(ROUNDS):
                await asyncio.to_thread(writer.run)
                truth = SMALL.decode(await asyncio.to_thread(writer.memory))
                await tap.refresh()
                if not np.array_equal(tap.screen.pixels, truth):
                    return
    pytest.fail(f"the broken tracker lost no write in {ROUNDS} rounds")


@pytest.mark.parametrize(
    ("gap", "kind"),
    [
        ("suspend", HybridTracker),
        ("suspend", NoComparisonAfterArming),
        ("resume", HybridTracker),
        ("resume", NoComparisonAfterDisarming),
    ],
)
async def test_a_write_without_protection_is_found_by_comparison(
    gap: str, kind: type[HybridTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is protected after the log was suspended to arm, and before it is resumed to disarm.

    The tap arms only once. A second arming would compare everything, and hide a write that was lost.
    """
    require_arming()
    with writer_of("anonymous", SMALL.end, writes=100, seed=5, visit=VISIT) as writer:
        async with (
            tapped(SMALL.url(writer), ArmAtOnce(once=True), kind=kind) as (tap, tracker),
            ModelClient(tap),
        ):
            if gap == "resume":
                await until(lambda: tracker.armed)
            real, written = getattr(tracker._log, gap), 0

            def then_write(why: AllDirty) -> AllDirty | None:
                nonlocal written
                before = real(why) if gap == "suspend" else None
                if not written:
                    written = writer.run()
                return before if gap == "suspend" else cast("AllDirty", real(why))

            monkeypatch.setattr(tracker._log, gap, then_write)
            if gap == "resume":
                await asyncio.to_thread(writer.run)
            await until(lambda: written > 0 and tracker.armed is (gap == "suspend"))
            await tap.refresh()
            truth = SMALL.decode(await asyncio.to_thread(writer.memory))
            assert np.array_equal(tap.screen.pixels, truth) is (kind is HybridTracker)


@pytest.mark.stress
async def test_no_write_is_missed_by_viewers_that_come_and_go(stress: int) -> None:
    """Viewers come and go: none, a slow one, one that leaves early. The last shows everything."""
    seed = new_seed()
    moments = random.Random(seed)
    with stressing("anonymous", SCREEN.end, 1_000_000, seed) as writer:
        async with vramtap.open(SCREEN.url(writer), tracker="log") as tap:
            for _ in range(5 * stress):
                writer.begin()
                writing = asyncio.create_task(asyncio.to_thread(writer.finish))
                while not writing.done():
                    async with ModelClient(tap, moves=moments.random() < 0.5) as visitor:
                        visit = asyncio.create_task(_takes(visitor, moments.randrange(1, 6)))
                        await asyncio.wait([visit, writing], return_when=asyncio.FIRST_COMPLETED)
                        visit.cancel()
                    await asyncio.wait([writing], timeout=moments.uniform(0, 0.05))
                async with ModelClient(tap) as last:
                    await last.shows(SCREEN.decode(await asyncio.to_thread(writer.memory)))


async def _takes(client: ModelClient, updates: int) -> None:
    await client.until(lambda: client.updates >= updates)


@pytest.mark.stress
async def test_no_write_is_missed_by_a_tap_that_arms_after_every_scan(
    stress: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every scan the tap arms and waits for the next write."""
    seed = new_seed()
    with stressing("anonymous", SCREEN.end, 400_000, seed) as writer:
        async with followed(writer, SCREEN, "log") as (tap, client):
            for _ in range(6 * stress):
                assert await asyncio.to_thread(writer.run) == 400_000
                await client.shows(SCREEN.decode(await asyncio.to_thread(writer.memory)))
            assert tap.stats.failures == 0


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Return any mode of a few dozen pages: odd offsets and strides, rows shorter and longer than a page."""
    pixel_format = draw(st.sampled_from(sorted(BYTES)))
    width = draw(st.integers(1, 200))
    padding = draw(st.just(0) | st.integers(0, 9) | st.integers(0, 6000))
    stride = width * BYTES[pixel_format] + padding
    height = draw(st.integers(1, min(200, 40 * PAGE_SIZE // stride)))
    offset = draw(st.just(0) | st.integers(0, 3 * PAGE_SIZE))
    return Geometry(width, height, pixel_format, stride, offset)


@settings(deadline=None, max_examples=35, suppress_health_check=list(HealthCheck))
@given(
    geometry=geometries(),
    tracker=st.sampled_from([*TRACKERS, "hybrid", "forced"]),
    memory=st.sampled_from(["anonymous", "memfd"]),
    beyond=st.integers(0, 4),
    threads=st.integers(1, 4),
    rounds=st.integers(1, 4),
    writes=st.integers(4, 40_000),
    seed=st.integers(0, 1 << 32),
)
def test_no_write_is_missed_in_any_mode(
    geometry: Geometry,
    tracker: str,
    memory: str,
    beyond: int,
    threads: int,
    rounds: int,
    writes: int,
    seed: int,
) -> None:
    """The writer also writes to `beyond` pages after the screen, and to the padding."""

    async def bursts() -> None:
        pages = -(-geometry.end // PAGE_SIZE) + beyond
        with stressing(memory, pages * PAGE_SIZE, writes, seed, threads) as writer:
            async with followed(writer, geometry, tracker) as (tap, client):
                for _ in range(rounds):
                    await asyncio.to_thread(writer.run)
                    await client.shows(geometry.decode(await asyncio.to_thread(writer.memory)))
                assert tap.stats.failures == 0

    asyncio.run(bursts())
