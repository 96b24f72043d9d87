"""Lock files after the rules of Xen's toolstack: locked with flock, deleted by their holder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from vramtap.errors import KernelError
from vramtap.linux.descriptor import Descriptor

_STALE_TRIES: Final = 20
"""Attempts to lock the file before the lock counts as held; another process may delete it each time."""
_LOCKS: Final = Path("/proc/locks")
_COMM_CHARS: Final = 16
"""TASK_COMM_LEN (linux/sched.h)."""


class LockFile(Descriptor):
    """A lock that this process holds, among processes that follow the same rules.

    Kernel: flock(2), since 2.0; needs write permission on the file's directory.
    Cost: about 20 us to take and to release.

    The rules: open or create the file, lock it, and check whether the path still names the locked file; if
    not, start again. The holder may delete the file, and must do so before it unlocks. In the other order it
    could delete a file that a second process has just locked, and a third process would create another.

    A holder that is killed leaves the file. That does no harm: the kernel unlocks it.
    """

    def __init__(self, fd: int, path: str) -> None:
        super().__init__(fd)
        self._path = path

    @classmethod
    def take(cls, path: str) -> LockFile | None:
        """Take the lock if it is free.

        Args:
            path: Path of the lock file; it need not exist.

        Returns:
            The lock, or None if another process holds it.

        Raises:
            KernelError: The file cannot be opened or locked.
        """
        for _ in range(_STALE_TRIES):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise _error("open", path, error) from error
            lock = cls(fd, path)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if lock._path_names_file():
                    return lock
            except BlockingIOError:
                lock.close()
                return None
            except OSError as error:
                lock.close()
                raise _error("flock", path, error) from error
            lock.close()
        return None

    def _path_names_file(self) -> bool:
        """Return whether the path still names the open file."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self._path))
        except FileNotFoundError:
            return False

    def wanted(self) -> bool:
        """Return whether another process waits in flock(2) for this lock.

        It does not see processes that poll with LOCK_NB. It returns True if the files cannot be read.

        Kernel: /proc/locks and the `lock:` lines of /proc/PID/fdinfo (proc(5), since 4.1). They do not list
            processes in pid namespaces that are invisible from here.
        Cost: about 50 us, and more with many locks.
        """
        try:
            ours = {
                line.split()[-3]
                for line in Path(f"/proc/self/fdinfo/{self._fd}").read_text().splitlines()
                if line.startswith("lock:") and "FLOCK" in line
            }
            waiting = [line.split() for line in _LOCKS.read_text().splitlines() if "->" in line]
        except OSError:
            return True
        return any(ours.intersection(line) for line in waiting)

    def release(self, *, leave_file: bool = False) -> None:
        """Delete the file and release the lock; repeated calls do nothing.

        Args:
            leave_file: Do not delete the file. A waiting process then gets the lock at once. Otherwise it
                gets a deleted file and must start again.

        Raises:
            KernelError: The file cannot be deleted; the lock is released nevertheless.
        """
        if self._fd < 0:
            return
        try:
            if not leave_file and self._path_names_file():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path)
        except OSError as error:
            raise _error("unlink", self._path, error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Unlock and close; repeated calls do nothing."""
        if self._fd >= 0:
            # Closing alone does not unlock if a child process has inherited the descriptor.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        super().close()


def holder(path: str) -> str:
    """Return a description of the process that holds a lock file, for messages.

    Args:
        path: Path of the lock file.

    Returns:
        For example `pid 812 (xl)`; empty if unknown. The process may have ended: Xen's toolstack lets a child
        lock a file for its parent.
    """
    try:
        inode = str(os.stat(path).st_ino)
        for line in _LOCKS.read_text().splitlines():
            fields = line.split()
            if len(fields) == 8 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
                comm = Path(f"/proc/{int(fields[4])}/comm").read_text().strip()[:_COMM_CHARS]
                return (
                    f"pid {int(fields[4])} ({''.join(char if char.isprintable() else '?' for char in comm)})"
                )
    except (OSError, ValueError):
        return ""
    return ""


def _error(operation: str, path: str, error: OSError) -> KernelError:
    number = error.errno or errno.EIO
    return KernelError(operation, path, number, os.strerror(number))
