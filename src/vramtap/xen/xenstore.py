"""libxenstore: the small database in which toolstack, device models and guests leave what others must know.

What is read there may have been written by a guest: lengths are bounded here, meanings by the caller.
"""

from __future__ import annotations

import ctypes
import errno
from typing import Final, NoReturn

from vramtap.errors import Refused, VramtapError
from vramtap.xen.library import REMEDY_DOM0, XENSTORE, Handle, raise_errno

MAX_VALUE_BYTES: Final = 4096
"""The longest value, and the longest list of children (Xen: xen/include/public/io/xs_wire.h)."""
_NO_TRANSACTION: Final = 0
_XS_OPEN_READONLY: Final = 1
_WATCH_FIELDS: Final = 2

_LIBC = ctypes.CDLL(None)
_LIBC.free.argtypes = [ctypes.c_void_p]


class Xenstore(Handle):
    """A connection to xenstored.

    Privilege: dom0; whoever may write the daemon's socket.

    Raises:
        NotFound: the library is not installed.
        Refused: no xenstored, or no permission.
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

    def _refused(self, operation: str, number: int) -> NoReturn:
        if number in (errno.ENOENT, errno.ECONNREFUSED):
            raise Refused(operation, "xenstored", "nobody listens", REMEDY_DOM0)
        super()._refused(operation, number)

    def read(self, path: str) -> str | None:
        """A value; None if there is none, or it is not for us to see.

        Args:
            path: `/local/domain/3/name`.

        Raises:
            VramtapError: the connection is lost.
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
        """Names of what lies under a path; none if there is no such path.

        Raises:
            VramtapError: the connection is lost.
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
        """Raise unless the errno only says that there is nothing."""
        number = ctypes.get_errno()
        if number not in (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.EINVAL):
            raise_errno(operation, path, number)

    def watch(self, path: str) -> None:
        """Be told when something at or under a path changes, and once at once; see `changed`.

        Args:
            path: Or `@releaseDomain`, `@introduceDomain`: a domain has ended, begun.

        Raises:
            VramtapError: the connection is lost, or there are too many watches.
        """
        ctypes.set_errno(0)
        if not self._library.xs_watch(self.handle, path.encode(), b"vramtap"):
            raise_errno("xs_watch", path, ctypes.get_errno())

    def fileno(self) -> int:
        """What becomes readable when `changed` has something to say.

        Raises:
            VramtapError: the library cannot make one.
        """
        descriptor = int(self._library.xs_fileno(self.handle))
        if descriptor < 0:
            raise VramtapError("xs_fileno", "xenstored", "no descriptor to be had")
        return descriptor

    def changed(self) -> list[str]:
        """The paths that changed since it was last asked, each as often as it did; never waits.

        Raises:
            VramtapError: the connection is lost.
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
