"""`vramtap serve` in a process of its own that counts what it asks of the hypervisor and the device model.

The processes are forked from one that has imported everything: to import it again takes an emulated processor
eight seconds each time. What they do from then on is what the program does; counting costs some microseconds
a question.
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

COUNTED: Final = ("calls", "call_s", "looks", "everything", "sessions", "questions", "cpu_states", "switches")
"""Questions to the hypervisor, and seconds they took; looks of the tap, and those told to look at everything;
sessions with QEMU's monitor; questions whether the device model ran; questions for CR0; voluntary context
switches of the process, of threads that have ended too."""
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
        url: Of the target.
        arguments: Further ones.
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
        """Where it listens, once it does."""
        line = self._lines.get(timeout=START_S)
        assert line is not None, f"vramtap serve ended with {self._process.exitcode}"
        return int(json.loads(line)["vnc"][1])

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def counts(self) -> dict[str, float]:
        """Totals until now; the switches as of the last question."""
        return dict(zip(COUNTED, self._counts, strict=True))

    def close(self) -> None:
        """Ctrl-C, and what it said of itself at last."""
        if self._process.is_alive():
            os.kill(self.pid, signal.SIGINT)
        self._process.join(START_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._reader.join()
        self._heard.close()


def _serve(command: list[str], counts: ctypes.Array[ctypes.c_double], said: Connection) -> None:
    """The child: count, and be the program."""
    os.dup2(said.fileno(), 1)
    said.close()
    # The helper of multiprocessing has Ctrl-C ignored, which its children inherit.
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
        def wrapped(*args: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever it is
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

    def looked(answer: object, _: float) -> None:
        counts[place["everything"]] += isinstance(answer, AllDirty)

    counting(DeviceModel, "track_dirty_vram", "calls", called)
    counting(XenTracker, "collect", "looks", looked)
    counting(SchedstatProbe, "read", "questions", None)
    counting(Control, "heeds_write_protection", "cpu_states", None)
    counting(LibxlMonitor, "_begin_session", "sessions", None)
