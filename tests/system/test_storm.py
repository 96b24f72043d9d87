"""No write is ever missed: whatever storms the memory while a tap looks, at last the screen is the memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import vramtap
from lab.writer import Writer
from model_client import ModelClient
from vramtap import tap as tap_module
from vramtap.pages import PAGE_SIZE
from vramtap.tap import Tap

TRACKERS = ("log", "compare")
WRITES = 10_000_000
PAUSE_EVERY = 100
"""Writes between two pauses of each thread: so the storm lasts seconds, and every collect falls into it."""
VISIT = 2000
"""Writes in one place: most pages are left for good in the middle of the storm, and nothing written later
would heal what was missed there."""
MIN_COLLECTS = 30
"""Of a storm that the tap was really there for: where the machine is too busy, the storm lasts longer."""

Pixels = NDArray[np.uint32]


@contextmanager
def storming(memory: str, size_bytes: int, writes: int, seed: int, threads: int = 4) -> Iterator[Writer]:
    """A writer over memory of this kind."""
    with contextlib.ExitStack() as cleanup:
        path: str | None = None
        pass_fds: tuple[int, ...] = ()
        if memory == "memfd":
            descriptor = os.memfd_create("storm")
            cleanup.callback(os.close, descriptor)
            path, pass_fds = f"/proc/self/fd/{descriptor}", (descriptor,)
        yield cleanup.enter_context(
            Writer(
                size_bytes,
                threads=threads,
                writes=writes,
                seed=seed,
                pause_every=PAUSE_EVERY,
                visit=VISIT,
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
    async with (
        vramtap.open(geometry.url(writer), tracker=tracker) as tap,
        ModelClient(tap) as client,
    ):
        yield tap, client


SCREEN = Geometry(2048, 2048, "XR24", 8192, 0)


@pytest.mark.storm
@pytest.mark.parametrize("memory", ["anonymous", "memfd"])
@pytest.mark.parametrize("tracker", TRACKERS)
async def test_no_write_is_missed(tracker: str, memory: str, storm: int) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    with storming(memory, SCREEN.end, WRITES // 4, seed) as writer:
        async with followed(writer, SCREEN, tracker) as (tap, client):
            for number in range(1, storm + 1):
                written = 0
                while written < WRITES or min(tap.stats.collects, client.updates) < number * MIN_COLLECTS:
                    written += await asyncio.to_thread(writer.run)
                await client.shows(SCREEN.decode(await asyncio.to_thread(writer.memory)))
            assert tap.stats.tracker == tracker
            assert tap.stats.failures == 0


@pytest.mark.storm
async def test_no_write_is_missed_by_viewers_that_come_and_go(storm: int) -> None:
    """Nobody looks for a while, one that looks is slow, one leaves in the middle: the next has it all."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    with storming("anonymous", SCREEN.end, 1_000_000, seed) as writer:
        async with vramtap.open(SCREEN.url(writer), tracker="log") as tap:
            for _ in range(5 * storm):
                writer.begin()
                stormed = asyncio.create_task(asyncio.to_thread(writer.finish))
                while not stormed.done():
                    async with ModelClient(tap, moves=moments.random() < 0.5) as visitor:
                        seen = asyncio.create_task(_takes(visitor, moments.randrange(1, 6)))
                        await asyncio.wait([seen, stormed], return_when=asyncio.FIRST_COMPLETED)
                        seen.cancel()
                    await asyncio.wait([stormed], timeout=moments.uniform(0, 0.05))
                async with ModelClient(tap) as last:
                    await last.shows(SCREEN.decode(await asyncio.to_thread(writer.memory)))


async def _takes(client: ModelClient, updates: int) -> None:
    await client.until(lambda: client.updates >= updates)


@pytest.mark.storm
async def test_no_write_is_missed_by_a_tap_that_is_always_about_to_sleep(
    storm: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every look it hands over to the thread that waits for the next write."""
    monkeypatch.setattr(tap_module, "IDLE_AFTER_S", 0.0)
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    with storming("anonymous", SCREEN.end, 400_000, seed) as writer:
        async with followed(writer, SCREEN, "log") as (tap, client):
            for _ in range(6 * storm):
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


@settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    geometry=geometries(),
    tracker=st.sampled_from(TRACKERS),
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
    """`beyond` pages behind the screen are stormed too, and padding always: neither may disturb."""

    async def storms() -> None:
        pages = -(-geometry.end // PAGE_SIZE) + beyond
        with storming(memory, pages * PAGE_SIZE, writes, seed, threads) as writer:
            async with followed(writer, geometry, tracker) as (tap, client):
                for _ in range(rounds):
                    await asyncio.to_thread(writer.run)
                    await client.shows(geometry.decode(await asyncio.to_thread(writer.memory)))
                assert tap.stats.failures == 0

    asyncio.run(storms())
