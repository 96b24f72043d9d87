"""Clients that wait for an update, and the moment at which something was really written."""

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
"""How long one update may take: QEMU's refresh timer alone backs off to 3 s."""
_REST_S: Final = 0.05
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
    """Take in whatever comes to any of them for so long; returns how many updates came to each."""
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
    """Take in what has come; whether an update was in it (servers also send clipboards and bells)."""
    try:
        client.wait_update(_REST_S)
    except TimeoutError:
        return False
    return True


@contextlib.contextmanager
def write_seen(pid: int, address: int) -> Iterator[list[float]]:
    """Watch 8 bytes of a process closely.

    This keeps a core half busy, but only until they are seen changed: what is timed from then on has the
    machine to itself.

    Yields:
        A list that gets the moment, on the monotonic clock, at which the bytes were first seen changed;
        about 0.1 ms late at most.
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
            # One look more when all is over: whoever wrote may have been back before the next was due.
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
