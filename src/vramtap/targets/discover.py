"""`discover`: lists the screens on this machine, without disturbing any of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vramtap.targets.qemu.discover import qemu_targets
from vramtap.targets.xen.discover import xen_targets

if TYPE_CHECKING:
    from vramtap.targets.discovered import Discovered

log: logging.Logger = logging.getLogger(__name__)


def discover() -> list[Discovered]:
    """List the screens on this machine that this user can see.

    QEMU is recognised by its arguments, a Xen domain by its entries in xenstore, and an X server by the
    process that listens at its socket. vramtap does not connect to a QEMU monitor: a monitor serves one
    client at a time, and would be taken from its user.

    Returns:
        QEMU guests by pid, then Xen domains by id, then X displays by number. A process that may not be
        examined is left out, with a log message.
    """
    return [*qemu_targets(), *xen_targets(), *_x_targets()]


def _x_targets() -> list[Discovered]:
    try:
        from vramtap.targets.x11.discover import x_targets
    except (ImportError, OSError) as error:
        # A dom0 or a server may lack libxcb; its guests must be listed all the same.
        log.info("X displays are not listed: %s", error)
        return []
    return x_targets()
