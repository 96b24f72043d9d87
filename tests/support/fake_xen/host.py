"""A fake Xen host: domains that tests create, behind the libraries that vramtap loads."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from support.testbed.cache import COMPILER_FLAGS, built, key, run
from vramtap.errors import NotFound
from vramtap.xen import library

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vramtap.xen.library import Library

VRAM_FRAME: Final = 0xF0000
"""Default first frame of a domain's video RAM."""
CR0_WP: Final = 1 << 16

_HERE: Final = Path(__file__).parent
_FLAGS: Final = ("-shared", "-fPIC", "-Wl,-Bsymbolic")
_PREFIXES: Final = {
    "libxendevicemodel": "xendevicemodel_",
    "libxenforeignmemory": "xenforeignmemory_",
    "libxenstore": "xs_",
    "libxentoollog": "xtl_",
    "libxenctrl": "xc_",
}
_KINDS: Final = ("devicemodel", "foreignmemory", "xenstore", "control")


class _LogCalls(ctypes.Structure):
    _fields_ = (
        ("first", ctypes.c_uint64),
        ("domid", ctypes.c_uint32),
        ("frames", ctypes.c_uint32),
        ("reads", ctypes.c_uint32),
        ("stops", ctypes.c_uint32),
        ("full_reads", ctypes.c_uint32),
    )
    first: int
    domid: int
    frames: int
    reads: int
    stops: int
    full_reads: int


class _OneLibrary(ctypes.CDLL):
    """The fake's functions of one of Xen's libraries."""

    prefix = ""

    def __getattr__(self, name: str) -> ctypes._NamedFuncPointer:
        if not name.startswith(self.prefix):
            raise AttributeError(f"{name} is not in the library of {self.prefix}*")
        return super().__getattr__(name)


class FakeXen:
    """The fake's domains and the events that tests cause; created by `fake_xen`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._library = ctypes.CDLL(str(path))
        self._library.fake_mapped.restype = ctypes.c_uint64
        self._library.fake_tracked.restype = ctypes.c_bool
        self._loaded: dict[str, ctypes.CDLL] = {}
        self.absent: set[str] = set()
        """Libraries that are not installed, for example `libxenctrl`."""

    def load(self, wanted: Library) -> ctypes.CDLL:
        """Replace the loading of a library."""
        name = wanted.names[-1].partition(".")[0]
        if name in self.absent:
            raise NotFound("load", wanted.name, "no such file", f"apt install {wanted.package}")
        if name not in self._loaded:
            kind = type(name, (_OneLibrary,), {"prefix": _PREFIXES[name]})
            self._loaded[name] = kind(str(self._path), use_errno=True)
        return self._loaded[name]

    def reset(self) -> None:
        """Remove all domains, calls, mappings and stored values."""
        for function in ("fake_reset", "fake_reset_log_calls", "fake_reset_mappings", "fake_reset_store"):
            self._library[function]()

    # Domains

    def create(
        self, domid: int, *, pages: int = 64, first: int = VRAM_FRAME, hap: bool = True, hvm: bool = True
    ) -> None:
        """Create a domain; its video RAM is unplaced if `first` is 0."""
        self._library.fake_create(domid, ctypes.c_uint64(first), pages, hap, hvm)

    def write(self, domid: int, page: int, value: int = 1) -> None:
        """Let the guest store a byte in a page of video RAM."""
        self._library.fake_write(domid, page, value)

    def draw(self, domid: int, page: int, value: int = 1) -> None:
        """Let the device model draw a byte in a page of video RAM."""
        self._library.fake_draw(domid, page, value)

    def place(self, domid: int, first: int) -> None:
        """Let the guest place its video RAM at a frame; 0 removes it."""
        self._library.fake_place(domid, ctypes.c_uint64(first))

    def lose(self, domid: int, page: int, *, absent: bool = True) -> None:
        """Make a page of video RAM missing, or present again."""
        self._library.fake_absent(domid, page, absent)

    def cpu(self, domid: int, *cr0: int) -> None:
        """Give the domain one virtual processor for each of these values of CR0."""
        for vcpu, value in enumerate(cr0):
            self._library.fake_cpus(domid, len(cr0), vcpu, ctypes.c_uint64(value))

    def ran(self, domid: int, nanoseconds: int) -> None:
        """Add run time to its processors."""
        self._library.fake_ran(domid, ctypes.c_uint64(nanoseconds))

    def shut_down(self, domid: int, reason: int) -> None:
        """Shut the domain down; with -1 it runs again."""
        self._library.fake_shutdown(domid, reason)

    def pause(self, domid: int, *, paused: bool = True) -> None:
        """Let the toolstack pause or continue the domain."""
        self._library.fake_pause(domid, paused)

    def destroy(self, domid: int) -> None:
        """Destroy the domain; it stays listed as dying while pages of it are mapped."""
        self._library.fake_destroy(domid)

    def mapped(self, domid: int) -> int:
        """Return the number of its mapped pages."""
        return int(self._library.fake_mapped(domid))

    # The log

    def read_log(self, domid: int, first: int, frames: int) -> int:
        """Let another process read and clear the log; return the errno."""
        return int(self._library.fake_read_log(domid, ctypes.c_uint64(first), frames))

    def tracked(self, domid: int) -> bool:
        """Return whether the hypervisor logs its writes."""
        return bool(self._library.fake_tracked(domid))

    @property
    def log_calls(self) -> _LogCalls:
        """Last call of vramtap for a log, and counts; `full_reads` counts reads of all of the video RAM."""
        calls = _LogCalls()
        self._library.fake_log_calls(ctypes.byref(calls))
        return calls

    # Failures and handles

    def fail(
        self, function: str, number: int, *, skip: int = 0, times: int = 1 << 30, after: bool = False
    ) -> None:
        """Let calls of one function fail with an errno; with `after` each has its effect before it fails."""
        self._library.fake_fail(function.encode(), number, skip, times, after)

    @property
    def handles(self) -> dict[str, int]:
        """Number of open handles of each library."""
        return {kind: self._library.fake_handles(at) for at, kind in enumerate(_KINDS)}

    @property
    def misused(self) -> int:
        """Number of uses of a closed handle or of another library's handle, and of repeated closes."""
        return int(self._library.fake_misused())

    # Xenstore

    def store(self, path: str, value: str | bytes | int) -> None:
        """Write a value."""
        data = value if isinstance(value, bytes) else str(value).encode()
        self._library.fake_store(path.encode(), data, len(data))

    def remove(self, path: str) -> None:
        """Remove a path and its children."""
        self._library.fake_remove(path.encode())

    def fire(self, path: str) -> None:
        """Fire a special watch."""
        self._library.fake_fire(path.encode())


@contextlib.contextmanager
def fake_xen() -> Iterator[FakeXen]:
    """Make vramtap find the fake Xen; at the end check that no handle is open or was misused."""
    sources = sorted(_HERE.glob("*.[ch]"))
    name = f"bin/fake-xen-{key(*(source.read_bytes() for source in sources), *COMPILER_FLAGS, *_FLAGS)}"

    def build(into: Path) -> None:
        files = [str(source) for source in sources if source.suffix == ".c"]
        run("gcc", *COMPILER_FLAGS, *_FLAGS, "-o", str(into / "fake-xen.so"), *files)

    xen = FakeXen(built(name, build) / "fake-xen.so")
    xen.reset()
    library.quiet_logger.cache_clear()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(library, "_load", xen.load)
            # An existing file, so that an errno has the meaning it has in a dom0.
            patch.setattr(library, "PRIVCMD", Path("/dev/null"))
            yield xen
        assert set(xen.handles.values()) == {0}, xen.handles
        assert xen.misused == 0
    finally:
        xen.reset()
        library.quiet_logger.cache_clear()
