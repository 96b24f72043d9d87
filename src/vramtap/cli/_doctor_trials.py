"""Probes of this machine: each does the thing it asks about, on memory and a child of our own."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import mmap
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.errors import KernelError, NotFound, Refused, VramtapError
from vramtap.linux.procfs import MapsQuery, read_maps, vm_flags
from vramtap.linux.vm_rw import read_many
from vramtap.machine.kvm_probe import probe_kvm
from vramtap.memory.extent import Extent
from vramtap.memory.process import ProcessSpace
from vramtap.pages import PAGE_SIZE, PageRuns
from vramtap.policy.decide import ArmAlways
from vramtap.trackers.base import AllDirty
from vramtap.trackers.userfault.hybrid import HybridTracker
from vramtap.trackers.userfault.log import LogTracker
from vramtap.trackers.userfault.probe import probe_log
from vramtap.xen.control import Control
from vramtap.xen.devicemodel import DeviceModel
from vramtap.xen.domains import domains
from vramtap.xen.foreignmemory import ForeignMemory
from vramtap.xen.library import LIBRARIES, REMEDY_DOM0, in_dom0
from vramtap.xen.xenstore import Xenstore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PAGES: Final = 2025
"""Of the probed memory: a 1920x1080 screen of 32 bits a pixel."""
_WRITTEN: Final = 1000
_SCANS: Final = 200
_ARMING_LOOKS: Final = 8
"""The first says Everything, the second finds nothing and arms; the watchdog may still be rehearsing."""
_SOFT_DIRTY_BIT: Final = 55
_NOBODY: Final = 65534
"""The user that owns nothing (kernel: overflowuid, include/linux/highuid.h)."""
_CHILD: Final = f"""
import ctypes, mmap, sys
memory = mmap.mmap(-1, {_PAGES * PAGE_SIZE})
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
for line in sys.stdin:
    memory[int(line)] = 1
    print("written", flush=True)
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe found.

    Args:
        what: The ability.
        ok: Whether it is there.
        detail: What was seen, or the reason of the no.
        remedy: What would help; empty if it is there.
        essential: Without it nothing can be tapped.
    """

    what: str
    ok: bool
    detail: str
    remedy: str = ""
    essential: bool = False


def _own_log() -> Finding:
    refusal = probe_log()
    if refusal is None:
        return Finding(
            "write log of this process", True, "a page was written and exactly that page was named"
        )
    return Finding(
        "write log of this process",
        False,
        refusal,
        "needs Linux 6.7, CONFIG_USERFAULTFD and CONFIG_PTE_MARKER_UFFD_WP; until then --tracker compare",
    )


class _Child:
    """A process of ours with some pages, that writes where it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = int(self._answer())

    def write(self, offset_bytes: int) -> None:
        """Let it write one byte, and wait until it has."""
        if self.process.stdin is None:
            raise VramtapError("write", "probe child", "no pipe")
        self.process.stdin.write(f"{offset_bytes}\n")
        self.process.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise VramtapError("start", "probe child", "it ended without an answer")
        return line


@contextlib.contextmanager
def _child() -> Iterator[_Child]:
    child = _Child()
    with child.process:
        try:
            yield child
        finally:
            child.process.kill()


def _read_other() -> Finding:
    what = "reading another process"
    with _child() as child:
        child.write(_WRITTEN * PAGE_SIZE)
        try:
            space = ProcessSpace(child.process.pid)
            page = np.zeros(PAGE_SIZE, dtype=np.uint8)
            try:
                run = PageRuns([(_WRITTEN, _WRITTEN + 1)])
                Extent(space, child.address, _PAGES).read(run, page, _WRITTEN)
            finally:
                space.close()
        except VramtapError as error:
            return Finding(what, False, str(error), error.remedy or "needs ptrace rights", essential=True)
    if page[0] != 1:
        return Finding(what, False, f"byte {page[0]} was read where 1 was written", essential=True)
    return Finding(what, True, "a byte written by a child was read", essential=True)


def _other_log() -> Finding:
    what = "write log of another process"
    with _child() as child:
        tracker, space = LogTracker(), ProcessSpace(child.process.pid)
        try:
            extent = Extent(space, child.address, _PAGES)
            tracker.start(extent)
            tracker.collect()
            child.write(_WRITTEN * PAGE_SIZE)
            seen = tracker.collect()
            scans_ns = []
            for _ in range(_SCANS):
                began_ns = time.perf_counter_ns()
                tracker.collect()
                scans_ns.append(time.perf_counter_ns() - began_ns)
        except VramtapError as error:
            return Finding(what, False, str(error), error.remedy or "use --tracker compare")
        finally:
            tracker.stop()
            space.close()
        left = [mapping for mapping, flags in vm_flags(child.process.pid) if "uw" in flags]
    if isinstance(seen, AllDirty) or _WRITTEN not in seen:
        return Finding(
            what, False, f"page {_WRITTEN} was written, the log said {seen}", "use --tracker compare"
        )
    if left:
        return Finding(what, False, f"protection was left on {len(left)} mappings of the child")
    median_us = sorted(scans_ns)[_SCANS // 2] / 1000
    return Finding(
        what,
        True,
        f"a child was stopped for {tracker.stopped_us:.0f} us, its write seen; an idle look at {_PAGES} "
        f"pages takes {median_us:.0f} us; nothing was left behind",
    )


def _armed() -> Finding:
    what = "being woken by the first write"
    remedy = "give the target CAP_SYS_PTRACE, or set vm.unprivileged_userfaultfd=1; until then it is asked"
    with _child() as child:
        tracker, space = (
            HybridTracker(policy=ArmAlways()),
            ProcessSpace(child.process.pid),
        )
        try:
            tracker.start(Extent(space, child.address, _PAGES))
            for _ in range(_ARMING_LOOKS):
                if not tracker.armed:
                    tracker.collect()
            if not tracker.armed:
                return Finding(what, False, tracker.unarmable or "it was never armed", remedy)
            tracker.collect()
            child.write(_WRITTEN * PAGE_SIZE)
            seen = tracker.collect()
        except VramtapError as error:
            return Finding(what, False, str(error), error.remedy or "use --tracker log")
        finally:
            tracker.stop()
            space.close()
    if not isinstance(seen, AllDirty) and _WRITTEN not in seen:
        return Finding(what, False, f"page {_WRITTEN} was written, {seen} was named", "use --tracker log")
    held_us = tracker.costs.held_us
    return Finding(
        what, True, f"a child's write was answered and seen; such a write stands still for {held_us:.0f} us"
    )


def _foreign_processes() -> Finding:
    what = "tapping processes of other users"
    with _foreign_process() as (pid, whose):
        try:
            _read_a_page(pid)
        except (Refused, KernelError):
            scope = Path("/proc/sys/kernel/yama/ptrace_scope")
            limit = f" (Yama ptrace_scope {scope.read_text().strip()})" if scope.exists() else ""
            return Finding(
                what, False, f"the memory of {whose} is refused{limit}", "run as root or with CAP_SYS_PTRACE"
            )
    return Finding(what, True, f"the memory of {whose} is open to this user")


def _read_a_page(pid: int) -> None:
    # The list of mappings alone proves nothing: CAP_PERFMON or CAP_SYS_ADMIN opens it to who may not read the
    # memory (measured on Linux 6.18).
    start = read_maps(pid)[0].start
    page = np.zeros(PAGE_SIZE, dtype=np.uint8)
    places = ([start], [PAGE_SIZE], [page.ctypes.data])
    read_many(pid, *(np.array(place, dtype=np.uint64) for place in places))


@contextlib.contextmanager
def _foreign_process() -> Iterator[tuple[int, str]]:
    """A process of another user: a child if we may become one, else process 1."""
    try:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, user=_NOBODY)
    except OSError:
        yield 1, "process 1"
        return
    with child:
        yield child.pid, f"a child of user {_NOBODY}"


def _maps_query() -> Finding:
    what = "asking for one mapping (PROCMAP_QUERY)"
    query = MapsQuery(os.getpid())
    try:
        if query.fast:
            return Finding(what, True, "answered")
        return Finding(
            what,
            False,
            "the ioctl is unknown: /proc/PID/maps is read as text, 1 ms a look instead of 1 us",
            "needs Linux 6.11; nothing is lost without it but time",
        )
    finally:
        query.close()


def _soft_dirty() -> Finding:
    what = "soft-dirty bits (not used: they clear the whole address space)"
    memory = mmap.mmap(-1, PAGE_SIZE)
    view = ctypes.c_char.from_buffer(memory)
    try:
        memory[0] = 1
        # The write succeeds on kernels without the feature as well: only looking tells.
        Path("/proc/self/clear_refs").write_text("4")
        memory[0] = 2
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(ctypes.addressof(view) // PAGE_SIZE * 8)
            entry = int.from_bytes(pagemap.read(8), sys.byteorder)
    except OSError as error:
        return Finding(what, False, str(error))
    finally:
        del view
        memory.close()
    if entry >> _SOFT_DIRTY_BIT & 1:
        return Finding(what, True, "a written page showed bit 55")
    return Finding(what, False, "clear_refs accepted 4, but a written page shows no bit 55", "none needed")


def _kvm() -> Finding:
    what = "KVM for the embedded machine"
    try:
        found = probe_kvm()
    except VramtapError as error:
        return Finding(what, False, str(error), error.remedy or "the machine runs without it: cpu=unicorn")
    good = [form for form, wrong in found.items() if wrong is None]
    bad = [f"{form}: {wrong}" for form, wrong in found.items() if wrong is not None]
    if not good:
        return Finding(what, False, "; ".join(bad), "use cpu=unicorn")
    detail = "; ".join([f"a guest ran, and its store was logged ({', '.join(good)})", *bad])
    return Finding(what, True, detail)


def _xen() -> Finding:
    what = "Xen domains"
    missing = []
    for library in LIBRARIES:
        try:
            library.load()
        except NotFound:
            missing.append(library.package)
    if missing:
        here = "" if in_dom0() else "no Xen dom0, and "
        remedy = f"in a dom0: apt install {' '.join(missing)}; nothing else needs them"
        return Finding(what, False, f"{here}{len(missing)} of Xen's libraries are not installed", remedy)
    try:
        with DeviceModel(), ForeignMemory(), Xenstore() as store:
            count = len(domains(store))
    except VramtapError as error:
        return Finding(what, False, str(error), error.remedy or REMEDY_DOM0)
    detail = f"the hypervisor, xenstore and {count} domains can be reached"
    try:
        Control().close()
    except VramtapError as error:
        return Finding(what, True, f"{detail}; why a domain ends will not be known: {error}")
    return Finding(what, True, detail)


def _library(module: str, what: str, remedy: str) -> Finding:
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        return Finding(what, False, str(error), remedy)
    return Finding(what, True, f"{module} loads")


def _x11() -> Finding:
    return _library("xcffib.xtest", "X11 targets", "apt install libxcb1 (or your system's libxcb)")


def _jpeg() -> Finding:
    return _library("simplejpeg", "JPEG for VNC clients", "pip install simplejpeg")


def _page() -> Finding:
    what = "web page"
    core = files("vramtap.servers.web") / "static" / "novnc" / "core" / "rfb.js"
    if core.is_file():
        return Finding(what, True, "noVNC is in the package")
    return Finding(what, False, "noVNC was not fetched when this package was built", "make install")


_PROBES: Final[tuple[Callable[[], Finding], ...]] = (
    _own_log,
    _other_log,
    _armed,
    _read_other,
    _foreign_processes,
    _maps_query,
    _soft_dirty,
    _kvm,
    _xen,
    _x11,
    _jpeg,
    _page,
)


def examine() -> list[Finding]:
    """What each probe found; one that cannot even be begun is a no, and the others are made all the same."""
    findings = []
    for probe in _PROBES:
        try:
            findings.append(probe())
        except VramtapError as error:
            essential = probe is _read_other
            findings.append(Finding(error.operation, False, str(error), error.remedy, essential))
    return findings
