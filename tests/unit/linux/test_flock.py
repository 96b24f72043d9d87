"""LockFile: one holder at a time, with deleted files and killed holders."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from support import fake_libxl
from support.testbed.supervise import spawn, stop
from vramtap.errors import KernelError
from vramtap.linux.flock import LockFile, holder

if TYPE_CHECKING:
    from pathlib import Path


def taken(path: Path) -> LockFile:
    lock = LockFile.take(str(path))
    assert lock is not None
    return lock


def test_second_holder_is_refused_until_release(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = taken(path)
    assert LockFile.take(str(path)) is None
    assert holder(str(path)).startswith(f"pid {os.getpid()} (")
    lock.release()
    lock.release()
    assert not path.exists()
    assert holder(str(path)) == ""
    taken(path).close()
    assert path.exists()
    assert holder(str(path)) == ""


def test_release_does_not_delete_file_of_another_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = taken(path)
    path.unlink()
    second = taken(path)
    first.release()
    assert LockFile.take(str(path)) is None
    second.release()
    assert not path.exists()


@pytest.mark.parametrize(
    ("path", "number"), [("/sys/kernel/lock", errno.EACCES), ("/nowhere/lock", errno.ENOENT)]
)
def test_unopenable_file_raises_kernel_error(path: str, number: int) -> None:
    with pytest.raises(KernelError, match=f"open {path}: E") as caught:
        LockFile.take(path)
    assert caught.value.errno == number


def test_killed_holder_releases_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = spawn(
        [sys.executable, fake_libxl.__file__, "hold", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"HELD\n"
        assert LockFile.take(str(path)) is None
        assert str(process.pid) in holder(str(path))
    finally:
        stop(process)
    taken(path).release()
    assert not path.exists()


def test_waiting_process_is_seen_and_gets_same_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = taken(path)
    assert not lock.wanted()
    inode = path.stat().st_ino
    process = spawn(
        [sys.executable, fake_libxl.__file__, "hold", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        while not lock.wanted():
            assert process.poll() is None
        lock.release(leave_file=True)
        assert process.stdout is not None
        assert process.stdout.readline() == b"HELD\n"
        assert path.stat().st_ino == inode
    finally:
        stop(process)


ROUNDS = 400


def test_deleted_and_recreated_file_has_one_holder(tmp_path: Path) -> None:
    """Threads of vramtap poll for the lock, libxl's wait for it; both delete the file."""
    path = str(tmp_path / "lock")
    inside: list[int] = []
    together: list[list[int]] = []

    def enter(me: int) -> None:
        inside.append(me)
        os.sched_yield()
        if inside != [me]:
            together.append(list(inside))
        inside.remove(me)

    def try_lock(me: int) -> None:
        for number in range(ROUNDS):
            while (lock := LockFile.take(path)) is None:
                os.sched_yield()
            enter(me)
            lock.release(leave_file=number % 3 == 0)

    def wait_for_lock(me: int) -> None:
        for _ in range(ROUNDS):
            fd = fake_libxl.lock(path)
            enter(me)
            fake_libxl.unlock(fd, path)

    # The lock belongs to the open file, so threads exclude each other as processes do.
    threads = [
        threading.Thread(target=work, args=(me,)) for me, work in enumerate([try_lock, wait_for_lock] * 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not together
