"""PaintedTarget: a target in memory of this process, whose screen the test writes."""

from __future__ import annotations

import asyncio
import mmap
from typing import TYPE_CHECKING, Self

import numpy as np

from vramtap.concurrency import Observers
from vramtap.display.mode import Mode
from vramtap.errors import NotTappable
from vramtap.memory.own import extent_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from numpy.typing import NDArray

    from vramtap.keyboard.events import Input, KeyEvent, PointerEvent
    from vramtap.memory.extent import Extent

MAX_BYTES = 1920 * 1080 * 4


class Listener:
    """Records key and pointer events."""

    def __init__(self) -> None:
        self.keys: asyncio.Queue[KeyEvent] = asyncio.Queue()
        self.pointers: asyncio.Queue[PointerEvent] = asyncio.Queue()

    async def key(self, event: KeyEvent) -> None:
        self.keys.put_nowait(event)

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        self.pointers.put_nowait(event)

    async def release_all(self) -> None: ...


class PaintedTarget:
    """A target whose memory belongs to the test.

    Args:
        width: Pixels.
        height: Pixels.
        name: Part of its URL after `demo:`.
    """

    def __init__(self, width: int = 640, height: int = 400, name: str = "painted") -> None:
        self.url = f"demo:{name}"
        self.listener = Listener()
        self.input: Input | None = self.listener
        self.tolerates_injection = False
        self.announces_mode = True
        self.activity: Observers[Callable[[], None]] = Observers()
        self._memory = np.frombuffer(mmap.mmap(-1, MAX_BYTES), dtype=np.uint8)
        self.extent: Extent = extent_of(self._memory)[0]
        self._ended = asyncio.get_running_loop().create_future()
        self.resize(width, height)

    @property
    def pixels(self) -> NDArray[np.uint32]:
        """The screen, writable. Shape `(height, width)`, `0x??RRGGBB`."""
        size = self._mode.height * self._mode.stride_bytes
        return self._memory[:size].view(np.uint32).reshape(self._mode.height, self._mode.width)

    def resize(self, width: int, height: int) -> None:
        """Set another mode, as a guest does."""
        self._mode = Mode(width, height, width * 4)
        self.activity.notify()

    def end(self, reason: str) -> None:
        """End the target."""
        self._ended.set_result(reason)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self.activity.add(callback)

    async def mode(self) -> Mode | None:
        return self._mode

    async def snapshot(self) -> NDArray[np.uint32]:
        raise NotTappable("take a picture", self.url, "it exists in memory only")

    async def gone(self) -> str:
        reason: str = await asyncio.shield(self._ended)
        return reason
