"""What the tests of X11 targets share: targets, their pictures, and clients of a server."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import xcffib
import xcffib.randr
import xcffib.xproto

from vramtap.display.screen import Screen
from vramtap.pages import PageRuns
from vramtap.targets.url import parse
from vramtap.targets.x11.target import X11Target, X11Timeouts

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

_randr: Final[Any] = xcffib.randr


def target_of(url: str, *, timeouts: X11Timeouts | None = None) -> X11Target:
    """Return the target of a TARGET string."""
    return X11Target(parse(url), timeouts=timeouts)


async def picture(target: X11Target) -> NDArray[np.uint32]:
    """Return what the target shows. All pages are read again."""
    mode = await target.mode()
    assert mode is not None
    screen = Screen()
    screen.set_mode(mode)
    screen.refresh(target.extent, PageRuns.full(target.extent.pages))
    return screen.pixels.copy()


@contextlib.contextmanager
def x_connection(display: str) -> Iterator[Any]:
    """Connect to a display with xcffib during the block."""
    connect: Any = xcffib.connect
    connection = connect(display)
    try:
        yield connection
    finally:
        connection.disconnect()


def resize(connection: Any, width: int, height: int) -> None:  # noqa: ANN401 - xcffib is not typed
    """Resize the screen as a client of RANDR does; return when it is done."""
    root = connection.get_setup().roots[0].root
    control = connection(_randr.key)
    control.QueryVersion(1, 5).reply()
    resources = control.GetScreenResources(root).reply()
    # The output does not fit a smaller screen, so it is switched off first.
    stamp = resources.config_timestamp
    control.SetCrtcConfig(resources.crtcs[0], 0, stamp, 0, 0, 0, 1, 0, []).reply()
    control.SetScreenSizeChecked(root, width, height, 100, 80).check()
