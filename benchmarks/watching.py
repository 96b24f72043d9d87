"""Clients that wait for an update, and the moment at which something was really written."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from benchmarks.servers import Server
from rfb_client import RAW, RfbClient
from vramtap.linux.vm_rw import read_many

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

    def next_updates_s(self) -> dict[str, float]:
        """Wait until every server has sent an update.

        Returns:
            When each began to arrive, on the monotonic clock, by the server's name.
        """
        waiting = dict(zip(self.clients, self.servers, strict=True))
        arrived: dict[str, float] = {}
        deadline_s = time.monotonic() + SHOT_S
        while waiting:
            left_s = deadline_s - time.monotonic()
            ready = select.select([client.socket for client in waiting], [], [], max(0.0, left_s))[0]
            now_s = time.monotonic()
            if not ready:
                names = ", ".join(server.name for server in waiting.values())
                raise TimeoutError(f"no update within {SHOT_S:.0f} s from {names}")
            for client in [client for client in waiting if client.socket in ready]:
                if _take(client):
                    arrived[waiting.pop(client).name] = now_s
                    client.request()
        return arrived


def settle(waiting: Sequence[Waiting], quiet_s: float) -> None:
    """Take in whatever comes to any of them, until nothing has come for so long."""
    clients = [client for each in waiting for client in each.clients]
    while ready := select.select([client.socket for client in clients], [], [], quiet_s)[0]:
        for client in clients:
            if client.socket in ready and _take(client):
                client.request()


def _take(client: RfbClient) -> bool:
    """Take in what has come; whether an update was in it (servers also send clipboards and bells)."""
    try:
        client.wait_update(_REST_S)
    except TimeoutError:
        return False
    return True


@contextlib.contextmanager
def write_seen(pid: int, address: int) -> Iterator[list[float]]:
    """Watch 8 bytes of a process closely.

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
        while not end.wait(_PROBE_PAUSE_S):
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
