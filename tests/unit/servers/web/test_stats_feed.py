"""Statistics: sent when they change, sampled only while a page is open."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from vramtap.servers.web.stats_feed import HEARTBEAT_S, Feed, Sample, StatsLine

IDLE = Sample("1024x768 XR24", "log", "the probe saw a write", 7.0, 100, 4096, 10, 1)


def changes(line: StatsLine, sample: Sample, now_s: float) -> dict[str, str | int | None]:
    changed = line.update(sample, now_s)
    assert changed is not None
    return changed


def test_first_sample_has_all_fields_and_zero_rates() -> None:
    assert changes(StatsLine(), IDLE, 50.0) == {
        "mode": "1024x768 XR24",
        "tracker": "log",
        "why": "the probe saw a write",
        "scan_us": 7,
        "pages_s": 0,
        "bytes_s": 0,
        "updates_s": 0,
        "viewers": 1,
        "ended": None,
    }


def test_rates_count_per_second() -> None:
    line = StatsLine()
    line.update(IDLE, 10.0)
    later = replace(IDLE, dirty_pages=110, bytes_read=4096 * 11, updates=15)
    assert changes(line, later, 12.0) == {"pages_s": 5, "bytes_s": 20480, "updates_s": 2}


def test_rate_of_zero_is_sent_once() -> None:
    line = StatsLine()
    line.update(IDLE, 10.0)
    later = replace(IDLE, dirty_pages=101)
    assert changes(line, later, 11.0) == {"pages_s": 1}
    assert changes(line, later, 12.0) == {"pages_s": 0}
    assert line.update(later, 13.0) is None


def test_heartbeat_is_sent_while_nothing_changes() -> None:
    line = StatsLine()
    line.update(IDLE, 0.0)
    sent = [line.update(IDLE, float(second)) for second in range(1, 16)]
    assert [second for second, fields in enumerate(sent, 1) if fields is not None] == [5, 10, 15]
    assert all(fields in (None, {}) for fields in sent)
    assert HEARTBEAT_S == 5.0


def test_small_change_of_the_scan_time_is_not_sent() -> None:
    line = StatsLine()
    line.update(replace(IDLE, scan_us=50.0), 0.0)
    assert line.update(replace(IDLE, scan_us=55.0), 1.0) is None
    assert line.update(replace(IDLE, scan_us=45.4), 2.0) is None
    assert changes(line, replace(IDLE, scan_us=70.0), 3.0) == {"scan_us": 70}


def test_counters_that_restart_give_no_negative_rate() -> None:
    line = StatsLine()
    line.update(IDLE, 0.0)
    assert line.update(replace(IDLE, dirty_pages=0, bytes_read=0, updates=0), 1.0) is None


def test_end_of_the_target_is_sent() -> None:
    line = StatsLine()
    line.update(IDLE, 0.0)
    assert changes(line, replace(IDLE, ended="QEMU (pid 812) exited"), 1.0) == {
        "ended": "QEMU (pid 812) exited"
    }


SAMPLES = st.builds(
    Sample,
    mode=st.sampled_from(["a", "b"]),
    tracker=st.sampled_from(["log", "compare"]),
    why=st.just(""),
    scan_us=st.floats(0, 1e6),
    dirty_pages=st.integers(0, 1 << 40),
    bytes_read=st.integers(0, 1 << 50),
    updates=st.integers(0, 1 << 40),
    viewers=st.integers(0, 9),
    ended=st.sampled_from([None, "gone"]),
)


@given(st.lists(st.tuples(SAMPLES, st.floats(0.0, 10.0)), min_size=1, max_size=20))
def test_merged_changes_give_all_fields(samples: list[tuple[Sample, float]]) -> None:
    line, page, now_s = StatsLine(), {}, 0.0
    for sample, step_s in samples:
        now_s += step_s
        page.update(line.update(sample, now_s) or {})
        assert page == line.fields


class Listener:
    """A subscriber that keeps its messages."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[dict[str, object]] = asyncio.Queue()

    def send(self, message: str) -> None:
        self.messages.put_nowait(json.loads(message))


class Counters:
    """A target's counters; its clock advances one second per sample."""

    def __init__(self) -> None:
        self.sample = IDLE
        self.reads = 0
        self.now_s = 0.0

    def read(self) -> Sample:
        self.reads += 1
        self.now_s += 1.0
        return self.sample


async def test_feed_samples_only_while_it_has_subscribers() -> None:
    counters = Counters()
    feed = Feed(counters.read, lambda: counters.now_s, interval_s=0.001)
    assert not feed.running
    first, second = Listener(), Listener()
    feed.subscribe(first)
    feed.subscribe(second)
    assert feed.running
    feed.unsubscribe(first)
    assert feed.running
    feed.unsubscribe(second)
    assert not feed.running
    assert counters.reads == 1


async def test_late_subscriber_first_gets_all_fields_and_then_the_same_changes() -> None:
    counters = Counters()
    feed = Feed(counters.read, lambda: counters.now_s, interval_s=0.001)
    early, late = Listener(), Listener()
    feed.subscribe(early)
    assert (await early.messages.get())["pages_s"] == 0
    counters.sample = replace(IDLE, viewers=2)
    assert await early.messages.get() == {"viewers": 2}
    feed.subscribe(late)
    assert (await late.messages.get())["viewers"] == 2
    counters.sample = replace(IDLE, viewers=3)
    while (fields := await late.messages.get()) == {}:
        pass  # heartbeats: this clock advances one second per sample
    assert fields == {"viewers": 3}
    while (fields := await early.messages.get()) == {}:
        pass
    assert fields == {"viewers": 3}
    feed.unsubscribe(early)
    feed.unsubscribe(late)


async def test_subscriber_that_returns_gets_the_current_state() -> None:
    counters = Counters()
    feed = Feed(counters.read, lambda: counters.now_s, interval_s=0.001)
    listener = Listener()
    feed.subscribe(listener)
    feed.unsubscribe(listener)
    counters.sample = replace(IDLE, mode="800x600 RG16", dirty_pages=10**9)
    feed.subscribe(listener)
    feed.unsubscribe(listener)
    await listener.messages.get()
    again = await listener.messages.get()
    assert again["mode"] == "800x600 RG16"
    assert again["pages_s"] == 0
