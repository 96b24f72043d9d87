"""The Xen domains of this machine, by what xenstore says of them; no device model is connected to."""

from __future__ import annotations

import collections
import os
from urllib.parse import quote

from vramtap.errors import VramtapError
from vramtap.targets.discovered import PLAIN, Discovered
from vramtap.xen.domains import Domain, domains, qmp_socket
from vramtap.xen.library import in_dom0
from vramtap.xen.xenstore import Xenstore


def xen_targets() -> list[Discovered]:
    """The domains of this machine, if we are in the one that controls them.

    Returns:
        An entry for each domain but dom0; one that says what is missing, where they cannot be listed.
    """
    if not in_dom0():
        return []
    try:
        with Xenstore() as store:
            found = domains(store)
    except VramtapError as error:
        return [Discovered("xen:DOMAIN", "Xen", 0, False, f"{error.reason}: {error.remedy}")]
    names = collections.Counter(domain.name for domain in found)
    return [_xen_target(domain, names[domain.name] == 1) for domain in found]


def _xen_target(domain: Domain, unique: bool) -> Discovered:
    # A name of digits alone would be taken for an id.
    by_name = unique and domain.name and not domain.name.isdecimal()
    url = f"xen:{quote(domain.name, safe=PLAIN) if by_name else domain.domid}"
    what = f"Xen domain {domain.name} (id {domain.domid})"
    why = ""
    if not domain.model_pid:
        why = "it has no device model in dom0: PV, PVH, or one in a stub domain"
    elif not os.access(qmp_socket(domain.domid), os.W_OK):
        why = "no write permission on its device model's QMP socket; run as root in dom0"
    return Discovered(url, what, domain.model_pid, not why, why)
