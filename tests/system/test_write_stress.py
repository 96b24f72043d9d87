"""No write is ever missed: whatever bursts the memory while a tap looks, at last the screen is the memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from contextlib import asynccontextmanager, contextmanager
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
from support.testbed.writer import Writer
from vramtap.pages import NO_PAGES, PAGE_SIZE, PageRuns
from vramtap.policy.decide import OnlinePolicy, State
from vramtap.tap.timings import TapTimings
from vramtap.trackers.base import AllDirty
from vramtap.trackers.userfault.hybrid import HybridTracker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from vramtap.linux.watchdog import Watchdog
    from vramtap.memory.extent import Extent
    from vramtap.tap.tap import Tap

TRACKERS = ("log", "compare")
WRITES = 10_000_000
PAUSE_EVERY = 100
"""Writes between two pauses of each thread: so the stress lasts seconds, and every collect falls into it."""
VISIT = 2000
"""Writes in one place: most pages are left for good in the middle of the stress, and nothing written later
would heal what was missed there."""
REST_US = 5000
"""Each thread rests up to so long, several looks, after a visit, which takes it a tenth of a millisecond: so
now and then all do."""
BUSY = TapTimings(interval_s=0.001, idle_after_s=0.0)
"""Scans without a pause, and arms at once."""
ROUNDS = 20
"""By then a broken rule must have shown; it takes one or two."""
MIN_COLLECTS = 30
"""Of a stress that the tap was really there for: where the machine is too busy, the stress lasts longer."""

Pixels = NDArray[np.uint32]


@contextmanager
def stressing(
    memory: str,
    size_bytes: int,
    writes: int,
    seed: int,
    threads: int = 4,
    *,
    visit: int = VISIT,
    pause_every: int = PAUSE_EVERY,
    rest_us: int = 0,
) -> Iterator[Writer]:
    """A writer over memory of this kind."""
    with contextlib.ExitStack() as cleanup:
        path: str | None = None
        pass_fds: tuple[int, ...] = ()
        if memory == "memfd":
            descriptor = os.memfd_create("stress")
            cleanup.callback(os.close, descriptor)
            path, pass_fds = f"/proc/self/fd/{descriptor}", (descriptor,)
        yield cleanup.enter_context(
            Writer(
                size_bytes,
                threads=threads,
                writes=writes,
                seed=seed,
                pause_every=pause_every,
                visit=visit,
                rest_us=rest_us,
                path=path,
                pass_fds=pass_fds,
            )
        )


@dataclass(frozen=True)
class Geometry:
    """A mode, as the command line takes it, and how its pixels are read the slow way."""

    width: int
    height: int
    format: str
    stride: int
    offset: int

    @property
    def end(self) -> int:
        """First byte past the last pixel."""
        return self.offset + (self.height - 1) * self.stride + self.width * BYTES[self.format]

    def url(self, writer: Writer) -> str:
        """What the code under test is told to tap."""
        return (
            f"pid:{writer.pid}?address={writer.address:#x}&mode={self.width}x{self.height}"
            f"&format={self.format}&stride={self.stride}&offset={self.offset}"
        )

    def decode(self, memory: NDArray[np.uint8]) -> Pixels:
        """The picture in this memory: bytes gathered one by one, channels widened with a multiplication."""
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
    """A channel of 5 or 6 bits as one of 8, its high bits repeated below."""
    channel = word & (1 << bits) - 1
    return channel * ((1 << bits) + 1) >> 2 * bits - 8


@asynccontextmanager
async def followed(
    writer: Writer, geometry: Geometry, tracker: str
) -> AsyncIterator[tuple[Tap, ModelClient]]:
    """A tap with a tracker of this name, or with the hybrid forced through its states, and its client."""
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
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
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
"""Read as a whole in a millisecond, so that it is armed and woken many times a second."""


def resting(memory: str, seed: int) -> contextlib.AbstractContextManager[Writer]:
    """A writer whose threads rest between two visits."""
    return stressing(memory, SMALL.end, WRITES // 10, seed, 2, pause_every=0, rest_us=REST_US)


TURNS = 100
"""Of each kind of transition in a stress, at least."""


def policies(name: str, seed: int) -> Counted:
    """What decides for the hybrid, counted."""
    return Counted(ForcedPolicy(seed, arm=0.8) if name == "forced" else OnlinePolicy())


@pytest.mark.stress
@pytest.mark.parametrize("memory", ["anonymous", "memfd"])
async def test_no_write_is_missed_whatever_state_the_hybrid_is_forced_into(
    memory: str, stress: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads rest now and then, all at once too, so that it is armed in the middle of the stress."""
    require_arming()
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    policy = policies("forced", seed)
    with resting(memory, seed) as writer:
        async with (
            tapped(SMALL.url(writer), policy, timings=BUSY) as (tap, _),
            ModelClient(tap) as client,
        ):
            told = tap.stats.all_dirty
            for number in range(1, stress + 1):
                written = 0
                while written < WRITES or min(told["armed"], told["woken"]) < number * TURNS:
                    written += await asyncio.to_thread(writer.run)
                    await client.shows(SMALL.decode(await asyncio.to_thread(writer.memory)))
            print(f"{dict(told)}, {policy.opened} tiles opened, {policy.closed} closed")
            assert min(policy.opened, policy.closed) >= stress * TURNS
            assert tap.stats.failures == 0


@pytest.mark.stress
@pytest.mark.parametrize("memory", ["anonymous", "memfd"])
async def test_no_write_is_missed_as_the_hybrid_decides_by_itself(memory: str, stress: int) -> None:
    """Threads stay where they are for a while, as a video does, and all is quiet between two bursts.

    The tiles are as large as what a thread writes at a time: these are written at every look, and opened.
    """
    require_arming()
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
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


class IgnoresWhatArmingMissed(HybridTracker):
    """Compares nothing after it was armed: what was written while the log changed hands is nowhere."""

    def _arm(self, extent: Extent) -> bool:
        armed = super()._arm(extent)
        if armed:
            self._log.take_pending()
        return armed


class IgnoresWhatHandingOverMissed(HybridTracker):
    """Compares nothing after it was woken: not even the write that woke it is seen."""

    def _disarm(self, extent: Extent, watchdog: Watchdog) -> PageRuns:
        super()._disarm(extent, watchdog)
        self._log.take_pending()
        return NO_PAGES


class IgnoresOpenTiles(HybridTracker):
    """Does not report what it does not protect."""

    def collect(self, window: tuple[int, int] | None = None) -> PageRuns | AllDirty:
        unprotected = self.unprotected
        answer = super().collect(window)
        return answer if isinstance(answer, AllDirty) else answer.difference(unprotected)


class IgnoresClosedTiles(HybridTracker):
    """Protects a tile that was open after it was read, and not before."""

    def _apply(self, state: State) -> None:
        super()._apply(state)
        closed = self._tiles.runs(self._reprotected)
        if closed and not self.armed:
            answer = self._log.collect()
            if isinstance(answer, PageRuns):
                self._log.restore(answer.difference(closed))


@pytest.mark.parametrize("kind", [IgnoresOpenTiles, IgnoresClosedTiles])
async def test_a_hybrid_that_ignores_tiles_loses_writes(
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
    pytest.fail(f"it lost nothing in {ROUNDS} rounds")


@pytest.mark.parametrize(
    ("gap", "kind"),
    [
        ("suspend", HybridTracker),
        ("suspend", IgnoresWhatArmingMissed),
        ("resume", HybridTracker),
        ("resume", IgnoresWhatHandingOverMissed),
    ],
)
async def test_what_is_written_while_nothing_is_protected(
    gap: str, kind: type[HybridTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the log was suspended to arm, and before it is resumed to hand over, there is no protection.

    Armed once only: the next arming would compare everything, and heal what the last waking missed.
    """
    require_arming()
    with stressing("anonymous", SMALL.end, 100, 5, pause_every=0) as writer:
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
    """Nobody looks for a while, one that looks is slow, one leaves in the middle: the next has it all."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    with stressing("anonymous", SCREEN.end, 1_000_000, seed) as writer:
        async with vramtap.open(SCREEN.url(writer), tracker="log") as tap:
            for _ in range(5 * stress):
                writer.begin()
                stressed = asyncio.create_task(asyncio.to_thread(writer.finish))
                while not stressed.done():
                    async with ModelClient(tap, moves=moments.random() < 0.5) as visitor:
                        seen = asyncio.create_task(_takes(visitor, moments.randrange(1, 6)))
                        await asyncio.wait([seen, stressed], return_when=asyncio.FIRST_COMPLETED)
                        seen.cancel()
                    await asyncio.wait([stressed], timeout=moments.uniform(0, 0.05))
                async with ModelClient(tap) as last:
                    await last.shows(SCREEN.decode(await asyncio.to_thread(writer.memory)))


async def _takes(client: ModelClient, updates: int) -> None:
    await client.until(lambda: client.updates >= updates)


@pytest.mark.stress
async def test_no_write_is_missed_by_a_tap_that_is_always_about_to_sleep(
    stress: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every look it hands over to the thread that waits for the next write."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    with stressing("anonymous", SCREEN.end, 400_000, seed) as writer:
        async with followed(writer, SCREEN, "log") as (tap, client):
            for _ in range(6 * stress):
                assert await asyncio.to_thread(writer.run) == 400_000
                await client.shows(SCREEN.decode(await asyncio.to_thread(writer.memory)))
            assert tap.stats.failures == 0


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any mode in a few dozen pages: odd offsets and strides, rows longer than a page and shorter."""
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
    """`beyond` pages behind the screen are stressed too, and padding always: neither may disturb."""

    async def bursts() -> None:
        pages = -(-geometry.end // PAGE_SIZE) + beyond
        with stressing(memory, pages * PAGE_SIZE, writes, seed, threads) as writer:
            async with followed(writer, geometry, tracker) as (tap, client):
                for _ in range(rounds):
                    await asyncio.to_thread(writer.run)
                    await client.shows(geometry.decode(await asyncio.to_thread(writer.memory)))
                assert tap.stats.failures == 0

    asyncio.run(bursts())
