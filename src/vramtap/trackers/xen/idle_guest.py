"""IdleGuestFilter: decides whether a domain's guest can have written since its log was last read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vramtap.errors import VramtapError

if TYPE_CHECKING:
    from collections.abc import Callable

BACKSTOP_S: Final = 1.0
"""Longest time without reading the log, whatever the CPU time says. CPU time comes from an interface that may
change with Xen's version, and a wrong value must not hide a write for longer."""


class IdleGuestFilter:
    """Compares a domain's CPU time with its value before the log was last read. The caller supplies the time.

    A guest that has not run since then has written nothing, so the call to the hypervisor, which delays the
    guest, is not needed. The CPU time is read before the log: a write between the two reads is in the log's
    answer, and a later write comes with a later CPU time.

    Args:
        cpu_time_ns: Returns the CPU time of a domain; raises `VramtapError` if it is not known.
    """

    def __init__(self, cpu_time_ns: Callable[[int], int]) -> None:
        self._cpu_time_ns = cpu_time_ns
        self._domid = -1
        self._then_ns = 0
        self._fetched_s = float("-inf")
        self._trusted = True

    def before_fetch(self, domid: int, now_s: float) -> bool:
        """Note that the log is about to be read; return whether the guest has not run since the last time."""
        before_ns = self._then_ns if domid == self._domid else 0
        self._domid, self._fetched_s = domid, now_s
        self._then_ns = self._read()
        return before_ns > 0 and self._then_ns == before_ns

    def is_idle(self, now_s: float) -> bool:
        """Return whether the guest has certainly not run since the log was last read."""
        if not self._trusted or now_s - self._fetched_s >= BACKSTOP_S:
            return False
        # A guest that has never run has a CPU time of 0, which says nothing.
        return self._then_ns > 0 and self._read() == self._then_ns

    def distrust(self) -> None:
        """Note that the log had pages although the guest had not run: the value is no CPU time."""
        self._trusted = False

    def _read(self) -> int:
        try:
            return self._cpu_time_ns(self._domid)
        except VramtapError:
            return 0
