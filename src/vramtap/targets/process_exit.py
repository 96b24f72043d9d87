"""Waiting until a process ends."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vramtap.linux.pidfd import PidFd


async def process_ended(process: PidFd) -> None:
    """Return when a process has ended.

    Args:
        process: Which; may be closed meanwhile, and be waited for by others.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    # A duplicate: a loop takes one reader a descriptor, and the number outlives the owner's close().
    descriptor = os.dup(process.fileno())
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
