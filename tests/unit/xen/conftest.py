"""The fake Xen that these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.fake_xen.host import FakeXen, fake_xen


@pytest.fixture
def xen() -> Iterator[FakeXen]:
    with fake_xen() as xen:
        yield xen
