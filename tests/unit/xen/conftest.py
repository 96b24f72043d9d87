"""Fixture: the fake Xen host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.fake_xen.host import FakeXen, fake_xen

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def xen() -> Iterator[FakeXen]:
    with fake_xen() as xen:
        yield xen
