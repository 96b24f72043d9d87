"""`python -m benchmarks.follow URL TRACKER`: a tap in a separate process, whose viewer discards all updates.

So the measured cost is scanning, reading, comparing and converting, without a protocol. With TRACKER `blind`
nothing is tracked: the whole screen is read, compared and converted at a tap's rate. A writer loses memory
bandwidth and CPU cache to that, and nothing to tracking.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.rest import Spent, family, spent
from support.testbed.errors import TestbedError
from support.testbed.supervise import spawn, stop
from vramtap.display.screen import Screen
from vramtap.errors import VramtapError
from vramtap.pages import PageRuns
from vramtap.tap.tap import Tap
from vramtap.tap.timings import DEFAULT_TIMINGS
from vramtap.targets.open import open_target

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

BLIND: Final = "blind"
_ROOT: Final = Path(__file__).resolve().parents[1]


class Follower:
    """The tap's process.

    Args:
        process: Has printed its first line.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def stats(self) -> dict[str, Any]:
        """Return the tap's statistics."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"stats\n")
        self._process.stdin.flush()
        return self._line()

    def spent(self) -> Spent:
        """Return what the tap and its helpers have spent so far."""
        return spent(family(self._process.pid))

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise TestbedError(f"follow: the process ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def follower(url: str, tracker: str) -> Iterator[Follower]:
    """Tap a target in a separate process until the block ends.

    Raises:
        TestbedError: The target cannot be tapped with this tracker.
    """
    argv = [sys.executable, "-m", "benchmarks.follow", url, tracker]
    paths = os.pathsep.join([str(_ROOT), *filter(None, sys.path)])
    process = spawn(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PYTHONPATH": paths})
    try:
        follower = Follower(process)
        follower._line()
        yield follower
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    finally:
        stop(process)


async def _main(url: str, tracker: str) -> None:
    following = _follow_blindly(url) if tracker == BLIND else _follow(url, tracker)
    await following


async def _follow(url: str, tracker: str) -> None:
    async with Tap(open_target(url), tracker=tracker) as tap:

        async def watch() -> None:
            async for _ in tap.changes():
                pass

        await _answer_stats(watch(), tap.stats.as_dict)


async def _follow_blindly(url: str) -> None:
    """Read the whole screen at a tap's interval, or as often as a tap's limit on CPU time allows."""
    scans, screen = 0, Screen()
    async with open_target(url) as target:
        mode = await target.mode()
        if mode is None:
            raise VramtapError("follow", url, "shows no linear mode")
        screen.set_mode(mode)
        loop, all_pages = asyncio.get_running_loop(), PageRuns.full(target.extent.pages)

        async def watch() -> None:
            nonlocal scans
            due_s = loop.time()
            while True:
                began_s = loop.time()
                screen.refresh(target.extent, all_pages)
                scans += 1
                due_s = max(
                    due_s + DEFAULT_TIMINGS.interval_s,
                    began_s + (loop.time() - began_s) / DEFAULT_TIMINGS.max_duty,
                )
                await asyncio.sleep(due_s - loop.time())

        await _answer_stats(watch(), lambda: {"tracker": BLIND, "polls": scans})


async def _answer_stats(watch: Coroutine[None, None, None], stats: Callable[[], dict[str, object]]) -> None:
    """Run `watch` until standard input ends; answer each line of standard input with the statistics."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    watching = asyncio.create_task(watch)
    print(json.dumps(stats()), flush=True)
    while await reader.readline():
        if watching.done():
            raise VramtapError("follow", "the tap", "has ended", "see its log above")
        print(json.dumps(stats()), flush=True)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


if __name__ == "__main__":
    try:
        asyncio.run(_main(*sys.argv[1:3]))
    except VramtapError as error:
        sys.exit(f"follow: {error}")
