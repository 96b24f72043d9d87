"""Target: the contract of everything that can be tapped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from vramtap.display.mode import Mode
    from vramtap.keyboard.events import Input
    from vramtap.memory.extent import Extent


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
