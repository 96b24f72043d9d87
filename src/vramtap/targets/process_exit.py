"""`ProcessExit`: notices the end of a process."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from vramtap.linux.calls import error_for

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from vramtap.linux.pidfd import PidFd


class ProcessExit:
    """Notices the end of a process, for any number of waiters on one event loop.

    It takes its descriptor when it is made, so that a later lack of descriptors has no effect.

    Args:
        process: The process. The caller may close it.

    Raises:
        KernelError: no descriptor is free.
    """

    def __init__(self, process: PidFd) -> None:
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        try:
            self._descriptor = os.dup(process.fileno())
        except OSError as error:
            raise error_for("dup", "pidfd", error.errno or 0) from error
        self._loop.add_reader(self._descriptor, self._on_exit)

    def _on_exit(self) -> None:
        # The descriptor stays readable.
        self._loop.remove_reader(self._descriptor)
        self._ended.set()

    async def wait(self) -> None:
        """Return when the process has ended. After `close` this never returns."""
        await self._ended.wait()

    async def wait_or_lost(
        self, connection_ended: Coroutine[object, object, object], *, grace_s: float
    ) -> bool:
        """Wait until the process ends or a connection to it is lost.

        A process that exits closes its connections a moment earlier. So after a lost connection the process
        gets a while to end.

        Args:
            connection_ended: Returns when the connection is lost.
            grace_s: How long to wait for the end of the process then, seconds.

        Returns:
            Whether the process has ended.
        """
        exited = asyncio.create_task(self.wait())
        lost = asyncio.create_task(connection_ended)
        try:
            await asyncio.wait([exited, lost], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([exited], timeout=grace_s)
            return self._ended.is_set()
        finally:
            exited.cancel()
            lost.cancel()

    def close(self) -> None:
        """Stop watching the process. Harmless when called twice."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
