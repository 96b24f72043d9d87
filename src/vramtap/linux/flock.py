"""Lock files that come and go: taken with flock, deleted by whoever holds them, as Xen's toolstack does."""

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
"""Files found deleted between opening and locking before the lock counts as held: somebody is quicker."""
_LOCKS: Final = Path("/proc/locks")
_COMM_CHARS: Final = 16
"""TASK_COMM_LEN (linux/sched.h)."""


class LockFile(Descriptor):
    """A lock that is held: nobody else who follows the same rules holds it.

    Kernel: flock(2), since 2.0; no privilege but to write the file's directory.
    Cost: about 20 us to take and to release.

    The rules: open or create the file, lock it, and look whether the path still names the file that was
    locked; if not, begin anew. The holder may delete the file, and does so before it unlocks: were it the
    other way round, it could delete a file that somebody has just locked, and a third would make another.

    A holder that is killed leaves the file, which is no harm: the kernel unlocks it.
    """

    def __init__(self, fd: int, path: str) -> None:
        super().__init__(fd)
        self._path = path

    @classmethod
    def take(cls, path: str) -> LockFile | None:
        """Take the lock if it is free.

        Args:
            path: Of the lock file; it need not exist.

        Returns:
            None: somebody else holds it.

        Raises:
            KernelError: the file cannot be opened or locked.
        """
        for _ in range(_STALE_TRIES):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise _error("open", path, error) from error
            lock = cls(fd, path)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if lock._named():
                    return lock
            except BlockingIOError:
                lock.close()
                return None
            except OSError as error:
                lock.close()
                raise _error("flock", path, error) from error
            lock.close()
        return None

    def _named(self) -> bool:
        """Whether the path names the file that is open."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self._path))
        except FileNotFoundError:
            return False

    def wanted(self) -> bool:
        """Whether another process waits in flock(2) for this lock; one that only tries again is not seen.

        Kernel: /proc/locks and the `lock:` lines of /proc/PID/fdinfo (proc(5), since 4.1). Where they cannot
            be read, somebody may wait, which is what is said. Those in a pid namespace that is not seen from
            here are not listed.
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
        """Let go; harmless twice.

        Args:
            leave_file: Do not delete it. One who waits then has the lock at once, and not a file that is
                deleted under it, for which it would have to begin anew.

        Raises:
            KernelError: the file cannot be deleted; the lock is let go of all the same.
        """
        if self._fd < 0:
            return
        try:
            if not leave_file and self._named():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path)
        except OSError as error:
            raise _error("unlink", self._path, error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Unlock and close; harmless twice."""
        if self._fd >= 0:
            # Closing would do, had no child of ours inherited the descriptor.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        super().close()


def holder(path: str) -> str:
    """Who holds a lock file, as far as can be told.

    Args:
        path: Of the lock file.

    Returns:
        `pid 812 (xl)`, or nothing. A process that has locked a file for another, as Xen's toolstack lets a
        child do, may have ended.
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
