"""InputQueue: order of events, bounded memory, and release of held keys."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from vramtap.errors import KernelError, TargetGone
from vramtap.keyboard.events import KeyEvent, PointerEvent
from vramtap.servers.vnc.input_queue import MAX_QUEUED, InputQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.synthetic_tap import RecordingInput


@pytest.fixture
async def queue(received_input: RecordingInput) -> AsyncIterator[InputQueue]:
    queue = InputQueue(received_input, "client", drain_s=LIMIT_S, release_s=LIMIT_S)
    running = asyncio.create_task(queue.run())
    yield queue
    running.cancel()
    await asyncio.wait([running])


LIMIT_S = 10.0


def at(x: int, buttons: int = 0) -> PointerEvent:
    return PointerEvent(x, 7, buttons)


async def block(queue: InputQueue, received_input: RecordingInput) -> None:
    """Block the target at a first event, so that the next events stay in the queue."""
    received_input.gate.clear()
    queue.key(KeyEvent(keysym=1, down=True))
    await received_input.reached.wait()


async def test_events_arrive_in_order(queue: InputQueue, received_input: RecordingInput) -> None:
    keys = [KeyEvent(keysym=number, down=down) for number in range(20) for down in (True, False)]
    for event in keys:
        queue.key(event)
    queue.pointer(at(1, 1), 640, 480)
    assert await received_input.until(41) == [*keys, (at(1, 1), 640, 480)]


async def test_newer_motion_replaces_motion_but_no_key_or_button_event(
    queue: InputQueue, received_input: RecordingInput
) -> None:
    await block(queue, received_input)
    for event in (at(1), at(2), at(3), at(4, 1), at(5, 1), at(6, 1), at(7, 0), at(8, 0)):
        queue.pointer(event, 640, 480)
    queue.key(KeyEvent(keysym=2, down=True))
    queue.pointer(at(9), 640, 480)
    received_input.gate.set()
    received = await received_input.until(8)
    expected = [at(3), at(4, 1), at(6, 1), at(7, 0), at(8, 0)]
    assert received == [
        KeyEvent(keysym=1, down=True),
        *((event, 640, 480) for event in expected),
        KeyEvent(keysym=2, down=True),
        (at(9), 640, 480),
    ]


async def test_motion_takes_one_place_in_the_queue(queue: InputQueue, received_input: RecordingInput) -> None:
    await block(queue, received_input)
    for x in range(10_000):
        queue.pointer(at(x), 640, 480)
    assert len(queue) == 1
    received_input.gate.set()
    assert (await received_input.until(2))[1:] == [(at(9_999), 640, 480)]


async def test_full_queue_drops_events_and_releases_all_keys(
    queue: InputQueue, received_input: RecordingInput, caplog: pytest.LogCaptureFixture
) -> None:
    await block(queue, received_input)
    for number in range(MAX_QUEUED + 10):
        queue.key(KeyEvent(keysym=number, down=True))
        assert len(queue) <= MAX_QUEUED + 1
    received_input.gate.set()
    received = await received_input.until(12)
    assert received == [
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
async def test_release_happens_only_if_something_is_held(
    queue: InputQueue, received_input: RecordingInput, events: list[KeyEvent | PointerEvent], holds: bool
) -> None:
    for event in events:
        if isinstance(event, KeyEvent):
            queue.key(event)
        else:
            queue.pointer(event, 640, 480)
        await queue.drain()
    await queue.release_held()
    assert ("release_all" in received_input.received) is holds
    await queue.release_held()
    assert received_input.received.count("release_all") == holds


async def test_drain_and_release_give_up_on_a_target_that_hangs(
    received_input: RecordingInput, caplog: pytest.LogCaptureFixture
) -> None:
    queue = InputQueue(received_input, "client", drain_s=0.01, release_s=0.01)
    running = asyncio.create_task(queue.run())
    await block(queue, received_input)
    queue.key(KeyEvent(keysym=2, down=True))
    await queue.drain()
    await queue.release_held()
    assert "did not take the last 1 input events" in caplog.text
    assert "releasing its keys failed: timed out" in caplog.text
    running.cancel()
    await asyncio.wait([running])


async def test_failed_events_are_logged_once_and_later_events_arrive(
    queue: InputQueue, received_input: RecordingInput, caplog: pytest.LogCaptureFixture
) -> None:
    received_input.error = KernelError("send", "monitor", 5)
    queue.key(KeyEvent(keysym=1, down=True))
    queue.key(KeyEvent(keysym=2, down=True))
    await queue.drain()
    received_input.error = None
    queue.key(KeyEvent(keysym=3, down=True))
    assert await received_input.until(1) == [KeyEvent(keysym=3, down=True)]
    assert caplog.text.count("client: input: send monitor: EIO") == 1


async def test_end_of_the_target_ends_the_queue(received_input: RecordingInput) -> None:
    queue = InputQueue(received_input, "client")
    received_input.error = TargetGone("key", "synthetic", "it exited")
    queue.key(KeyEvent(keysym=1, down=True))
    with pytest.raises(TargetGone):
        await queue.run()
