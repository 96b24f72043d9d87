"""The hybrid's two processes are killed at random moments: nothing is lost, held, or left behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from support.forced import ForcedPolicy, require_arming, tapped, until
from support.forked import bursting, descriptors, picture_of, protections, tapping, url_of
from support.forking_tapper import Stage
from support.model_client import ModelClient
from vramtap.tap.timings import TapTimings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.testbed.writer import Writer

MOMENTS, MOMENTS_LONG = 25, 1000
"""Of kills, over all kinds of memory: what a change is held to, and what `make stress` does."""
EXACT_EVERY = 10
"""Kills between two taps that have to show all."""
SHORT_S = 0.001
"""Between two looks of a tap that is to change its state often."""


@pytest.fixture(autouse=True)
def arming() -> None:
    require_arming()


@pytest.fixture(params=["anonymous", "memfd"])
def writer(request: pytest.FixtureRequest) -> Iterator[Writer]:
    with bursting(request.param) as writer:
        yield writer


@pytest.fixture
def moments(stress: int) -> random.Random:
    """A source of random moments, whose seed stands in the report of a test that fails."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


async def shows_all(writer: Writer, client: ModelClient) -> None:
    """The writer, which writes steadily, was never disturbed, and the client comes to show its memory."""
    await asyncio.to_thread(writer.halt)
    await client.shows(picture_of(await asyncio.to_thread(writer.memory)))


@pytest.mark.stress
async def test_we_are_killed_at_random_moments(writer: Writer, moments: random.Random, stress: int) -> None:
    before, came = descriptors(writer.pid), Counter[Stage]()
    rounds = -(-(MOMENTS if stress == 1 else MOMENTS_LONG) // 2)
    writer.steady()
    with tapping(writer) as tapper:
        for number in range(rounds):
            stage = await asyncio.to_thread(tapper.kill_at, moments)
            came[stage] += 1
            where = f"killed {stage.name}, the {number + 1}. time"
            assert not protections(writer.pid), where
            assert descriptors(writer.pid) == before, where
            await asyncio.to_thread(writer.advance)
            if number % EXACT_EVERY == 0 or number == rounds - 1:
                policy = ForcedPolicy(moments.randrange(1 << 32), arm=0.7)
                async with (
                    tapped(
                        url_of(writer), policy, timings=TapTimings(interval_s=SHORT_S, idle_after_s=0.0)
                    ) as (tap, tracker),
                    ModelClient(tap) as client,
                ):
                    assert not tracker.unarmable, where
                    await client.until(lambda: tap.stats.all_dirty["woken"] > 0)
                    await shows_all(writer, client)
                writer.steady()
    writer.halt()
    print({stage.name: count for stage, count in came.items()})
    assert came[Stage.ATTACHING]
    assert len(came) > 2
    if stress > 1:
        assert set(came) == set(Stage), "it was killed at everything it does"


@pytest.mark.stress
async def test_the_watchdog_is_killed_at_random_moments(
    writer: Writer,
    moments: random.Random,
    stress: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The tap goes on, is never armed again, loses nothing, and says what has happened."""
    before, came = descriptors(writer.pid), Counter[bool]()
    for _ in range(5 if stress == 1 else 100):
        writer.steady()
        policy = ForcedPolicy(moments.randrange(1 << 32), arm=0.7)
        async with (
            tapped(url_of(writer), policy, timings=TapTimings(interval_s=SHORT_S, idle_after_s=0.0)) as (
                tap,
                tracker,
            ),
            ModelClient(tap) as client,
        ):
            await client.until(lambda: tap.stats.all_dirty["woken"] > 0)
            await asyncio.sleep(moments.uniform(0, 0.03))
            if moments.random() < 0.5:
                await until(lambda: tracker.armed, 0)
            pid = tracker.watchdog_pid
            assert pid is not None
            came[tracker.armed] += 1
            caplog.clear()
            os.kill(pid, signal.SIGKILL)
            await until(lambda: tracker.watchdog_pid is None)
            assert f"the watchdog (pid {pid}) has ended: never armed again" in caplog.text
            assert not tracker.armed
            await asyncio.to_thread(writer.advance)
            await shows_all(writer, client)
            assert tap.stats.failures == 0
            assert tap.closed is None
        assert not protections(writer.pid)
        assert descriptors(writer.pid) == before
    print(f"armed: {came[True]}, not armed: {came[False]}")
