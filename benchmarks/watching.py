"""Clients that wait for updates, and a probe for the moment of a write."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from typing import TYPE_CHECKING, Final

import numpy as np

from support.rfb_client import RAW, RfbClient
from vramtap.linux.vm_rw import read_many

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.servers import Server

SHOT_S: Final = 30.0
"""Longest time for one update, seconds; QEMU's refresh timer alone backs off to 3 s."""
_MESSAGE_S: Final = 0.05
"""Longest wait for the rest of a message that has begun to arrive, seconds."""
_PROBE_PAUSE_S: Final = 50e-6


class Waiting:
    """Raw clients of several servers, each with an incremental request outstanding."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = list(servers)
        self._stack = contextlib.ExitStack()
        self.clients: list[RfbClient] = []

    def __enter__(self) -> Waiting:
        for server in self.servers:
            client = self._stack.enter_context(RfbClient.connect("127.0.0.1", server.port, encodings=[RAW]))
            client.refresh(incremental=False)
            client.request()
            self.clients.append(client)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def drain(waiting: Sequence[Waiting], duration_s: float) -> list[int]:
    """Receive messages for this long; return the number of updates that each element received."""
    owner = {client.socket: (index, client) for index, each in enumerate(waiting) for client in each.clients}
    until_s, updates = time.monotonic() + duration_s, [0] * len(waiting)
    while (left_s := until_s - time.monotonic()) > 0:
        for ready in select.select(list(owner), [], [], left_s)[0]:
            index, client = owner[ready]
            if take(client):
                updates[index] += 1
                client.request()
    return updates


def take(client: RfbClient) -> bool:
    """Receive one message; return whether it was an update (servers also send cut texts and bells)."""
    try:
        client.wait_update(_MESSAGE_S)
    except TimeoutError:
        return False
    return True


@contextlib.contextmanager
def write_seen(pid: int, address: int) -> Iterator[list[float]]:
    """Poll 8 bytes of a process until they change.

    Polling keeps a core half busy. It ends with the change, so that what is timed from then on has the
    machine to itself.

    Yields:
        A list that receives the time at which the bytes were first seen changed, on the monotonic clock. This
        is at most about 0.1 ms after the change.
    """
    seen: list[float] = []
    end = threading.Event()
    remote, length = np.array([address], dtype=np.uint64), np.array([8], dtype=np.uint64)
    into = np.zeros(1, dtype=np.uint64)
    local = np.array([into.ctypes.data], dtype=np.uint64)
    read_many(pid, remote, length, local)
    before = int(into[0])

    def watch() -> None:
        ended = False
        while not ended:
            # One more poll at the end: the writer may have returned before the next poll was due.
            ended = end.wait(_PROBE_PAUSE_S)
            read_many(pid, remote, length, local)
            if int(into[0]) != before:
                seen.append(time.monotonic())
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        end.set()
        thread.join()
