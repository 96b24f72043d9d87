"""A userfaultfd opened inside another process and brought out, by a helper that outlives being killed.

`fetch_userfaultfd` starts this module as a program in a session of its own. While the target's thread runs
with borrowed registers only the helper's death could harm it, so nothing aimed at vramtap (Ctrl-C, hang-up,
SIGKILL of the process or of its group) may reach the helper; it finishes, and if nobody takes the
descriptor it closes with the helper and the target is as it was.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from typing import Final

from vramtap import errors
from vramtap.errors import KernelError, NotTappable, Refused, TimedOut, VramtapError
from vramtap.linux import abi, procfs
from vramtap.linux.calls import LIBC, error_for
from vramtap.linux.pidfd import PidFd
from vramtap.linux.ptrace import Tracee
from vramtap.linux.userfaultfd import OPEN_FLAGS

_TIMEOUT_S: Final = 10.0
_PR_SET_NAME: Final = 15
_SECCOMP_FILTER: Final = "2"
_REPLY_BYTES: Final = 4096
_FD: Final = struct.Struct("i")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A descriptor brought out of another process.

    Args:
        fd: A userfaultfd of that process, owned by the receiver, close-on-exec.
        stopped_us: How long one of its threads stood still for it, in microseconds.
    """

    fd: int
    stopped_us: float


def fetch_userfaultfd(pid: int, *, allow_filtered: bool = False) -> Fetched:
    """Open a userfaultfd inside a running process and take it out.

    Kernel: see `ptrace.Tracee` and `pidfd.PidFd.getfd`; ptrace attach rights, nothing more.
    Cost: 60-100 ms for the helper to start; the target's thread is stopped for 100-300 us of it.

    Args:
        pid: Of a 64-bit process.
        allow_filtered: Go on although the target has a seccomp filter. The filter may kill a process for
            a call it does not expect; QEMU's own (`-sandbox on`) allows this one.

    Raises:
        Refused: no ptrace rights, already traced, or a seccomp filter in the way.
        NotTappable: not a 64-bit program, no vdso.
        TargetGone: it has ended.
        TimedOut: it did not stop in time.
        KernelError: userfaultfd(2) failed inside the target.
    """
    try:
        return _ask_helper(pid, allow_filtered)
    except OSError as error:
        raise error_for("injected call", f"pid {pid}", error.errno or 0) from error


def _ask_helper(pid: int, allow_filtered: bool) -> Fetched:
    """Start the helper and take what it answers."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(_TIMEOUT_S)
        arguments = (theirs.fileno(), pid, int(allow_filtered))
        command = [sys.executable, "-P", "-m", __name__, *map(str, arguments)]
        paths = os.pathsep.join(path for path in sys.path if path)
        with subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": paths},
        ) as helper:
            theirs.close()
            try:
                # Close-on-exec from the start: a copy that leaks into a child of another thread of ours would
                # keep the target's memory protected after we have let go. socket.recv_fds has no such flag.
                data, ancillary, _, _ = ours.recvmsg(
                    _REPLY_BYTES, socket.CMSG_SPACE(_FD.size), socket.MSG_CMSG_CLOEXEC
                )
            except TimeoutError:
                data, ancillary = b"", []
            finally:
                ours.close()
        if not data:
            status = helper.returncode
            raise TimedOut("injected call", f"pid {pid}", f"the helper gave no answer (status {status})")
        reply = json.loads(data)
        if "error" in reply:
            raise _rebuild(reply["error"])
        if not ancillary:
            # The kernel drops a descriptor that finds no room here (unix(7), MSG_CTRUNC).
            raise error_for("recvmsg", f"pid {pid}", errno.EMFILE)
        (fd,) = _FD.unpack(ancillary[0][2])
        return Fetched(fd, reply["stopped_us"])


def _inject(pid: int, allow_filtered: bool) -> Fetched:
    """What the helper does: open, take out, close the target's own copy."""
    if procfs.status_field(pid, "Seccomp") == _SECCOMP_FILTER and not allow_filtered:
        raise Refused(
            "injected call",
            f"pid {pid}",
            "it has a seccomp filter, which may kill it for a call it does not expect",
            "use --tracker compare",
        )
    with PidFd(pid) as process:
        tracee = Tracee(pid)
        with tracee:
            inside = tracee.syscall(abi.SYS_USERFAULTFD, OPEN_FLAGS)
            if inside < 0:
                raise error_for("userfaultfd", f"inside pid {pid}", -inside)
            try:
                fd = process.getfd(inside)
            finally:
                tracee.syscall(abi.SYS_CLOSE, inside)
        return Fetched(fd, tracee.stopped_ns / 1000)


def _describe(error: VramtapError) -> dict[str, object]:
    number = error.errno if isinstance(error, KernelError) else None
    return {
        "kind": type(error).__name__,
        "operation": error.operation,
        "object": error.object,
        "reason": error.reason,
        "remedy": error.remedy,
        "errno": number,
    }


def _rebuild(fields: dict[str, object]) -> VramtapError:
    """The helper's error, as if it had been raised here."""
    kind = getattr(errors, str(fields["kind"]))
    operation, obj, remedy = (str(fields[key]) for key in ("operation", "object", "remedy"))
    if fields["errno"] is not None:
        built: VramtapError = kind(operation, obj, fields["errno"], remedy)
    else:
        built = kind(operation, obj, str(fields["reason"]), remedy)
    return built


def _main() -> None:
    """Serve one request: arguments are the socket's descriptor, the pid, and 1 to allow seccomp."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    LIBC.prctl(_PR_SET_NAME, ctypes.c_char_p(b"vramtap-attach"), 0, 0, 0)
    fd, pid, allow_filtered = (int(argument) for argument in sys.argv[1:4])
    # Nobody may be left to tell: then the descriptor closes with us.
    with contextlib.suppress(BrokenPipeError), socket.socket(fileno=fd) as reply:
        try:
            fetched = _inject(pid, bool(allow_filtered))
        except VramtapError as error:
            reply.send(json.dumps({"error": _describe(error)}).encode())
        except OSError as error:
            wrapped = NotTappable("injected call", f"pid {pid}", str(error))
            reply.send(json.dumps({"error": _describe(wrapped)}).encode())
        else:
            socket.send_fds(reply, [json.dumps({"stopped_us": fetched.stopped_us}).encode()], [fetched.fd])


if __name__ == "__main__":
    _main()
