"""Event loop with a virtual clock: a wait of a minute takes no real time, and all times are exact."""

from __future__ import annotations

import asyncio
import functools
import selectors
from typing import TYPE_CHECKING, Any, Final, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor

P = ParamSpec("P")

_HANG_S: Final = 30.0
"""Real time without a ready event or a timer after which the loop raises: the test would hang, s."""


class _JumpingSelector(selectors.SelectSelector):
    """Selector that sets the clock to the next timer instead of waiting. It waits while threads work."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and not self.threads:
            ready = super().select(0)
            if not ready:
                self.now_s += max(timeout, 0)
            return ready
        ready = super().select(_HANG_S if timeout != 0 else 0)
        assert ready or timeout == 0, "no event is ready and no timer is set: the test hangs"
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Event loop that uses the virtual clock."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual time, s."""
        return self._jumping.now_s

    def pass_time(self, seconds: float) -> None:
        """Advance the clock by the time that code takes without waiting, s."""
        self._jumping.now_s += seconds

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., Any], *args: object
    ) -> asyncio.Future[Any]:
        """Run in a thread. The clock stands still meanwhile."""
        future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        self._jumping.threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: asyncio.Future[Any]) -> None:
        self._jumping.threads -= 1


def pass_time(seconds: float) -> None:
    """Call `VirtualLoop.pass_time` of the running loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.pass_time(seconds)


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Decorate a coroutine so that it runs as a test in a `VirtualLoop`."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
