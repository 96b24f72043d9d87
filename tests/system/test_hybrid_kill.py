"""Tests that kill vramtap or its watchdog at random moments: the writer goes on and no write is lost."""

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
from support.seeds import new_seed
from vramtap.tap.timings import TapTimings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.testbed.writer import Writer

KILLS, KILLS_LONG = 25, 1000
"""Number of kills over all kinds of memory: by default, and in `make stress`."""
EXACT_EVERY = 10
"""Kills between two checks that a new tap shows the whole memory."""
SHORT_S = 0.001
"""Poll interval of a tap that changes its state often, s."""


@pytest.fixture(autouse=True)
def arming() -> None:
    require_arming()


@pytest.fixture(params=["anonymous", "memfd"])
def writer(request: pytest.FixtureRequest) -> Iterator[Writer]:
    with bursting(request.param) as writer:
        yield writer


@pytest.fixture
def moments(stress: int) -> random.Random:
    """A source of random moments. The report of a failed test shows its seed."""
    return random.Random(new_seed())


async def check_client_shows_memory(writer: Writer, client: ModelClient) -> None:
    """Halt the writer, which fails if it was disturbed, and wait until the client shows its memory."""
    await asyncio.to_thread(writer.halt)
    await client.shows(picture_of(await asyncio.to_thread(writer.memory)))


@pytest.mark.stress
async def test_after_a_kill_of_vramtap_no_protection_is_left_and_no_write_is_lost(
    writer: Writer, moments: random.Random, stress: int
) -> None:
    before, kills = descriptors(writer.pid), Counter[Stage]()
    rounds = -(-(KILLS if stress == 1 else KILLS_LONG) // 2)
    writer.steady()
    with tapping(writer) as tapper:
        for number in range(rounds):
            stage = await asyncio.to_thread(tapper.kill_at, moments)
            kills[stage] += 1
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
                    await check_client_shows_memory(writer, client)
                writer.steady()
    writer.halt()
    print({stage.name: count for stage, count in kills.items()})
    assert kills[Stage.ATTACHING]
    assert len(kills) > 2
    if stress > 1:
        assert set(kills) == set(Stage), "a stage had no kill"


@pytest.mark.stress
async def test_after_a_kill_of_the_watchdog_the_tap_continues_without_arming(
    writer: Writer,
    moments: random.Random,
    stress: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The tap continues without arming, loses no write, and logs the end of the watchdog."""
    before, kills = descriptors(writer.pid), Counter[bool]()
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
            kills[tracker.armed] += 1
            caplog.clear()
            os.kill(pid, signal.SIGKILL)
            await until(lambda: tracker.watchdog_pid is None)
            assert f"the watchdog (pid {pid}) has ended: never armed again" in caplog.text
            assert not tracker.armed
            await asyncio.to_thread(writer.advance)
            await check_client_shows_memory(writer, client)
            assert tap.stats.failures == 0
            assert tap.closed is None
        assert not protections(writer.pid)
        assert descriptors(writer.pid) == before
    print(f"armed: {kills[True]}, not armed: {kills[False]}")
