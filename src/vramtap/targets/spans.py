"""Which addresses of a process can be read without a gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vramtap.linux.procfs import Mapping


def readable_end(mappings: Iterable[Mapping], start: int) -> int:
    """How far a process's memory is mapped and readable without a gap.

    Args:
        mappings: By address; neighbours may differ in all but being readable, as when a write log has
            split one of them.
        start: First address.

    Returns:
        The first address past `start` that is not readable; `start` itself if it is not.
    """
    at = start
    for mapping in mappings:
        if mapping.start <= at < mapping.end and mapping.perms.startswith("r"):
            at = mapping.end
    return at
