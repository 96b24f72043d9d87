"""Fixtures of the contract tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.armed import (
    Armed,
    anonymous,
    attached,
    memfd,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from support.scribe import Scribe


@pytest.fixture(params=[anonymous, memfd], ids=lambda p: p.__name__)
def armed(request: pytest.FixtureRequest) -> Iterator[Armed]:
    make: Callable[[], AbstractContextManager[Scribe]] = request.param
    with make() as scribe, attached(scribe) as made:
        made.start()
        yield made


@pytest.fixture
def armed_anonymous() -> Iterator[Armed]:
    with anonymous() as scribe, attached(scribe) as made:
        made.start()
        yield made
