"""Trials of this machine: each tries what it reports on, in this process or on a child process.

A trial returns what it saw. It raises `TrialFailed`, or lets a `VramtapError` pass, if the ability is
missing.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import sys
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from vramtap.cli._doctor_child import PAGES, child, foreign_process
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
    from collections.abc import Callable

_WRITTEN: Final = 1000
"""Page that a child writes."""
_COLLECTS: Final = 200
"""Collects whose median duration is reported."""
_ARMING_COLLECTS: Final = 8
"""Collects within which a tracker must be armed. The first returns AllDirty, the second finds nothing and
arms. The others are for the watchdog, which may not be ready yet."""
_SOFT_DIRTY_BIT: Final = 55
"""Bit of a pagemap entry (kernel: Documentation/admin-guide/mm/pagemap.rst)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Result of one trial.

    Args:
        what: The ability.
        ok: Whether the machine has it.
        detail: What the trial saw, or why it failed.
        remedy: What helps; empty if `ok`.
        essential: Whether vramtap can tap nothing without it.
    """

    what: str
    ok: bool
    detail: str
    remedy: str = ""
    essential: bool = False


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial.

    Args:
        what: The ability it tries.
        run: Tries it; returns what it saw. Raises `TrialFailed` or `VramtapError` if the ability is missing.
        remedy: What helps where the error has no remedy of its own.
        essential: Whether vramtap can tap nothing without the ability.
    """

    what: str
    run: Callable[[], str]
    remedy: str
    essential: bool = False


class TrialFailed(Exception):
    """The ability is missing.

    Args:
        detail: Why.
        remedy: What helps; empty for the trial's own remedy.
    """

    def __init__(self, detail: str, remedy: str = "") -> None:
        super().__init__(detail)
        self.remedy = remedy


def _own_log() -> str:
    refusal = probe_log()
    if refusal is not None:
        raise TrialFailed(refusal)
    return "this process wrote a page, and the log named exactly this page"


def _other_log() -> str:
    with child() as writer:
        tracker, space = LogTracker(), ProcessSpace(writer.pid)
        try:
            tracker.start(Extent(space, writer.address, PAGES))
            tracker.collect()
            writer.write(_WRITTEN * PAGE_SIZE)
            seen = tracker.collect()
            durations_ns = []
            for _ in range(_COLLECTS):
                began_ns = time.perf_counter_ns()
                tracker.collect()
                durations_ns.append(time.perf_counter_ns() - began_ns)
        finally:
            tracker.stop()
            space.close()
        left = [mapping for mapping, flags in vm_flags(writer.pid) if "uw" in flags]
    if isinstance(seen, AllDirty) or _WRITTEN not in seen:
        raise TrialFailed(f"a child wrote page {_WRITTEN}, and the log named {seen}")
    if left:
        raise TrialFailed(f"write protection was left on {len(left)} mappings of the child")
    median_us = sorted(durations_ns)[_COLLECTS // 2] / 1000
    return (
        f"a child was stopped for {tracker.stopped_us:.0f} us, and its write was logged; an idle scan of "
        f"{PAGES} pages takes {median_us:.0f} us; no write protection was left behind"
    )


def _wakeup() -> str:
    with child() as writer:
        tracker, space = HybridTracker(policy=ArmAlways()), ProcessSpace(writer.pid)
        try:
            tracker.start(Extent(space, writer.address, PAGES))
            for _ in range(_ARMING_COLLECTS):
                if not tracker.armed:
                    tracker.collect()
            if not tracker.armed:
                raise TrialFailed(tracker.unarmable or f"not armed after {_ARMING_COLLECTS} scans")
            tracker.collect()
            writer.write(_WRITTEN * PAGE_SIZE)
            seen = tracker.collect()
        except VramtapError as error:
            raise TrialFailed(_without_remedy(error), error.remedy or "use --tracker log") from error
        finally:
            tracker.stop()
            space.close()
    if not isinstance(seen, AllDirty) and _WRITTEN not in seen:
        raise TrialFailed(f"a child wrote page {_WRITTEN}, and the tracker named {seen}", "use --tracker log")
    held_us = tracker.costs.held_us
    return f"a child's write woke vramtap and was seen; such a write is held for {held_us:.0f} us"


def _read_other() -> str:
    with child() as writer:
        writer.write(_WRITTEN * PAGE_SIZE)
        space = ProcessSpace(writer.pid)
        page = np.zeros(PAGE_SIZE, dtype=np.uint8)
        try:
            run = PageRuns([(_WRITTEN, _WRITTEN + 1)])
            Extent(space, writer.address, PAGES).read(run, page, _WRITTEN)
        finally:
            space.close()
    if page[0] != 1:
        raise TrialFailed(f"byte {page[0]} was read where a child wrote 1")
    return "a byte that a child wrote was read"


def _foreign_processes() -> str:
    with foreign_process() as (pid, description):
        try:
            _read_a_page(pid)
        except (Refused, KernelError) as error:
            scope = Path("/proc/sys/kernel/yama/ptrace_scope")
            limit = f" (Yama ptrace_scope {scope.read_text().strip()})" if scope.exists() else ""
            raise TrialFailed(f"reading the memory of {description} is refused{limit}") from error
    return f"the memory of {description} was read"


def _read_a_page(pid: int) -> None:
    # Reading the list of mappings proves nothing: with CAP_PERFMON or CAP_SYS_ADMIN it is readable although
    # the memory is not (measured on Linux 6.18).
    start = read_maps(pid)[0].start
    page = np.zeros(PAGE_SIZE, dtype=np.uint8)
    places = ([start], [PAGE_SIZE], [page.ctypes.data])
    read_many(pid, *(np.array(place, dtype=np.uint64) for place in places))


def _maps_query() -> str:
    query = MapsQuery(os.getpid())
    try:
        if not query.fast:
            raise TrialFailed(
                "the ioctl is unknown; vramtap reads /proc/PID/maps as text, which takes 1 ms instead of 1 us"
            )
    finally:
        query.close()
    return "the kernel answered"


def _soft_dirty() -> str:
    memory = mmap.mmap(-1, PAGE_SIZE)
    view = ctypes.c_char.from_buffer(memory)
    try:
        memory[0] = 1
        # Kernels without the feature accept this write as well, so the bit has to be read.
        Path("/proc/self/clear_refs").write_text("4")
        memory[0] = 2
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(ctypes.addressof(view) // PAGE_SIZE * 8)
            entry = int.from_bytes(pagemap.read(8), sys.byteorder)
    except OSError as error:
        raise TrialFailed(str(error)) from error
    finally:
        del view
        memory.close()
    if not entry >> _SOFT_DIRTY_BIT & 1:
        raise TrialFailed("clear_refs accepted 4, but bit 55 of a written page is 0")
    return "bit 55 of a written page is 1"


def _kvm() -> str:
    found = probe_kvm()
    good = [form for form, wrong in found.items() if wrong is None]
    bad = [f"{form}: {wrong}" for form, wrong in found.items() if wrong is not None]
    if not good:
        raise TrialFailed("; ".join(bad))
    return "; ".join([f"a guest ran, and its store was logged ({', '.join(good)})", *bad])


def _xen() -> str:
    missing = []
    for library in LIBRARIES:
        try:
            library.load()
        except NotFound:
            missing.append(library.package)
    if missing:
        here = "" if in_dom0() else "this is not a Xen dom0, and "
        remedy = f"in a dom0: apt install {' '.join(missing)}; elsewhere nothing is needed"
        raise TrialFailed(f"{here}{len(missing)} of Xen's libraries are not installed", remedy)
    with DeviceModel(), ForeignMemory(), Xenstore() as store:
        count = len(domains(store))
    detail = f"the hypervisor, xenstore and {count} domains can be reached"
    try:
        Control().close()
    except VramtapError as error:
        return f"{detail}; vramtap cannot tell why a domain ends: {error}"
    return detail


def _library(module: str) -> str:
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise TrialFailed(str(error)) from error
    return f"{module} loads"


def _x11() -> str:
    return _library("xcffib.xtest")


def _jpeg() -> str:
    return _library("simplejpeg")


def _page() -> str:
    core = files("vramtap.servers.web") / "static" / "novnc" / "core" / "rfb.js"
    if not core.is_file():
        raise TrialFailed("noVNC was not fetched when this package was built")
    return "noVNC is in the package"


_TRIALS: Final = (
    Trial(
        "write log of this process",
        _own_log,
        "use --tracker compare; the log needs Linux 6.7, CONFIG_USERFAULTFD and CONFIG_PTE_MARKER_UFFD_WP",
    ),
    Trial("write log of another process", _other_log, "use --tracker compare"),
    Trial(
        "wake-up by the first write",
        _wakeup,
        "give the target CAP_SYS_PTRACE, or set vm.unprivileged_userfaultfd=1; until then vramtap polls it",
    ),
    Trial("reading another process", _read_other, "run with ptrace rights (CAP_SYS_PTRACE)", essential=True),
    Trial("tapping processes of other users", _foreign_processes, "run as root or with CAP_SYS_PTRACE"),
    Trial(
        "query of one mapping (PROCMAP_QUERY)",
        _maps_query,
        "use Linux 6.11 or newer; vramtap works without it, more slowly",
    ),
    Trial(
        "soft-dirty bits (not used: they clear the whole address space)",
        _soft_dirty,
        "nothing to do: vramtap does not use them",
    ),
    Trial("KVM for the built-in VM", _kvm, "use cpu=unicorn, which needs no KVM"),
    Trial("Xen domains", _xen, REMEDY_DOM0),
    Trial("X11 targets", _x11, "apt install libxcb1, or your system's libxcb"),
    Trial("JPEG for VNC clients", _jpeg, "pip install simplejpeg"),
    Trial("web page", _page, "run make install"),
)


def examine() -> list[Finding]:
    """Run all trials. A trial that fails does not keep the others from running."""
    return [run_trial(trial) for trial in _TRIALS]


def run_trial(trial: Trial) -> Finding:
    """Run one trial; a missing ability is a finding and not an error."""
    try:
        detail = trial.run()
    except TrialFailed as failure:
        detail, remedy = str(failure), failure.remedy or trial.remedy
    except VramtapError as error:
        detail, remedy = _without_remedy(error), error.remedy or trial.remedy
    else:
        return Finding(what=trial.what, ok=True, detail=detail, essential=trial.essential)
    return Finding(what=trial.what, ok=False, detail=detail, remedy=remedy, essential=trial.essential)


def _without_remedy(error: VramtapError) -> str:
    """Return the error's text without its remedy, which a finding shows separately."""
    return str(error).removesuffix(f" ({error.remedy})")
