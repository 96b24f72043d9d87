"""Small tools for threads and callbacks: `run_in_thread` and `Observers`."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
CallbackT = TypeVar("CallbackT", bound="Callable[..., object]")


async def run_in_thread(work: Callable[[], T], give_back: Callable[[T], None]) -> T:
    """Run a blocking function in a thread and return its result.

    A thread cannot be cancelled. If the caller is cancelled meanwhile, the function runs on, and its result
    is passed to `give_back`, so that a descriptor or an attached tracker is not leaked.

    Args:
        work: The blocking function.
        give_back: Releases the result of `work` when no caller is left to take it.

    Raises:
        Exception: whatever `work` raises.
    """
    working = asyncio.create_task(asyncio.to_thread(work))

    def release(done: asyncio.Task[T]) -> None:
        if not done.cancelled() and done.exception() is None:
            give_back(done.result())

    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        # Release the result now or, if this task is cancelled a second time, when the thread ends.
        working.add_done_callback(release)
        await asyncio.wait([working])
        raise


class Observers(Generic[CallbackT]):
    """The callbacks that one event calls, in the order in which they were added.

    An object offers an event by a method `watch(callback)` that calls `add` here, instead of an attribute
    that others assign. Adding and removing are safe from any thread; the owner calls `notify`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: tuple[CallbackT, ...] = ()

    def add(self, callback: CallbackT) -> Callable[[], None]:
        """Add a callback.

        Returns:
            A function that removes it; harmless when called twice.
        """
        with self._lock:
            self._callbacks += (callback,)

        def remove() -> None:
            with self._lock:
                self._callbacks = tuple(other for other in self._callbacks if other is not callback)

        return remove

    def snapshot(self) -> tuple[CallbackT, ...]:
        """Return the callbacks as they are now."""
        return self._callbacks

    def notify(self, *arguments: object) -> None:
        """Call every callback with these arguments, in the caller's thread.

        A callback that another one removes meanwhile is still called.
        """
        for callback in self._callbacks:
            callback(*arguments)
