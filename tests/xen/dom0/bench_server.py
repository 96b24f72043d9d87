"""`vramtap serve` in a separate process that counts its calls to the hypervisor and the device model.

The processes are forked from one that has imported everything, because each import takes an emulated
processor eight seconds. They then behave like the program. Counting costs some microseconds per call.
"""

from __future__ import annotations

import ctypes
import functools
import json
import multiprocessing
import os
import queue
import resource
import signal
import sys
import threading
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

COUNTED: Final = ("calls", "call_s", "scans", "full_scans", "sessions", "questions", "cpu_states", "switches")
"""Counters, in this order:

- calls to the hypervisor, and the seconds they took;
- scans of the tap, and those of all pages;
- sessions with QEMU's monitor;
- reads of the device model's CPU clock;
- reads of CR0;
- voluntary context switches of the process, including threads that have ended.
"""
START_S: Final = 120.0

_spawn = multiprocessing.get_context("forkserver")
_spawn.set_forkserver_preload(
    [
        "vramtap.cli.main",
        "vramtap.cli.serve",
        "vramtap.targets.xen.target",
        "vramtap.trackers.xen.tracker",
        "vramtap.trackers.userfault.hybrid",
    ]
)


class Counted:
    """`vramtap serve`, running inside the `with` block.

    Args:
        url: The target.
        arguments: Further arguments of `serve`.
    """

    def __init__(self, url: str, *arguments: str) -> None:
        self._counts = _spawn.RawArray(ctypes.c_double, len(COUNTED))
        heard, said = _spawn.Pipe(duplex=False)
        command = ["serve", url, "--vnc", "127.0.0.1:0", "--json", *arguments]
        self._process = _spawn.Process(target=_serve, args=(command, self._counts, said))
        self._heard = heard
        self._process.start()
        said.close()
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.stats: dict[str, Any] = {}

    def _read(self) -> None:
        with os.fdopen(os.dup(self._heard.fileno())) as lines:
            for line in lines:
                said = json.loads(line)
                self.stats = said.get("stats", self.stats)
                if "vnc" in said:
                    self._lines.put(line)
        self._lines.put(None)

    @cached_property
    def port(self) -> int:
        """Port of the server. Waits until it listens."""
        line = self._lines.get(timeout=START_S)
        assert line is not None, f"vramtap serve ended with {self._process.exitcode}"
        return int(json.loads(line)["vnc"][1])

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def counts(self) -> dict[str, float]:
        """Return the totals so far. The switches are as of the last call to the hypervisor."""
        return dict(zip(COUNTED, self._counts, strict=True))

    def close(self) -> None:
        """Send SIGINT, wait for the end, and read the last statistics."""
        if self._process.is_alive():
            os.kill(self.pid, signal.SIGINT)
        self._process.join(START_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._reader.join()
        self._heard.close()


def _serve(command: list[str], counts: ctypes.Array[ctypes.c_double], said: Connection) -> None:
    """Run the program in the child process, with the counters."""
    os.dup2(said.fileno(), 1)
    said.close()
    # The fork server of multiprocessing ignores SIGINT, and its children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _count(counts)
    from vramtap.cli import main

    sys.argv[1:] = command
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    main.main()


def _count(counts: ctypes.Array[ctypes.c_double]) -> None:
    from vramtap.linux.schedstat import SchedstatProbe
    from vramtap.targets.xen.libxl_qmp import LibxlMonitor
    from vramtap.trackers.base import AllDirty
    from vramtap.trackers.xen.tracker import XenTracker
    from vramtap.xen.control import Control
    from vramtap.xen.devicemodel import DeviceModel

    place = {name: index for index, name in enumerate(COUNTED)}

    def counting(owner: type, method: str, count: str, then: Callable[[Any, float], None] | None) -> None:
        original, index = getattr(owner, method), place[count]

        @functools.wraps(original)
        def wrapped(*args: Any, **named: Any) -> Any:  # noqa: ANN401 - any method's result
            counts[index] += 1
            began = time.perf_counter()
            answer = original(*args, **named)
            if then is not None:
                then(answer, time.perf_counter() - began)
            return answer

        setattr(owner, method, wrapped)

    def called(_: object, took_s: float) -> None:
        counts[place["call_s"]] += took_s
        counts[place["switches"]] = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw

    def scanned(answer: object, _: float) -> None:
        counts[place["full_scans"]] += isinstance(answer, AllDirty)

    counting(DeviceModel, "track_dirty_vram", "calls", called)
    counting(XenTracker, "collect", "scans", scanned)
    counting(SchedstatProbe, "read", "questions", None)
    counting(Control, "heeds_write_protection", "cpu_states", None)
    counting(LibxlMonitor, "_begin_session", "sessions", None)
