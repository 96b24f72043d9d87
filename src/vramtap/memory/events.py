"""WriteEvents and Waker: how an idle tracker waits for a write without polling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Waker(Protocol):
    """A wait for the first write, under way."""

    @property
    def fd(self) -> int | None:
        """Descriptor that becomes readable at the first write; None if the callback is called instead."""
        ...

    def cancel(self) -> None:
        """End the wait; the caller calls it exactly once, before the next collect, restore or stop."""
        ...


class WriteEvents(Protocol):
    """Events of an address space that accompany every write to it."""

    @property
    def idle_after_s(self) -> float:
        """Time without a change after which a watch pays for its set-up, seconds."""
        ...

    def watch(self, poll: Callable[[], bool], callback: Callable[[], None], interval_s: float) -> Waker:
        """Poll whenever the memory may have been written, until a poll returns True; then call back once.

        Args:
            poll: Returns whether something was written. Any thread may call it, never two at a time. It must
                not raise.
            callback: Called once, by any thread. It must neither raise nor wait.
            interval_s: Time between two polls while writes may happen at any moment.

        Raises:
            RuntimeError: no thread can be started.
            KernelError: no descriptor is left.
        """
        ...
