"""Fixtures of the tests of the tracker `xen`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support.xen_domain import XenDomain

PAGES = 64
TRACK = "xendevicemodel_track_dirty_vram"
Make = Callable[..., XenDomain]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[XenDomain] = []

    def begin(pages: int = PAGES, *, hap: bool = True) -> XenDomain:
        made.append(XenDomain(pages=pages, hap=hap))
        return made[-1]

    yield begin
    for domain in made:
        domain.close()
