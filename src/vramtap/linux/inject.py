"""Injection: opens userfaultfds inside another process and duplicates them into this one.

`fetch_userfaultfd` and `fetch_guarded` run this module as a program, the helper, in its own session. While
the target's thread runs with borrowed registers, the death of the helper would harm the target. So no
signal meant for vramtap (Ctrl-C, hang-up, SIGKILL of the process or of its group) may reach the helper. It
always finishes. If vramtap has ended meanwhile, the descriptor closes with the helper, and the target is as
it was. With `fetch_guarded` the helper stays and becomes the watchdog (see `vramtap.linux.watchdog`).
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
    """Descriptors duplicated from another process.

    Args:
        fd: A userfaultfd of the target for the write log, owned by the receiver, close-on-exec.
        stopped_us: Time for which one thread of the target was stopped, us.
        watchdog: The watchdog, with a full userfaultfd of the target after `api`; None without one.
        refusal: Why `fetch_guarded` returns no watchdog; empty otherwise.
    """

    fd: int
    stopped_us: float
    watchdog: Watchdog | None = None
    refusal: str = ""


def fetch_userfaultfd(pid: int, *, allow_filtered: bool = False) -> Fetched:
    """Open a userfaultfd for the write log inside a running process and duplicate it into this one.

    Kernel: see `ptrace.Tracee` and `pidfd.PidFd.getfd`; needs ptrace attach rights only.
    Cost: 60-100 ms for the helper to start; one thread of the target is stopped for 100-300 us of it.

    Args:
        pid: Process id of a 64-bit process.
        allow_filtered: Continue although the target has a seccomp filter. A filter may kill the process for
            an unexpected call; QEMU's own (`-sandbox on`) allows this one.

    Raises:
        Refused: vramtap has no ptrace rights, the target is traced already, or it has a seccomp filter.
        NotTappable: The target is not a 64-bit program, or has no vdso.
        TargetGone: The target has ended.
        TimedOut: The target did not stop in time.
        KernelError: userfaultfd(2) failed inside the target.
    """
    return _fetch(pid, (0, 0), allow_filtered=allow_filtered)


def fetch_guarded(pid: int, start: int, end: int, *, allow_filtered: bool = False) -> Fetched:
    """Fetch two userfaultfds: one for the write log, and a full one, guarded by a watchdog.

    The full one offers synchronous protection.

    Kernel: userfaultfd(2) without UFFD_USER_MODE_ONLY: CAP_SYS_PTRACE in the target, or
        vm.unprivileged_userfaultfd=1.
    Cost: the thread is stopped for 50-100 us more; the helper stays, with about 15 MiB.

    Args:
        pid: Process id of a 64-bit process.
        start: First address of the extent, a page boundary.
        end: Address past the last, a page boundary.
        allow_filtered: See `fetch_userfaultfd`.

    Raises:
        VramtapError: As `fetch_userfaultfd`. If the kernel refuses the full userfaultfd only, `refusal` of
            the result says why.
    """
    return _fetch(pid, (start, end), allow_filtered=allow_filtered)


def _fetch(pid: int, guarded: tuple[int, int], *, allow_filtered: bool) -> Fetched:
    try:
        return _run_helper(pid, guarded, allow_filtered=allow_filtered)
    except OSError as error:
        raise error_for("injected call", f"pid {pid}", error.errno or 0) from error


def _run_helper(pid: int, guarded: tuple[int, int], *, allow_filtered: bool) -> Fetched:
    """Start the helper and receive its answer."""
    with contextlib.ExitStack() as stack:
        signals = Signals.create()
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
            # Close-on-exec from the start: a copy that leaks into a child started by another thread would
            # keep the target's memory protected after the tracker has stopped. socket.recv_fds has no flag.
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
            # The kernel drops descriptors that exceed this process's limit (unix(7), MSG_CTRUNC).
            raise error_for("recvmsg", f"pid {pid}", errno.EMFILE)
        if len(fds) == 1:
            return Fetched(fds[0], reply["stopped_us"], refusal=reply["refusal"])
        stack.pop_all()
        watchdog = Watchdog(Userfaultfd(fds[1], f"pid {pid}"), signals, ours, helper)
        return Fetched(fds[0], reply["stopped_us"], watchdog)


@dataclass(frozen=True, slots=True)
class _Opened:
    """Descriptors that the helper has opened in the target and holds; see `Fetched`."""

    fd: int
    guard: Userfaultfd | None
    refusal: str
    stopped_us: float


def _inject(pid: int, *, allow_filtered: bool, guarded: bool = False) -> _Opened:
    """Open the userfaultfds in the target, duplicate them, and close the target's own copies."""
    if procfs.status_field(pid, "Seccomp") == _SECCOMP_FILTER and not allow_filtered:
        raise Refused(
            "injected call",
            f"pid {pid}",
            "it has a seccomp filter, which may kill it for an unexpected call",
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
                        refusal += " (give it CAP_SYS_PTRACE, or set vm.unprivileged_userfaultfd=1)"
    if guard is not None:
        try:
            guard.api(GUARD_FEATURES)
        except VramtapError as error:
            guard.close()
            guard, refusal = None, str(error)
    return _Opened(fd, guard, refusal, tracee.stopped_ns / 1000)


def _open_inside(tracee: Tracee, process: PidFd, flags: int) -> int:
    """Open a userfaultfd inside the target, duplicate it, and close the target's own copy."""
    inside = tracee.syscall(abi.SYS_USERFAULTFD, flags)
    if inside < 0:
        raise error_for("userfaultfd", f"inside pid {process.pid}", -inside)
    try:
        return process.getfd(inside)
    finally:
        tracee.syscall(abi.SYS_CLOSE, inside)


def _describe(error: VramtapError) -> dict[str, object]:
    """Return the fields of an error as JSON values; see `_rebuild`."""
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
    """Return the error that the helper described."""
    kind = getattr(errors, str(fields["kind"]))
    operation, obj, remedy = (str(fields[key]) for key in ("operation", "object", "remedy"))
    if fields["errno"] is not None:
        built: VramtapError = kind(operation, obj, fields["errno"], remedy)
    else:
        built = kind(operation, obj, str(fields["reason"]), remedy)
    return built


def _main() -> None:
    """Serve one request; `_run_helper` passes the arguments."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    LIBC.prctl(_PR_SET_NAME, ctypes.c_char_p(b"vramtap-attach"), 0, 0, 0)
    fd, counters, eventfd, pid, allow_filtered, start, end = (int(argument) for argument in sys.argv[1:8])
    # If the main process has ended, the descriptors close with the helper.
    with contextlib.suppress(BrokenPipeError), socket.socket(fileno=fd) as link:
        try:
            opened = _inject(pid, allow_filtered=bool(allow_filtered), guarded=end > start)
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
                stand_guard(opened.guard, Signals(counters, eventfd), link, start, end)


if __name__ == "__main__":
    _main()
