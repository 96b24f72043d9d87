"""Uses a domain's monitor as libxl does: take the lock file, connect, run a command, unlock.

`python fake_libxl.py SOCKET LOCK ROUNDS` prints a line for each round. With 0 rounds it never ends.
`python fake_libxl.py hold LOCK` prints HELD and keeps the lock until it is killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
from itertools import count


def lock(path: str) -> int:
    """Take the lock; return the descriptor (Xen: libxl_internal.c, libxl__ev_slowlock_lock)."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except FileNotFoundError:
            pass  # the holder has deleted it
        os.close(fd)


def unlock(fd: int, path: str) -> None:
    """Delete the file and unlock it."""
    os.unlink(path)
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def ask(path: str, number: int) -> None:
    """Connect, run one command, disconnect."""
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as lines:
        connection.connect(path)
        assert "QMP" in json.loads(lines.readline())
        for command in ("qmp_capabilities", "query-status"):
            connection.sendall(json.dumps({"execute": command, "id": f"libxl {number}"}).encode() + b"\n")
            answer = {}
            while "return" not in answer:
                answer = json.loads(lines.readline())
                assert "error" not in answer, answer
            assert answer.get("id") == f"libxl {number}", answer


if __name__ == "__main__":
    if sys.argv[1] == "hold":
        held = lock(sys.argv[2])
        print("HELD", flush=True)
        sys.stdin.read()
    else:
        rounds = int(sys.argv[3])
        for number in range(rounds) if rounds else count():
            held = lock(sys.argv[2])
            ask(sys.argv[1], number)
            unlock(held, sys.argv[2])
            print(number, flush=True)
