"""Fixtures of all tests: real guests, and the length of random tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from support.testbed.guest import Guest

if TYPE_CHECKING:
    from collections.abc import Iterator

# The time of an example depends on the load of the machine, so no deadline.
settings.register_profile("vramtap", deadline=None)
settings.load_profile("vramtap")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stress",
        type=int,
        default=1,
        metavar="N",
        help="let the random tests run N times as long (default 1)",
    )


@pytest.fixture
def stress(request: pytest.FixtureRequest) -> int:
    """Factor by which a random test multiplies its rounds; 1 in CI."""
    factor: int = request.config.getoption("--stress")
    return factor


class _Shared:
    """The guest that most tests share. The first test that needs it boots it."""

    def __init__(self) -> None:
        self._guest: Guest | None = None

    def get(self) -> Guest:
        """Return the guest in its state after boot. Boot a new one if a test has ended it."""
        if self._guest is not None and not self._guest.running:
            self.stop()
        if self._guest is None:
            self._guest = Guest().__enter__()
        self._guest.restore()
        return self._guest

    def stop(self) -> None:
        if self._guest is not None:
            self._guest.stop()
            self._guest = None


@pytest.fixture(scope="session")
def _shared_guest() -> Iterator[_Shared]:
    shared = _Shared()
    yield shared
    shared.stop()


@pytest.fixture
def guest(_shared_guest: _Shared) -> Guest:
    """A real guest at 1024x768x32 whose screen is empty and still.

    Its methods block. A coroutine must call them through `asyncio.to_thread`; otherwise the tap under test,
    which runs in the same loop, does not run while the guest draws.
    """
    return _shared_guest.get()


@pytest.fixture
def fresh_guest() -> Iterator[Guest]:
    """A new guest for one test, just booted. The test may reset, stop or kill it."""
    with Guest() as guest:
        yield guest
