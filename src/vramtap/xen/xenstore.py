"""libxenstore: the small database that toolstack, device models and guests share.

A guest may have written any value. This module bounds the lengths; the caller checks the contents.
"""

from __future__ import annotations

import ctypes
import errno
from typing import Final, NoReturn

from vramtap.errors import Refused, VramtapError
from vramtap.xen.library import REMEDY_DOM0, XENSTORE, Handle, raise_errno

MAX_VALUE_BYTES: Final = 4096
"""Most bytes of a value, and of a list of children (Xen: xen/include/public/io/xs_wire.h)."""
_NO_TRANSACTION: Final = 0
_XS_OPEN_READONLY: Final = 1
_WATCH_FIELDS: Final = 2

_LIBC = ctypes.CDLL(None)
_LIBC.free.argtypes = [ctypes.c_void_p]


class Xenstore(Handle):
    """A connection to xenstored.

    Privilege: write permission on the daemon's socket, in dom0.

    Raises:
        NotFound: The library is not installed.
        Refused: xenstored does not run, or vramtap has no permission.
    """

    def __init__(self) -> None:
        library = XENSTORE.load()
        super().__init__(library, "xs", ctypes.c_ulong(_XS_OPEN_READONLY))
        library.xs_read.restype = ctypes.c_void_p
        library.xs_read.argtypes = [
            ctypes.c_void_p, ctypes.c_uint32, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint),
        ]  # fmt: skip
        library.xs_directory.restype = ctypes.c_void_p
        library.xs_directory.argtypes = library.xs_read.argtypes
        library.xs_watch.restype = ctypes.c_bool
        library.xs_watch.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
        library.xs_fileno.argtypes = [ctypes.c_void_p]
        library.xs_check_watch.restype = ctypes.c_void_p
        library.xs_check_watch.argtypes = [ctypes.c_void_p]

    def _raise_open_error(self, operation: str, number: int) -> NoReturn:
        if number in (errno.ENOENT, errno.ECONNREFUSED):
            raise Refused(operation, "xenstored", "xenstored does not listen", REMEDY_DOM0)
        super()._raise_open_error(operation, number)

    def read(self, path: str) -> str | None:
        """Return a value; None if the path does not exist or is not readable.

        Args:
            path: For example `/local/domain/3/name`.

        Raises:
            VramtapError: The connection is lost.
        """
        length = ctypes.c_uint(0)
        ctypes.set_errno(0)
        found = self._library.xs_read(self.handle, _NO_TRANSACTION, path.encode(), ctypes.byref(length))
        if not found:
            self._check("xs_read", path)
            return None
        try:
            value = ctypes.string_at(found, min(length.value, MAX_VALUE_BYTES))
        finally:
            _LIBC.free(found)
        return value.decode("utf-8", "replace")

    def children(self, path: str) -> list[str]:
        """Return the names of a path's children; an empty list if the path does not exist.

        Raises:
            VramtapError: The connection is lost.
        """
        count = ctypes.c_uint(0)
        ctypes.set_errno(0)
        found = self._library.xs_directory(self.handle, _NO_TRANSACTION, path.encode(), ctypes.byref(count))
        if not found:
            self._check("xs_directory", path)
            return []
        try:
            names = ctypes.cast(found, ctypes.POINTER(ctypes.c_char_p))
            return [(names[at] or b"").decode("utf-8", "replace") for at in range(count.value)]
        finally:
            _LIBC.free(found)

    def _check(self, operation: str, path: str) -> None:
        """Raise an error unless the errno means that the path is missing or not readable."""
        number = ctypes.get_errno()
        if number not in (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.EINVAL):
            raise_errno(operation, path, number)

    def watch(self, path: str) -> None:
        """Watch a path and its children; `changed` reports the path once immediately, then at each change.

        Args:
            path: A path, or `@releaseDomain` (a domain has ended), or `@introduceDomain` (one has started).

        Raises:
            VramtapError: The connection is lost, or there are too many watches.
        """
        ctypes.set_errno(0)
        if not self._library.xs_watch(self.handle, path.encode(), b"vramtap"):
            raise_errno("xs_watch", path, ctypes.get_errno())

    def fileno(self) -> int:
        """Return a descriptor that is readable while `changed` has paths to report.

        Raises:
            VramtapError: The library cannot create one.
        """
        descriptor = int(self._library.xs_fileno(self.handle))
        if descriptor < 0:
            raise VramtapError("xs_fileno", "xenstored", "the library returned no descriptor")
        return descriptor

    def changed(self) -> list[str]:
        """Return the watched paths that changed since the last call, once per change; never wait.

        Raises:
            VramtapError: The connection is lost.
        """
        paths: list[str] = []
        while True:
            ctypes.set_errno(0)
            found = self._library.xs_check_watch(self.handle)
            if not found:
                number = ctypes.get_errno()
                if number not in (0, errno.EAGAIN):
                    raise_errno("xs_check_watch", "xenstored", number)
                return paths
            try:
                fields = ctypes.cast(found, ctypes.POINTER(ctypes.c_char_p * _WATCH_FIELDS)).contents
                paths.append((fields[0] or b"").decode("utf-8", "replace"))
            finally:
                _LIBC.free(found)
