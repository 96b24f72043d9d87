"""`Target`: the interface of everything that can be tapped."""

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
    """A screen that can be tapped: its memory, its mode, its input, its end.

    An async context manager. `extent` and `input` exist once it is entered.
    """

    url: str
    """The TARGET string, as the user wrote it."""
    extent: Extent
    """The memory that contains the framebuffer."""
    input: Input | None
    """Keyboard and pointer; None if the target takes no input."""
    tolerates_injection: bool
    """Whether the target's own seccomp filter, if it has one, is known to allow the injected system call."""
    announces_mode: bool
    """Whether every change of the mode or palette announces itself; final once attached.

    If so, `mode` need not be called at a rate: the target calls the callbacks of `watch` after the change, or
    the change writes a page of the scanout (`Mode.window`)."""

    async def __aenter__(self) -> Self:
        """Attach.

        Raises:
            AttachError: the target cannot be tapped; the message says why and what would help.
        """
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach, and leave the target as it was found."""
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
        """Return the current mode; None while the screen shows something that is not a linear framebuffer.

        This is cheap enough for a call after each event and at a low rate. The mode lies within the extent:
        if a hostile guest fills its registers with nonsense, the answer is None, not an exception.

        Raises:
            TargetGone: the target has ended.
        """
        ...

    async def snapshot(self) -> NDArray[np.uint32]:
        """Return the whole screen by means other than its memory, for the times when `mode` is None.

        Returns:
            Shape `(height, width)`, `0x00RRGGBB`.

        Raises:
            NotTappable: the target has no other means.
            TargetGone: the target has ended.
        """
        ...

    async def gone(self) -> str:
        """Wait until the target ends.

        Returns:
            What happened, in one clause (`QEMU (pid 812) exited`).
        """
        ...
