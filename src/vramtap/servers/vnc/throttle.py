"""Throttle: makes an address wait after several wrong passwords."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

FREE_FAILURES: Final = 5
"""Wrong passwords that cost no wait: people mistype."""
FIRST_WAIT_S: Final = 5.0
"""Wait after the next wrong password, seconds. Each further one doubles it."""
MAX_WAIT_S: Final = 300.0
"""Longest wait, seconds. At this pace trying the 2**48 likely passwords takes millions of years."""
MAX_ADDRESSES: Final = 1024
"""Addresses in the table. A new one replaces the address whose last failure is the oldest."""
_IPV6_NETWORK_BITS: Final = 64
"""Prefix length that counts as one address: one subscriber owns such a network (RFC 6177)."""


class Throttle:
    """Counts wrong passwords by address.

    Args:
        clock: Returns monotonic time, seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Return how many seconds this address has to wait before its next try."""
        _, until_s = self._failures.get(_network(address), (0, 0.0))
        return max(0.0, until_s - self._clock())

    def record_failure(self, address: str) -> None:
        """Count a wrong password from this address."""
        network = _network(address)
        count = self._failures.pop(network, (0, 0.0))[0] + 1
        beyond = count - FREE_FAILURES
        wait_s = 0.0 if beyond <= 0 else min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** min(beyond - 1, 16))
        self._failures[network] = (count, self._clock() + wait_s)
        while len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)

    def record_success(self, address: str) -> None:
        """Forget the failures of an address that gave the right password."""
        self._failures.pop(_network(address), None)


def _network(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or an IPv6 network."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 4:
        return address
    return str(ipaddress.ip_network((ip, _IPV6_NETWORK_BITS), strict=False))
