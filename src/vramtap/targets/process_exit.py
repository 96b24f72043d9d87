"""Waits until a process ends."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Coroutine

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


async def process_or_connection_ended(
    process: PidFd, connection_ended: Coroutine[object, object, object], *, grace_s: float
) -> bool:
    """Wait until a process ends or a connection to it is lost.

    A process that exits closes its connections a moment earlier. So after a lost connection the process
    gets a while to end.

    Args:
        process: The process.
        connection_ended: Returns when the connection is lost.
        grace_s: How long to wait for the end of the process then, seconds.

    Returns:
        Whether the process has ended.
    """
    exited = asyncio.create_task(process_ended(process))
    lost = asyncio.create_task(connection_ended)
    try:
        await asyncio.wait([exited, lost], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([exited], timeout=grace_s)
        return exited.done()
    finally:
        exited.cancel()
        lost.cancel()
