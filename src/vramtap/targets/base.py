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
    """Whether every change of the mode or palette announces itself; final once attached.

    If so, `mode` need not be called at a rate: the target calls the callbacks of `watch` after the change, or
    the change writes a page of the scanout (`Mode.window`)."""

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

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` on the event loop after each event that no page write shows, such as a reset.

        Args:
            callback: Must not block.

        Returns:
            A function that removes the callback; harmless when called twice.
        """
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
