"""What all tests share: real guests, and how long the random tests run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from support.testbed.guest import Guest

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long an example takes depends on what else the machine does.
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
    """By how much a random test multiplies its rounds; 1 is what CI holds a change to."""
    factor: int = request.config.getoption("--stress")
    return factor


class _Shared:
    """The guest that most tests share, booted when the first of them needs it."""

    def __init__(self) -> None:
        self._guest: Guest | None = None

    def get(self) -> Guest:
        """It, in the state after boot; another one if a test has ended it."""
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

    Its methods block: in a coroutine call them through `asyncio.to_thread`, or the tap under test,
    which runs in the same loop, stands still while the guest draws.
    """
    return _shared_guest.get()


@pytest.fixture
def fresh_guest() -> Iterator[Guest]:
    """A guest of the test's own, just booted, that it may reset, stop or kill."""
    with Guest() as guest:
        yield guest
