"""An event loop whose clock jumps: a minute of waiting is over at once, and what happens when is exact."""

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
"""Of real time, in which nothing was ready and no timer set: nothing will ever happen."""


class _JumpingSelector(selectors.SelectSelector):
    """Does not wait for a timer, but moves the clock to it, unless threads are at work that may be first."""

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
        assert ready or timeout == 0, "nothing is ready, nothing is due: this waits for ever"
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Tells the jumping clock's time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds since some beginning."""
        return self._jumping.now_s

    def pass_time(self, seconds: float) -> None:
        """Let code that does not wait have taken this long."""
        self._jumping.now_s += seconds

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., Any], *args: object
    ) -> asyncio.Future[Any]:
        """Hold the clock while a thread works."""
        future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        self._jumping.threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: asyncio.Future[Any]) -> None:
        self._jumping.threads -= 1


def pass_time(seconds: float) -> None:
    """`VirtualLoop.pass_time` of the loop that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.pass_time(seconds)


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a coroutine a test that runs in a `VirtualLoop`."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run
