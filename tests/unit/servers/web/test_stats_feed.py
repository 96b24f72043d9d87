"""The live line: told when it changes, sampled only while somebody looks."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from vramtap.servers.web.stats_feed import HEARTBEAT_S, Feed, Sample, StatsLine

IDLE = Sample("1024x768 XR24", "log", "the probe saw a write", 7.0, 100, 4096, 10, 1)


def take(line: StatsLine, sample: Sample, now_s: float) -> dict[str, str | int | None]:
    news = line.take(sample, now_s)
    assert news is not None
    return news


def test_first_sample_tells_everything_with_nothing_under_way() -> None:
    assert take(StatsLine(), IDLE, 50.0) == {
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


def test_rates_are_of_the_time_that_passed() -> None:
    line = StatsLine()
    line.take(IDLE, 10.0)
    later = replace(IDLE, dirty_pages=110, bytes_read=4096 * 11, updates=15)
    assert take(line, later, 12.0) == {"pages_s": 5, "bytes_s": 20480, "updates_s": 2}


def test_end_of_activity_is_told_once() -> None:
    line = StatsLine()
    line.take(IDLE, 10.0)
    later = replace(IDLE, dirty_pages=101)
    assert take(line, later, 11.0) == {"pages_s": 1}
    assert take(line, later, 12.0) == {"pages_s": 0}
    assert line.take(later, 13.0) is None


def test_nothing_new_is_a_sign_of_life_now_and_then() -> None:
    line = StatsLine()
    line.take(IDLE, 0.0)
    told = [line.take(IDLE, float(second)) for second in range(1, 16)]
    assert [second for second, news in enumerate(told, 1) if news is not None] == [5, 10, 15]
    assert all(news in (None, {}) for news in told)
    assert HEARTBEAT_S == 5.0


def test_wavering_scan_time_is_no_news() -> None:
    line = StatsLine()
    line.take(replace(IDLE, scan_us=50.0), 0.0)
    assert line.take(replace(IDLE, scan_us=55.0), 1.0) is None
    assert line.take(replace(IDLE, scan_us=45.4), 2.0) is None
    assert take(line, replace(IDLE, scan_us=70.0), 3.0) == {"scan_us": 70}


def test_counters_that_start_again_give_no_negative_rate() -> None:
    line = StatsLine()
    line.take(IDLE, 0.0)
    assert line.take(replace(IDLE, dirty_pages=0, bytes_read=0, updates=0), 1.0) is None


def test_end_of_the_target_is_told() -> None:
    line = StatsLine()
    line.take(IDLE, 0.0)
    assert take(line, replace(IDLE, ended="QEMU (pid 812) exited"), 1.0) == {"ended": "QEMU (pid 812) exited"}


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
def test_page_that_merges_the_news_has_the_fields(samples: list[tuple[Sample, float]]) -> None:
    line, page, now_s = StatsLine(), {}, 0.0
    for sample, step_s in samples:
        now_s += step_s
        page.update(line.take(sample, now_s) or {})
        assert page == line.fields


class Listener:
    def __init__(self) -> None:
        self.heard: asyncio.Queue[dict[str, object]] = asyncio.Queue()

    def tell(self, message: str) -> None:
        self.heard.put_nowait(json.loads(message))


class Counters:
    def __init__(self) -> None:
        self.sample = IDLE
        self.reads = 0
        self.now_s = 0.0
        self.read = asyncio.Event()

    def take(self) -> Sample:
        self.reads += 1
        self.now_s += 1.0
        self.read.set()
        return self.sample


async def test_nothing_runs_while_nobody_looks() -> None:
    counters = Counters()
    feed = Feed(counters.take, lambda: counters.now_s, interval_s=0.001)
    assert not feed.running
    first, second = Listener(), Listener()
    feed.join(first)
    feed.join(second)
    assert feed.running
    feed.leave(first)
    assert feed.running
    feed.leave(second)
    assert not feed.running
    assert counters.reads == 1


async def test_everybody_hears_the_same_news_and_who_joins_late_hears_all_first() -> None:
    counters = Counters()
    feed = Feed(counters.take, lambda: counters.now_s, interval_s=0.001)
    early, late = Listener(), Listener()
    feed.join(early)
    assert (await early.heard.get())["pages_s"] == 0
    counters.sample = replace(IDLE, viewers=2)
    assert await early.heard.get() == {"viewers": 2}
    feed.join(late)
    assert (await late.heard.get())["viewers"] == 2
    counters.sample = replace(IDLE, viewers=3)
    while (news := await late.heard.get()) == {}:
        pass  # signs of life: this clock goes a second a sample
    assert news == {"viewers": 3}
    while (news := await early.heard.get()) == {}:
        pass
    assert news == {"viewers": 3}
    feed.leave(early)
    feed.leave(late)


async def test_who_comes_back_is_told_the_state_of_now() -> None:
    counters = Counters()
    feed = Feed(counters.take, lambda: counters.now_s, interval_s=0.001)
    listener = Listener()
    feed.join(listener)
    feed.leave(listener)
    counters.sample = replace(IDLE, mode="800x600 RG16", dirty_pages=10**9)
    feed.join(listener)
    feed.leave(listener)
    await listener.heard.get()
    again = await listener.heard.get()
    assert again["mode"] == "800x600 RG16"
    assert again["pages_s"] == 0
