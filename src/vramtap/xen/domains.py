"""Domains as xenstore lists them: names, ids, and where their device models are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vramtap.xen.xenstore import Xenstore

MAX_DOMID: Final = 0x7FEF
"""The highest id a domain is given (xen/include/public/xen.h, DOMID_FIRST_RESERVED)."""
_UUID: Final = re.compile(r"/vm/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,10}", re.ASCII)
_MAX_PID: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain.

    Args:
        domid: Its id, which it loses when it reboots.
        name: As its configuration calls it.
        uuid: Which it keeps; empty if the toolstack gave none.
        model_pid: Process of its device model, a QEMU in dom0; 0 if it has none there.
    """

    domid: int
    name: str
    uuid: str
    model_pid: int

    def __str__(self) -> str:
        """As messages call it."""
        return f"domain {self.name} (id {self.domid})"


def domain(store: Xenstore, domid: int) -> Domain | None:
    """The domain of this id; None if there is none.

    Raises:
        VramtapError: xenstore is lost.
    """
    place = f"/local/domain/{domid}"
    name = store.read(f"{place}/name")
    if name is None:
        return None
    uuid = _UUID.fullmatch(store.read(f"{place}/vm") or "")
    pid = _number(store.read(f"{place}/image/device-model-pid"), _MAX_PID)
    return Domain(domid, "".join(char for char in name if char.isprintable()), uuid[1] if uuid else "", pid)


def domains(store: Xenstore) -> list[Domain]:
    """All domains but dom0, by id.

    Raises:
        VramtapError: xenstore is lost.
    """
    numbers = sorted(_number(child, MAX_DOMID) for child in store.children("/local/domain"))
    found = (domain(store, domid) for domid in numbers if domid)
    return [each for each in found if each is not None]


def find(store: Xenstore, wanted: str) -> Domain | None:
    """The domain a user means: by id if it is a number, else by name; the newest where several bear it.

    A domain that is on its way out keeps its name for a while, and the next begins before it has gone.

    Raises:
        VramtapError: xenstore is lost.
    """
    if _NUMBER.fullmatch(wanted):
        domid = int(wanted)
        return domain(store, domid) if 0 < domid <= MAX_DOMID else None
    named = [each for each in domains(store) if each.name == wanted]
    return named[-1] if named else None


def qmp_socket(domid: int) -> str:
    """The monitor that libxl keeps of a domain's device model (tools/libs/light, libxl__qemu_qmp_path)."""
    return f"/var/run/xen/qmp-libxl-{domid}"


def qmp_lock(domid: int, uuid: str) -> str:
    """The lock by which libxl shares that monitor (tools/libs/light, libxl__ev_qmplock_init)."""
    return f"/var/lib/xen/userdata-l.{domid}.{uuid}.qmp-socket-lock"


def model_state_path(domid: int) -> str:
    """Where a device model says `running` once it serves its domain (libxl; QEMU: hw/xen)."""
    return f"/local/domain/0/device-model/{domid}/state"


def _number(text: str | None, largest: int) -> int:
    """A decimal number from 0 to `largest`; 0 for anything else."""
    if text is None or not _NUMBER.fullmatch(text):
        return 0
    return int(text) if int(text) <= largest else 0
