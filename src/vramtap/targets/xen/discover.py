"""Finds the Xen domains of this machine by their entries in xenstore."""

from __future__ import annotations

import collections
import os

from vramtap.errors import VramtapError
from vramtap.targets.discovered import Discovered
from vramtap.targets.url import format_url
from vramtap.xen.domains import Domain, domains, qmp_socket
from vramtap.xen.library import in_dom0
from vramtap.xen.xenstore import Xenstore


def xen_targets() -> list[Discovered]:
    """List the domains of this machine, by id; no device model is connected to.

    Returns:
        Every domain except dom0. Where they cannot be listed, one entry that says what is missing. Empty
        unless vramtap runs in dom0.
    """
    if not in_dom0():
        return []
    try:
        with Xenstore() as store:
            found = domains(store)
    except VramtapError as error:
        reason = f"{error.reason}: {error.remedy}"
        return [Discovered(url="xen:DOMAIN", kind="xen", description="Xen", reason=reason)]
    names = collections.Counter(domain.name for domain in found)
    return [_xen_target(domain, unique=names[domain.name] == 1) for domain in found]


def _xen_target(domain: Domain, *, unique: bool) -> Discovered:
    # A name of digits alone would be taken for an id.
    by_name = unique and domain.name and not domain.name.isdecimal()
    reason = ""
    if not domain.model_pid:
        reason = "it has no device model in dom0: PV, PVH, or one in a stub domain"
    elif not os.access(qmp_socket(domain.domid), os.W_OK):
        reason = "no write permission on its device model's QMP socket; run as root in dom0"
    return Discovered(
        url=format_url("xen", domain.name if by_name else str(domain.domid)),
        kind="xen",
        description=f"Xen domain {domain.name} (id {domain.domid})",
        pid=domain.model_pid,
        reason=reason,
    )
