"""`process_ended`: waits until a process ends."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vramtap.linux.pidfd import PidFd


async def process_ended(process: PidFd) -> None:
    """Return when a process has ended.

    Args:
        process: May be closed while this waits, and may have any number of waiters.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    # A duplicate, because a loop takes one reader per descriptor, and `process` may be closed meanwhile.
    descriptor = os.dup(process.fileno())
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
