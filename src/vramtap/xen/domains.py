"""Domains in xenstore: names, ids and the places of their device models."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vramtap.xen.xenstore import Xenstore

MAX_DOMID: Final = 0x7FEF
"""The highest id of a domain (xen/include/public/xen.h, DOMID_FIRST_RESERVED)."""
_UUID: Final = re.compile(r"/vm/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,10}", re.ASCII)
_MAX_PID: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain.

    Args:
        domid: Domain id; a reboot changes it.
        name: Name in its configuration.
        uuid: UUID, stable over reboots; empty if the toolstack gave none.
        model_pid: Process id of its device model, a QEMU in dom0; 0 without one.
    """

    domid: int
    name: str
    uuid: str
    model_pid: int

    def __str__(self) -> str:
        """Return a description for messages."""
        return f"domain {self.name} (id {self.domid})"


def domain(store: Xenstore, domid: int) -> Domain | None:
    """Return the domain of this id; None if there is none.

    Raises:
        VramtapError: The connection to xenstored is lost.
    """
    place = f"/local/domain/{domid}"
    name = store.read(f"{place}/name")
    if name is None:
        return None
    uuid = _UUID.fullmatch(store.read(f"{place}/vm") or "")
    pid = _number(store.read(f"{place}/image/device-model-pid"), _MAX_PID)
    return Domain(domid, "".join(char for char in name if char.isprintable()), uuid[1] if uuid else "", pid)


def domains(store: Xenstore) -> list[Domain]:
    """Return all domains except dom0, by id.

    Raises:
        VramtapError: The connection to xenstored is lost.
    """
    numbers = sorted(_number(child, MAX_DOMID) for child in store.children("/local/domain"))
    found = (domain(store, domid) for domid in numbers if domid)
    return [each for each in found if each is not None]


def find(store: Xenstore, wanted: str) -> Domain | None:
    """Return the domain that a user names: by id if `wanted` is a number, otherwise by name.

    Of several domains with the name it returns the newest: a domain that ends keeps its name for a while,
    and its successor starts before that.

    Raises:
        VramtapError: The connection to xenstored is lost.
    """
    if _NUMBER.fullmatch(wanted):
        domid = int(wanted)
        return domain(store, domid) if 0 < domid <= MAX_DOMID else None
    named = [each for each in domains(store) if each.name == wanted]
    return named[-1] if named else None


def qmp_socket(domid: int) -> str:
    """Return the path of libxl's monitor of a device model (tools/libs/light, libxl__qemu_qmp_path)."""
    return f"/var/run/xen/qmp-libxl-{domid}"


def qmp_lock(domid: int, uuid: str) -> str:
    """Return the path of the lock file of that monitor (tools/libs/light, libxl__ev_qmplock_init)."""
    return f"/var/lib/xen/userdata-l.{domid}.{uuid}.qmp-socket-lock"


def model_state_path(domid: int) -> str:
    """Return the xenstore path where a device model writes `running` once it serves (libxl; QEMU: hw/xen)."""
    return f"/local/domain/0/device-model/{domid}/state"


def _number(text: str | None, largest: int) -> int:
    """Return a decimal number from 0 to `largest`; 0 for any other text."""
    if text is None or not _NUMBER.fullmatch(text):
        return 0
    return int(text) if int(text) <= largest else 0
