"""Throttle: who has given wrong passwords lately, and must wait."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

FREE_FAILURES: Final = 5
"""Wrong passwords before an address has to wait: people mistype."""
FIRST_WAIT_S: Final = 5.0
"""After the next one; each further one doubles it."""
MAX_WAIT_S: Final = 300.0
"""Doubled no further. At this pace the 2**48 passwords that are likely take millions of years."""
MAX_ADDRESSES: Final = 1024
"""Addresses remembered; the one that failed longest ago is forgotten first."""
_IPV6_NETWORK_BITS: Final = 64
"""One subscriber has a whole network of this prefix: it counts as one address (RFC 6177)."""


class Throttle:
    """Counts wrong passwords by address.

    Args:
        clock: Seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """How long this address has to wait before it may try again; 0 if it may now."""
        _, until_s = self._failures.get(_network(address), (0, 0.0))
        return max(0.0, until_s - self._clock())

    def failed(self, address: str) -> None:
        """It gave a wrong password."""
        network = _network(address)
        count = self._failures.pop(network, (0, 0.0))[0] + 1
        beyond = count - FREE_FAILURES
        wait_s = 0.0 if beyond <= 0 else min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** min(beyond - 1, 16))
        self._failures[network] = (count, self._clock() + wait_s)
        while len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)

    def succeeded(self, address: str) -> None:
        """It gave the right one."""
        self._failures.pop(_network(address), None)


def _network(address: str) -> str:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 4:
        return address
    return str(ipaddress.ip_network((ip, _IPV6_NETWORK_BITS), strict=False))
