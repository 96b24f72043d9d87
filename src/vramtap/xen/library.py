"""Xen's shared libraries: loading them, silencing them, and the one place where their errno becomes ours."""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Self

from vramtap.errors import KernelError, NotFound, Refused, TargetGone, Unsupported, VramtapError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

PRIVCMD: Final = Path("/dev/xen/privcmd")
"""What the libraries make hypercalls through (Linux: drivers/xen/privcmd.c)."""
CAPABILITIES: Final = Path("/proc/xen/capabilities")
"""Says `control_d` in the domain that may control others (Linux: drivers/xen/xenfs)."""
_XTL_CRITICAL: Final = 9
"""The highest level of libxentoollog (xentoollog.h, enum xentoollog_level)."""
REMEDY_DOM0: Final = "run as root in Xen's dom0"


@dataclass(frozen=True, slots=True)
class Library:
    """A shared library of Xen's.

    Args:
        names: File names to try, the likeliest first.
        package: Debian's, that brings it.
    """

    names: Sequence[str]
    package: str

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.names[0]

    def load(self) -> ctypes.CDLL:
        """Load it.

        Raises:
            NotFound: it is not installed; says which package has it.
        """
        return _load(self)


@cache
def _load(library: Library) -> ctypes.CDLL:
    for name in library.names[:-1]:
        try:
            return ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue  # The last name's error is the one that is told.
    name = library.names[-1]
    try:
        return ctypes.CDLL(name, use_errno=True)
    except OSError as error:
        # What is missing may be another that this one needs; the loader names it first.
        missing = next((each for each in LIBRARIES if str(error).startswith(tuple(each.names))), library)
        remedy = f"apt install {missing.package}, or your distribution's Xen libraries"
        raise NotFound("load", library.name, str(error), remedy) from error


DEVICEMODEL: Final = Library(("libxendevicemodel.so.1",), "libxendevicemodel1")
FOREIGNMEMORY: Final = Library(("libxenforeignmemory.so.1",), "libxenforeignmemory1")
XENSTORE: Final = Library(("libxenstore.so.4", "libxenstore.so.3.0"), "libxenstore4")
TOOLLOG: Final = Library(("libxentoollog.so.1",), "libxentoollog1")
LIBRARIES: Final = (DEVICEMODEL, FOREIGNMEMORY, XENSTORE, TOOLLOG)
"""Without these no domain can be tapped."""


@cache
def quiet_logger() -> ctypes.c_void_p:
    """A logger for the libraries that prints next to nothing: what goes wrong is told by our errors.

    Without one they write lines of their own to standard error.

    Raises:
        NotFound: libxentoollog is not installed.
    """
    library = TOOLLOG.load()
    create = library.xtl_createlogger_stdiostream
    create.restype = ctypes.c_void_p
    create.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint]
    standard_error = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stderr")
    return ctypes.c_void_p(create(standard_error, _XTL_CRITICAL, 0))


class Handle:
    """What every handle of Xen's libraries shares: it is open, closed once, and a context manager.

    Args:
        library: Loaded.
        prefix: What the names of its functions that open and close begin with: `xs`.
        arguments: Of the one that opens, of the types it takes.

    Raises:
        VramtapError: it failed.
    """

    def __init__(
        self, library: ctypes.CDLL, prefix: str, *arguments: ctypes.c_void_p | ctypes.c_uint | ctypes.c_ulong
    ) -> None:
        self._library = library
        opens, self._closes = (getattr(library, f"{prefix}_{verb}") for verb in ("open", "close"))
        opens.restype = ctypes.c_void_p
        opens.argtypes = [type(argument) for argument in arguments]
        self._closes.argtypes = [ctypes.c_void_p]
        ctypes.set_errno(0)
        self._address: int | None = opens(*arguments)
        if not self._address:
            self._refused(f"{prefix}_open", ctypes.get_errno())

    def _refused(self, operation: str, number: int) -> NoReturn:
        """Say why it could not be opened."""
        raise_errno(operation, "", number)

    @property
    def handle(self) -> ctypes.c_void_p:
        """For the library's calls.

        Raises:
            VramtapError: it has been closed.
        """
        if not self._address:
            raise VramtapError("use", type(self).__name__, "it has been closed")
        return ctypes.c_void_p(self._address)

    def close(self) -> None:
        """Give it back; harmless twice."""
        address, self._address = self._address, None
        if address:
            self._closes(ctypes.c_void_p(address))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_REMEDIES: Final = {
    errno.EPERM: REMEDY_DOM0,
    errno.EACCES: REMEDY_DOM0,
    errno.E2BIG: "one call takes at most 32,768 pages",
    errno.ENOSYS: "this hypervisor does not have it; see vramtap doctor",
    errno.EOPNOTSUPP: "this hypervisor does not have it; see vramtap doctor",
}


def error_for(operation: str, obj: str, number: int) -> VramtapError:
    """What an errno of Xen's libraries means.

    Args:
        operation: The library's function.
        obj: What it was called on.
        number: The errno it left.

    Returns:
        `TargetGone` for ESRCH, `Refused` for a lack of privilege and outside of a dom0, `Unsupported` where
        the hypervisor has no such call, else `KernelError`.
    """
    if number == errno.ESRCH:
        return TargetGone(operation, obj, "the domain has ended")
    if number in (errno.EPERM, errno.EACCES):
        return Refused(operation, obj, os.strerror(number), REMEDY_DOM0)
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO) and not PRIVCMD.exists():
        return Refused(operation, obj, f"{PRIVCMD} is not there: this is no Xen dom0", REMEDY_DOM0)
    kind = Unsupported if number in (errno.ENOSYS, errno.EOPNOTSUPP) else KernelError
    return kind(operation, obj, number, _REMEDIES.get(number, os.strerror(number)))


def raise_errno(operation: str, obj: str, number: int) -> NoReturn:
    """Raise what `error_for` returns."""
    raise error_for(operation, obj, number)


def in_dom0() -> bool:
    """Whether this domain may control others, by what the kernel says of itself."""
    try:
        return "control_d" in CAPABILITIES.read_text()
    except OSError:
        # No Xen, or xenfs is not mounted: the libraries will say what is missing.
        return PRIVCMD.exists()
