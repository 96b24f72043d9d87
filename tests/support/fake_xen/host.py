"""A Xen host without Xen: domains that a test makes, behind the libraries that the program loads."""

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
"""Where a domain's video RAM is, unless a test says otherwise."""
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


class _Asked(ctypes.Structure):
    _fields_ = (
        ("first", ctypes.c_uint64),
        ("domid", ctypes.c_uint32),
        ("frames", ctypes.c_uint32),
        ("questions", ctypes.c_uint32),
        ("stops", ctypes.c_uint32),
        ("of_all", ctypes.c_uint32),
    )
    first: int
    domid: int
    frames: int
    questions: int
    stops: int
    of_all: int


class _OneLibrary(ctypes.CDLL):
    """Has the functions of one of Xen's libraries only, of all that the fake has."""

    prefix = ""

    def __getattr__(self, name: str) -> ctypes._NamedFuncPointer:
        if not name.startswith(self.prefix):
            raise AttributeError(f"{name} is not in the library of {self.prefix}*")
        return super().__getattr__(name)


class FakeXen:
    """Domains, and what happens to them; made by `fake_xen`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._library = ctypes.CDLL(str(path))
        self._library.fake_mapped.restype = ctypes.c_uint64
        self._library.fake_tracked.restype = ctypes.c_bool
        self._loaded: dict[str, ctypes.CDLL] = {}
        self.absent: set[str] = set()
        """Libraries that are not installed: `libxenctrl`."""

    def load(self, wanted: Library) -> ctypes.CDLL:
        """Stands where the loading of a library stands."""
        name = wanted.names[-1].partition(".")[0]
        if name in self.absent:
            raise NotFound("load", wanted.name, "no such file", f"apt install {wanted.package}")
        if name not in self._loaded:
            kind = type(name, (_OneLibrary,), {"prefix": _PREFIXES[name]})
            self._loaded[name] = kind(str(self._path), use_errno=True)
        return self._loaded[name]

    def reset(self) -> None:
        """No domains, nothing asked, nothing stored."""
        for function in ("fake_reset", "fake_reset_asked", "fake_reset_mappings", "fake_reset_store"):
            self._library[function]()

    # Domains

    def create(
        self, domid: int, *, pages: int = 64, first: int = VRAM_FRAME, hap: bool = True, hvm: bool = True
    ) -> None:
        """Begin a domain; its video RAM is nowhere if `first` is 0."""
        self._library.fake_create(domid, ctypes.c_uint64(first), pages, hap, hvm)

    def write(self, domid: int, page: int, value: int = 1) -> None:
        """A store of the guest's into a page of video RAM."""
        self._library.fake_write(domid, page, value)

    def draw(self, domid: int, page: int, value: int = 1) -> None:
        """The device model draws into a page of video RAM."""
        self._library.fake_draw(domid, page, value)

    def place(self, domid: int, first: int) -> None:
        """The guest places its video RAM; 0: nowhere."""
        self._library.fake_place(domid, ctypes.c_uint64(first))

    def lose(self, domid: int, page: int, *, absent: bool = True) -> None:
        """A page of video RAM is not there (any more)."""
        self._library.fake_absent(domid, page, absent)

    def cpu(self, domid: int, *cr0: int) -> None:
        """It has as many virtual processors, with these values of CR0."""
        for vcpu, value in enumerate(cr0):
            self._library.fake_cpus(domid, len(cr0), vcpu, ctypes.c_uint64(value))

    def ran(self, domid: int, nanoseconds: int) -> None:
        """Its processors have run."""
        self._library.fake_ran(domid, ctypes.c_uint64(nanoseconds))

    def shut_down(self, domid: int, reason: int) -> None:
        """It has shut down, or, with -1, goes on."""
        self._library.fake_shutdown(domid, reason)

    def pause(self, domid: int, *, paused: bool = True) -> None:
        """The toolstack pauses it."""
        self._library.fake_pause(domid, paused)

    def destroy(self, domid: int) -> None:
        """It is destroyed; it stays listed, as one that is dying, while pages of it are mapped."""
        self._library.fake_destroy(domid)

    def mapped(self, domid: int) -> int:
        """How many of its pages are mapped."""
        return int(self._library.fake_mapped(domid))

    # The log

    def ask(self, domid: int, first: int, frames: int) -> int:
        """Another process's call for its log; returns the errno."""
        return int(self._library.fake_ask(domid, ctypes.c_uint64(first), frames))

    def tracked(self, domid: int) -> bool:
        """Whether writes of it are logged."""
        return bool(self._library.fake_tracked(domid))

    @property
    def asked(self) -> _Asked:
        """The program's last call for a log, and how many there were: of all, exactly as QEMU asks."""
        asked = _Asked()
        self._library.fake_asked(ctypes.byref(asked))
        return asked

    # Failures and handles

    def fail(
        self, function: str, number: int, *, skip: int = 0, times: int = 1 << 30, after: bool = False
    ) -> None:
        """Let calls of a function fail with an errno; `after` they have done what they do. One at a time."""
        self._library.fake_fail(function.encode(), number, skip, times, after)

    @property
    def handles(self) -> dict[str, int]:
        """How many handles of each library are open."""
        return {kind: self._library.fake_handles(at) for at, kind in enumerate(_KINDS)}

    @property
    def misused(self) -> int:
        """How often a handle was used that was closed, or of another library, or closed again."""
        return int(self._library.fake_misused())

    # Xenstore

    def store(self, path: str, value: str | bytes | int) -> None:
        """Write a value."""
        data = value if isinstance(value, bytes) else str(value).encode()
        self._library.fake_store(path.encode(), data, len(data))

    def remove(self, path: str) -> None:
        """Remove what is at and under a path."""
        self._library.fake_remove(path.encode())

    def fire(self, path: str) -> None:
        """Fire a special watch."""
        self._library.fake_fire(path.encode())


@contextlib.contextmanager
def fake_xen() -> Iterator[FakeXen]:
    """Let the program find Xen here; at the end no handle may be open, and none may have been misused."""
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
            # Of a Xen host that is there, so that an errno means what it means in a dom0.
            patch.setattr(library, "PRIVCMD", Path("/dev/null"))
            yield xen
        assert set(xen.handles.values()) == {0}, xen.handles
        assert xen.misused == 0
    finally:
        xen.reset()
        library.quiet_logger.cache_clear()
