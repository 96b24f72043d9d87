"""Runs a block as a user that owns nothing."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from support.testbed.require import require

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY: Final = 65534
"""The overflow user and group (kernel: include/linux/highuid.h)."""


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run the block as the user and group nobody, without further groups."""
    require(os.geteuid() == 0, "changing the user needs root")
    before = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)
