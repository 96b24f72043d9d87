"""InputQueue: in order, never more than a few, nothing left held."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from support.synthetic_tap import RecordingInput
from vramtap.errors import KernelError, TargetGone
from vramtap.keyboard.events import KeyEvent, PointerEvent
from vramtap.servers.vnc import input_queue as forward
from vramtap.servers.vnc.input_queue import MAX_QUEUED, InputQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
def taker() -> RecordingInput:
    return RecordingInput()


@pytest.fixture
async def queue(taker: RecordingInput) -> AsyncIterator[InputQueue]:
    queue = InputQueue(taker, "client")
    running = asyncio.create_task(queue.run())
    yield queue
    running.cancel()
    await asyncio.wait([running])


def at(x: int, buttons: int = 0) -> PointerEvent:
    return PointerEvent(x, 7, buttons)


async def hold_up(queue: InputQueue, taker: RecordingInput) -> None:
    """Have the target stop at a first event, so that what follows queues up."""
    taker.gate.clear()
    queue.key(KeyEvent(keysym=1, down=True))
    await taker.waiting.wait()


async def test_events_arrive_in_order(queue: InputQueue, taker: RecordingInput) -> None:
    keys = [KeyEvent(keysym=number, down=down) for number in range(20) for down in (True, False)]
    for event in keys:
        queue.key(event)
    queue.pointer(at(1, 1), 640, 480)
    assert await taker.until(41) == [*keys, (at(1, 1), 640, 480)]


async def test_motion_gives_way_to_newer_motion_but_no_button_or_key_does(
    queue: InputQueue, taker: RecordingInput
) -> None:
    await hold_up(queue, taker)
    for event in (at(1), at(2), at(3), at(4, 1), at(5, 1), at(6, 1), at(7, 0), at(8, 0)):
        queue.pointer(event, 640, 480)
    queue.key(KeyEvent(keysym=2, down=True))
    queue.pointer(at(9), 640, 480)
    taker.gate.set()
    taken = await taker.until(8)
    expected = [at(3), at(4, 1), at(6, 1), at(7, 0), at(8, 0)]
    assert taken == [
        KeyEvent(keysym=1, down=True),
        *((event, 640, 480) for event in expected),
        KeyEvent(keysym=2, down=True),
        (at(9), 640, 480),
    ]


async def test_motion_alone_never_queues_up(queue: InputQueue, taker: RecordingInput) -> None:
    await hold_up(queue, taker)
    for x in range(10_000):
        queue.pointer(at(x), 640, 480)
    assert len(queue) == 1
    taker.gate.set()
    assert (await taker.until(2))[1:] == [(at(9_999), 640, 480)]


async def test_a_flood_is_dropped_and_leaves_no_key_down(
    queue: InputQueue, taker: RecordingInput, caplog: pytest.LogCaptureFixture
) -> None:
    await hold_up(queue, taker)
    for number in range(MAX_QUEUED + 10):
        queue.key(KeyEvent(keysym=number, down=True))
        assert len(queue) <= MAX_QUEUED + 1
    taker.gate.set()
    taken = await taker.until(12)
    assert taken == [
        KeyEvent(keysym=1, down=True),
        "release_all",
        *(KeyEvent(keysym=MAX_QUEUED + n, down=True) for n in range(10)),
    ]
    assert "512 events dropped" in caplog.text


@pytest.mark.parametrize(
    ("events", "holds"),
    [
        ([], False),
        ([KeyEvent(keysym=5, down=True)], True),
        ([KeyEvent(keysym=5, down=True), KeyEvent(keysym=5, down=False)], False),
        ([KeyEvent(keysym=5, down=True, scancode=30), KeyEvent(keysym=5, down=False, scancode=31)], True),
        ([at(1)], False),
        ([at(1, 4)], True),
        ([at(1, 4), at(2, 0)], False),
        ([KeyEvent(keysym=number, down=True) for number in range(400)], True),
    ],
)
async def test_only_who_holds_something_has_everything_released(
    queue: InputQueue, taker: RecordingInput, events: list[KeyEvent | PointerEvent], holds: bool
) -> None:
    for event in events:
        if isinstance(event, KeyEvent):
            queue.key(event)
        else:
            queue.pointer(event, 640, 480)
        await queue.drain()
    await queue.release()
    assert ("release_all" in taker.taken) is holds
    await queue.release()
    assert taker.taken.count("release_all") == holds


async def test_a_target_that_hangs_is_not_waited_for_for_ever(
    queue: InputQueue,
    taker: RecordingInput,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(forward, "DRAIN_S", 0.01)
    monkeypatch.setattr(forward, "RELEASE_S", 0.01)
    await hold_up(queue, taker)
    queue.key(KeyEvent(keysym=2, down=True))
    await queue.drain()
    await queue.release()
    assert "did not take its last 1 input events" in caplog.text
    assert "releasing its keys: timed out" in caplog.text


async def test_an_event_that_fails_is_told_once_and_the_next_goes_on(
    queue: InputQueue, taker: RecordingInput, caplog: pytest.LogCaptureFixture
) -> None:
    taker.error = KernelError("send", "monitor", 5)
    queue.key(KeyEvent(keysym=1, down=True))
    queue.key(KeyEvent(keysym=2, down=True))
    await queue.drain()
    taker.error = None
    queue.key(KeyEvent(keysym=3, down=True))
    assert await taker.until(1) == [KeyEvent(keysym=3, down=True)]
    assert caplog.text.count("client: input: send monitor: EIO") == 1


async def test_the_targets_end_ends_it(taker: RecordingInput) -> None:
    queue = InputQueue(taker, "client")
    taker.error = TargetGone("key", "synthetic", "it exited")
    queue.key(KeyEvent(keysym=1, down=True))
    with pytest.raises(TargetGone):
        await queue.run()
