"""Work in a thread: what it made reaches the caller or is given back, once."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from vramtap.concurrency import run_in_thread

HANG_S = 30


class Slow:
    """Work that goes on until it is let."""

    def __init__(self, error: Exception | None = None) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()
        self.error = error
        self.given_back: list[str] = []
        self.back = asyncio.Event()

    def work(self) -> str:
        self.began.set()
        assert self.may_end.wait(HANG_S)
        if self.error is not None:
            raise self.error
        return "made"

    def let_go(self, made: str) -> None:
        self.given_back.append(made)
        self.back.set()


async def begun(slow: Slow) -> asyncio.Task[str]:
    task = asyncio.create_task(run_in_thread(slow.work, slow.let_go))
    assert await asyncio.to_thread(slow.began.wait, HANG_S)
    return task


async def test_result_is_returned() -> None:
    slow = Slow()
    slow.may_end.set()
    assert await run_in_thread(slow.work, slow.let_go) == "made"
    assert not slow.given_back


async def test_exception_is_raised() -> None:
    slow = Slow(ValueError("no"))
    slow.may_end.set()
    with pytest.raises(ValueError, match="no"):
        await run_in_thread(slow.work, slow.let_go)
    assert not slow.given_back


async def test_cancelled_caller_waits_and_the_result_is_given_back() -> None:
    slow = Slow()
    task = await begun(slow)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    slow.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await slow.back.wait()
    assert slow.given_back == ["made"]


async def test_result_is_given_back_after_a_second_cancellation() -> None:
    slow = Slow()
    task = await begun(slow)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not slow.given_back
    slow.may_end.set()
    await asyncio.wait_for(slow.back.wait(), HANG_S)
    assert slow.given_back == ["made"]


@pytest.mark.parametrize("times", [1, 2])
async def test_failed_work_of_a_cancelled_caller_gives_nothing_back(times: int) -> None:
    slow = Slow(ValueError("not raised to any caller"))
    task = await begun(slow)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    slow.may_end.set()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    # The thread's result comes through the loop: once it has been turned, all that would be called has been.
    await asyncio.to_thread(lambda: None)
    await asyncio.sleep(0)
    assert not slow.given_back
