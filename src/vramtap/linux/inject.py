"""Userfaultfds opened inside another process and brought out, by a helper that outlives being killed.

`fetch` starts this module as a program in a session of its own. While the target's thread runs
with borrowed registers only the helper's death could harm it, so nothing aimed at vramtap (Ctrl-C, hang-up,
SIGKILL of the process or of its group) may reach the helper; it finishes, and if nobody takes the
descriptor it closes with the helper and the target is as it was. Where it brings out a descriptor for
synchronous protection too, the helper stays and becomes its watchdog (see `watchdog`).
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
from vramtap.linux.userfaultfd import FULL_OPEN_FLAGS, GUARD_FEATURES, OPEN_FLAGS, Userfaultfd
from vramtap.linux.watchdog import Signals, Watchdog, stand_guard

_TIMEOUT_S: Final = 10.0
_PR_SET_NAME: Final = 15
_SECCOMP_FILTER: Final = "2"
_REPLY_BYTES: Final = 4096
_FD: Final = struct.Struct("i")


@dataclass(frozen=True, slots=True)
class Fetched:
    """Descriptors brought out of another process.

    Args:
        fd: A userfaultfd of that process for the log, owned by the receiver, close-on-exec.
        stopped_us: How long one of its threads stood still for it, in microseconds.
        watchdog: With a full userfaultfd of it, whose features are agreed on; None where none was asked for
            or none was to be had.
        refusal: Why there is no watchdog although one was asked for.
    """

    fd: int
    stopped_us: float
    watchdog: Watchdog | None = None
    refusal: str = ""


def fetch_userfaultfd(pid: int, *, allow_filtered: bool = False) -> Fetched:
    """Open a userfaultfd for the log inside a running process and take it out.

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
    return _fetch(pid, allow_filtered, (0, 0))


def fetch_guarded(pid: int, start: int, end: int, *, allow_filtered: bool = False) -> Fetched:
    """The same, and a full userfaultfd for synchronous protection with a watchdog that answers for it.

    Kernel: userfaultfd(2) without UFFD_USER_MODE_ONLY: CAP_SYS_PTRACE in the target, or
        vm.unprivileged_userfaultfd=1.
    Cost: the thread is stopped for 50-100 us more; the helper stays, with about 15 MiB.

    Args:
        pid: Of a 64-bit process.
        start: First address of the extent, a page boundary.
        end: Address past the last, a page boundary.
        allow_filtered: See `fetch_userfaultfd`.

    Raises:
        VramtapError: as `fetch_userfaultfd`; that the full one is refused is no error.
    """
    return _fetch(pid, allow_filtered, (start, end))


def _fetch(pid: int, allow_filtered: bool, guarded: tuple[int, int]) -> Fetched:
    try:
        return _ask_helper(pid, allow_filtered, guarded)
    except OSError as error:
        raise error_for("injected call", f"pid {pid}", error.errno or 0) from error


def _ask_helper(pid: int, allow_filtered: bool, guarded: tuple[int, int]) -> Fetched:
    """Start the helper and take what it answers."""
    with contextlib.ExitStack() as stack:
        signals = Signals.make()
        stack.callback(signals.close)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            stack.callback(ours.close)
            arguments = (theirs.fileno(), *signals.descriptors, pid, int(allow_filtered), *guarded)
            command = [sys.executable, "-P", "-m", __name__, *map(str, arguments)]
            paths = os.pathsep.join(path for path in sys.path if path)
            helper = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno(), *signals.descriptors],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": paths},
            )
        stack.callback(helper.wait)
        stack.callback(ours.close)
        ours.settimeout(_TIMEOUT_S)
        try:
            # Close-on-exec from the start: a copy that leaks into a child of another thread of ours would
            # keep the target's memory protected after we have let go. socket.recv_fds has no such flag.
            data, ancillary, _, _ = ours.recvmsg(
                _REPLY_BYTES, socket.CMSG_SPACE(2 * _FD.size), socket.MSG_CMSG_CLOEXEC
            )
        except TimeoutError:
            data, ancillary = b"", []
        if not data:
            ours.close()
            status = helper.wait()
            raise TimedOut("injected call", f"pid {pid}", f"the helper gave no answer (status {status})")
        reply = json.loads(data)
        if "error" in reply:
            raise _rebuild(reply["error"])
        fds = [fd for _, _, some in ancillary for (fd,) in _FD.iter_unpack(some[: len(some) & -_FD.size])]
        if len(fds) != reply["descriptors"]:
            for fd in fds:
                os.close(fd)
            # The kernel drops a descriptor that finds no room here (unix(7), MSG_CTRUNC).
            raise error_for("recvmsg", f"pid {pid}", errno.EMFILE)
        if len(fds) == 1:
            return Fetched(fds[0], reply["stopped_us"], refusal=reply["refusal"])
        stack.pop_all()
        watchdog = Watchdog(Userfaultfd(fds[1], f"pid {pid}"), signals, ours, helper)
        return Fetched(fds[0], reply["stopped_us"], watchdog)


@dataclass(frozen=True, slots=True)
class _Opened:
    """What the helper has opened in the target and holds now."""

    fd: int
    guard: Userfaultfd | None
    refusal: str
    stopped_us: float


def _inject(pid: int, allow_filtered: bool, guarded: bool = False) -> _Opened:
    """What the helper does: open, take out, close the target's own copies."""
    if procfs.status_field(pid, "Seccomp") == _SECCOMP_FILTER and not allow_filtered:
        raise Refused(
            "injected call",
            f"pid {pid}",
            "it has a seccomp filter, which may kill it for a call it does not expect",
            "use --tracker compare",
        )
    guard, refusal = None, ""
    with PidFd(pid) as process:
        tracee = Tracee(pid)
        with tracee:
            fd = _open_inside(tracee, process, OPEN_FLAGS)
            if guarded:
                try:
                    guard = Userfaultfd(_open_inside(tracee, process, FULL_OPEN_FLAGS), f"pid {pid}")
                except KernelError as error:
                    refusal = f"{error.operation} {error.object}: {error.reason}"
                    if error.errno == errno.EPERM:
                        refusal += " (it needs CAP_SYS_PTRACE, or the system vm.unprivileged_userfaultfd=1)"
    if guard is not None:
        try:
            guard.api(GUARD_FEATURES)
        except VramtapError as error:
            guard.close()
            guard, refusal = None, str(error)
    return _Opened(fd, guard, refusal, tracee.stopped_ns / 1000)


def _open_inside(tracee: Tracee, process: PidFd, flags: int) -> int:
    """Open a userfaultfd inside the target, take it out, and close the target's own copy."""
    inside = tracee.syscall(abi.SYS_USERFAULTFD, flags)
    if inside < 0:
        raise error_for("userfaultfd", f"inside pid {process.pid}", -inside)
    try:
        return process.getfd(inside)
    finally:
        tracee.syscall(abi.SYS_CLOSE, inside)


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
    """Serve one request; the arguments are those of `_ask_helper`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    LIBC.prctl(_PR_SET_NAME, ctypes.c_char_p(b"vramtap-attach"), 0, 0, 0)
    fd, board, bell, pid, allow_filtered, start, end = (int(argument) for argument in sys.argv[1:8])
    # Nobody may be left to tell: then the descriptors close with us.
    with contextlib.suppress(BrokenPipeError), socket.socket(fileno=fd) as link:
        try:
            opened = _inject(pid, bool(allow_filtered), guarded=end > start)
        except VramtapError as error:
            link.send(json.dumps({"error": _describe(error)}).encode())
        except OSError as error:
            wrapped = NotTappable("injected call", f"pid {pid}", str(error))
            link.send(json.dumps({"error": _describe(wrapped)}).encode())
        else:
            fds = [opened.fd] + ([opened.guard.fileno()] if opened.guard is not None else [])
            reply = {
                "stopped_us": opened.stopped_us,
                "descriptors": len(fds),
                "refusal": opened.refusal,
            }
            socket.send_fds(link, [json.dumps(reply).encode()], fds)
            os.close(opened.fd)
            if opened.guard is not None:
                LIBC.prctl(_PR_SET_NAME, ctypes.c_char_p(b"vramtap-guard"), 0, 0, 0)
                stand_guard(opened.guard, Signals(board, bell), link, start, end)


if __name__ == "__main__":
    _main()
