"""Xen's shared libraries: loading, logging, handles, and the translation of their errno into errors."""

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
"""Device through which the libraries make hypercalls (Linux: drivers/xen/privcmd.c)."""
CAPABILITIES: Final = Path("/proc/xen/capabilities")
"""Contains `control_d` in a domain that may control others (Linux: drivers/xen/xenfs)."""
_XTL_CRITICAL: Final = 9
"""The highest level of libxentoollog (xentoollog.h, enum xentoollog_level)."""
REMEDY_DOM0: Final = "run as root in Xen's dom0"


@dataclass(frozen=True, slots=True)
class Library:
    """A shared library of Xen.

    Args:
        names: File names to try, the most likely first.
        package: Debian package that contains it.
    """

    names: Sequence[str]
    package: str

    @property
    def name(self) -> str:
        """Name of the library in messages."""
        return self.names[0]

    def load(self) -> ctypes.CDLL:
        """Load the library.

        Raises:
            NotFound: The library is not installed; the message names the package.
        """
        return _load(self)


@cache
def _load(library: Library) -> ctypes.CDLL:
    for name in library.names[:-1]:
        try:
            return ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue  # The message reports the error of the last name.
    name = library.names[-1]
    try:
        return ctypes.CDLL(name, use_errno=True)
    except OSError as error:
        # The missing library may be a dependency; the loader's message begins with its name.
        missing = next((each for each in LIBRARIES if str(error).startswith(tuple(each.names))), library)
        remedy = f"apt install {missing.package}, or your distribution's Xen libraries"
        raise NotFound("load", library.name, str(error), remedy) from error


DEVICEMODEL: Final = Library(("libxendevicemodel.so.1",), "libxendevicemodel1")
FOREIGNMEMORY: Final = Library(("libxenforeignmemory.so.1",), "libxenforeignmemory1")
XENSTORE: Final = Library(("libxenstore.so.4", "libxenstore.so.3.0"), "libxenstore4")
TOOLLOG: Final = Library(("libxentoollog.so.1",), "libxentoollog1")
LIBRARIES: Final = (DEVICEMODEL, FOREIGNMEMORY, XENSTORE, TOOLLOG)
"""The libraries that vramtap needs to tap a domain."""


@cache
def quiet_logger() -> ctypes.c_void_p:
    """Return a logger for the libraries that prints critical messages only.

    Without a logger the libraries write to standard error; vramtap's errors report the failures already.

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
    """An open handle of one of Xen's libraries; as a context manager it closes at the end.

    Args:
        library: The loaded library.
        prefix: Prefix of its functions, for example `xs` for `xs_open` and `xs_close`.
        arguments: Arguments of the open function, with their C types.

    Raises:
        VramtapError: The handle cannot be opened.
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
            self._raise_open_error(f"{prefix}_open", ctypes.get_errno())

    def _raise_open_error(self, operation: str, number: int) -> NoReturn:
        """Raise the error of a failed open."""
        raise_errno(operation, "", number)

    @property
    def handle(self) -> ctypes.c_void_p:
        """The handle, for calls of the library.

        Raises:
            VramtapError: The handle is closed.
        """
        if not self._address:
            raise VramtapError("use", type(self).__name__, "it has been closed")
        return ctypes.c_void_p(self._address)

    def close(self) -> None:
        """Close the handle; repeated calls do nothing."""
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
    """Return the error that an errno of Xen's libraries means.

    Args:
        operation: The library's function.
        obj: The object of the call.
        number: The errno.

    Returns:
        `TargetGone` for ESRCH, `Refused` for missing privileges and outside dom0, `Unsupported` if the
        hypervisor lacks the call, otherwise `KernelError`.
    """
    if number == errno.ESRCH:
        return TargetGone(operation, obj, "the domain has ended")
    if number in (errno.EPERM, errno.EACCES):
        return Refused(operation, obj, os.strerror(number), REMEDY_DOM0)
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO) and not PRIVCMD.exists():
        return Refused(operation, obj, f"{PRIVCMD} is missing: this is not a Xen dom0", REMEDY_DOM0)
    kind = Unsupported if number in (errno.ENOSYS, errno.EOPNOTSUPP) else KernelError
    return kind(operation, obj, number, _REMEDIES.get(number, os.strerror(number)))


def raise_errno(operation: str, obj: str, number: int) -> NoReturn:
    """Raise what `error_for` returns."""
    raise error_for(operation, obj, number)


def in_dom0() -> bool:
    """Return whether the kernel reports that this domain may control others."""
    try:
        return "control_d" in CAPABILITIES.read_text()
    except OSError:
        # There is no Xen, or xenfs is not mounted. The errors of the libraries report what is missing.
        return PRIVCMD.exists()
