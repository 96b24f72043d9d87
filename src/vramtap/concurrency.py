"""Work in a thread, whose result is given back if nobody waits for it any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def aside(work: Callable[[], T], let_go: Callable[[T], None]) -> T:
    """Do something slow in a thread.

    Args:
        work: What to do; a thread cannot be cancelled, so it goes on whatever becomes of the caller.
        let_go: Gives back what it made, where the caller was cancelled meanwhile.

    Returns:
        What it made.

    Raises:
        Exception: whatever `work` raises.
    """
    working = asyncio.create_task(asyncio.to_thread(work))

    def give_back(done: asyncio.Task[T]) -> None:
        if not done.cancelled() and done.exception() is None:
            let_go(done.result())

    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        # While we wait for it or, if we are cancelled once more, as soon as it is done.
        working.add_done_callback(give_back)
        await asyncio.wait([working])
        raise
