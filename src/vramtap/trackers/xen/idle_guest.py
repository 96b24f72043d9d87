"""IdleGuestFilter: whether a domain's guest can have written anything since its log was last asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vramtap.errors import VramtapError

if TYPE_CHECKING:
    from collections.abc import Callable

BACKSTOP_S: Final = 1.0
"""The log is asked so often whatever the processor time says: it is read by an interface that may change with
Xen's version, and a wrong reading must not hide a write for longer."""


class IdleGuestFilter:
    """Compares a domain's processor time with what it was before the log was asked.

    A guest that has not run since has written nothing, and a question to the hypervisor, which would hold it
    up, can be left out. The time is read before the log is asked: what is written between the two is in the
    answer, what is written after is after the time. Seconds of whoever's clock.

    Args:
        cpu_time_ns: The processor time of a domain; raises `VramtapError` where it is not to be had.
    """

    def __init__(self, cpu_time_ns: Callable[[int], int]) -> None:
        self._cpu_time_ns = cpu_time_ns
        self._domid = -1
        self._then_ns = 0
        self._asked_s = float("-inf")
        self._credible = True

    def asking(self, domid: int, now_s: float) -> bool:
        """The log is about to be asked; returns whether the guest is said not to have run since before."""
        before_ns = self._then_ns if domid == self._domid else 0
        self._domid, self._asked_s = domid, now_s
        self._then_ns = self._read()
        return before_ns > 0 and self._then_ns == before_ns

    def sure(self, now_s: float) -> bool:
        """Whether the guest has not run since, for certain."""
        if not self._credible or now_s - self._asked_s >= BACKSTOP_S:
            return False
        # A guest that has never run has no time by which to tell.
        return self._then_ns > 0 and self._read() == self._then_ns

    def contradicted(self) -> None:
        """The log has named pages although the guest had not run: what is read is no such time."""
        self._credible = False

    def _read(self) -> int:
        try:
            return self._cpu_time_ns(self._domid)
        except VramtapError:
            return 0
