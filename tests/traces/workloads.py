"""Recorders of the built-in VM's workloads, in the guest's own time."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Final

from vramtap.targets.url import parse
from vramtap.trace.record import intervals_in
from vramtap.trace.record_machine import record_machine
from vramtap.trace.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Callable

    from vramtap.trace.trace import Trace

NAMES: Final = ("idle", "caret", "typing", "scroll", "drag", "video-window", "video-full", "random")
HZ: Final = 60
SECONDS: Final = 30
MODE: Final = "1024x768"


def record(name: str) -> Trace:
    """Record half a minute of a workload: a frame in each interval, or for `caret` every half second."""
    spec = parse(f"demo:?workload={name}&mode={MODE}")
    recording = Recording(spec.url, HZ, "guest", {"name": name})
    record_machine(spec, recording, hz=HZ, intervals=intervals_in(SECONDS, HZ), stop=threading.Event())
    return recording.trace()


RECORDERS: Final[dict[str, Callable[[], Trace]]] = {
    f"workloads/{name}": partial(record, name) for name in NAMES
}
