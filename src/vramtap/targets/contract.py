"""Target: the contract of everything that can be tapped, and the input events it may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from vramtap.display.mode import Mode
from vramtap.memory.extent import Extent


@dataclass(frozen=True, slots=True)
class KeyEvent:
    """A key going down or up.

    Args:
        keysym: X11 keysym, as RFB carries it (RFC 6143, 7.5.4).
        scancode: XT set 1 scancode with 0x80 set for the 0xE0-prefixed ones, as the QEMU extended
            key event carries it; 0 where the client did not send one.
        down: Pressed, or released.
    """

    keysym: int
    down: bool
    scancode: int = 0


@dataclass(frozen=True, slots=True)
class PointerEvent:
    """Where the pointer is and which buttons are held.

    Args:
        x: Column in pixels, from the left; already clamped to the screen.
        y: Row in pixels, from the top.
        buttons: RFB's mask: bit 0 left, 1 middle, 2 right, 3 wheel up, 4 wheel down, 5 and 6 wheel
            left and right (RFC 6143, 7.5.5).
    """

    x: int
    y: int
    buttons: int


class Input(Protocol):
    """The keyboard and pointer of a target."""

    async def key(self, event: KeyEvent) -> None:
        """Press or release a key; a key the target does not know is dropped with a log line."""
        ...

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        """Move the pointer and set the buttons, on a screen of this size in pixels."""
        ...

    async def release_all(self) -> None:
        """Let go of every key and button still held: the client that held them is gone."""
        ...


class Target(Protocol):
    """A machine that is tapped: whose memory, which part, in which geometry. An async context manager."""

    url: str
    """As the user wrote it."""
    extent: Extent
    """The memory its scanout lies in."""
    input: Input | None
    """Its keyboard and pointer, if it takes any."""
    tolerates_injection: bool
    """Whether its own seccomp filter, if it has one, is known to allow the injected call."""
    announces_mode: bool
    """Once attached: whether nothing but an event changes its geometry or palette, so that `mode` need not be
    asked at a rate. Either `on_activity` is called after the change, or a page of the scanout (`Mode.window`)
    is written by it."""
    on_activity: Callable[[], None]
    """Set by the tap; the target calls it when something happened that no page write shows (a reset)."""

    async def __aenter__(self) -> Self:
        """Attach.

        Raises:
            AttachError: it cannot be tapped; says why and what would help.
        """
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach, leaving it as it was found."""
        ...

    async def mode(self) -> Mode | None:
        """The geometry now; None while it shows something that is no linear framebuffer.

        Cheap enough to be asked on activity and at a low rate. The answer is bounded by the extent:
        registers a hostile guest has filled with nonsense give None, not an exception.

        Raises:
            TargetGone: it has ended.
        """
        ...

    async def snapshot(self) -> NDArray[np.uint32]:
        """The whole screen by other means, while `mode` is None.

        Returns:
            Shape `(height, width)`, `0x00RRGGBB`.

        Raises:
            NotTappable: there is no other means.
            TargetGone: it has ended.
        """
        ...

    async def gone(self) -> str:
        """Wait until the target ends.

        Returns:
            What happened, in one clause (`QEMU (pid 812) exited`).
        """
        ...
