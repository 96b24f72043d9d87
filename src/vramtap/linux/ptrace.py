"""ptrace: one system call made by another process, which afterwards runs on as after any short stop.

How a call is injected, and why it is done this way:

Facts. A userfaultfd acts on the address space of the process that called userfaultfd(2), so that one call
must run inside the target; everything else can be done from outside. PTRACE_SEIZE does not stop the
target, PTRACE_INTERRUPT stops one thread, wherever it is. If it is inside a system call that can be
restarted, the kernel has already written its private restart code into rax (-512..-516) and will act on
it when the thread returns to user mode, provided orig_rax is not negative. If it is inside a restartable
sequence (rseq(2)), the kernel sends it to the sequence's abort handler when it returns to user mode after
the stop, but looks only at the rip of that moment: a borrowed rip makes it forget the sequence. A signal
that arrives while the thread runs with borrowed registers would push a frame built from them. If the tracer
dies, the thread is let go with whatever registers it has at that moment.

Consequences. The registers must be saved and restored whole, orig_rax included, so that an interrupted
call restarts by itself; a sequence must be aborted as the kernel would have done it, or it commits what
another thread has changed meanwhile; the borrowed run must have orig_rax = -1, so that the kernel does not
mistake it for a restart; signals must be blocked meanwhile; and the tracer must not be killed half way.

Decision. The thread's signal mask is set full and restored at the end; rip is pointed at a `syscall`
instruction that is there already (the vdso has one); one single step runs it. All this happens in a helper
process in a session of its own (see `inject`), which no Ctrl-C, hang-up or SIGKILL meant for vramtap
reaches. The threads of the target other than the one borrowed are never stopped.

What the thread can notice is what SIGSTOP and SIGCONT would make it notice: the few calls that the kernel
does not restart after a stop (epoll_wait, semop, sigtimedwait, ...; signal(7), "Interruption of system calls
and library functions by stop signals") return EINTR.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import time
from typing import TYPE_CHECKING, Final, Self, TypeVar

from vramtap.errors import KernelError, NotTappable, Refused, TargetGone, TimedOut
from vramtap.linux import abi, procfs
from vramtap.linux.calls import LIBC, raise_errno

if TYPE_CHECKING:
    from io import FileIO
    from types import TracebackType

_GETREGS: Final = 12
_SETREGS: Final = 13
_SINGLESTEP: Final = 9
_DETACH: Final = 17
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_GETSIGMASK: Final = 0x420A
_SETSIGMASK: Final = 0x420B

_GET_RSEQ_CONFIGURATION: Final = 0x420F

_LOOK_AGAIN_S: Final = 0.05
"""A stop is reported within a millisecond; so rarely is one missed that this need not be short."""
_EVENT_STOP: Final = 128
_MAX_STEPS: Final = 8
"""Steps asked for until one runs an instruction: each stop that is reported in between takes one."""

_WALL: Final = 0x40000000
"""__WALL of waitpid(2): threads too, not only children that end with SIGCHLD."""
_USER_CS_64: Final = 0x33
"""Code segment of 64-bit user mode (kernel: arch/x86/include/asm/segment.h, __USER_CS)."""
_SYSCALL_INSN: Final = b"\x0f\x05"
_MAX_VDSO_BYTES: Final = 1 << 16
_SIGSET_BYTES: Final = 8

_ptrace = LIBC.ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class Tracee:
    """A thread of another process, stopped for as long as this context lasts.

    Kernel: ptrace(2) PTRACE_SEIZE and PTRACE_INTERRUPT, since 3.4; needs ptrace attach rights (same user
        and dumpable, or CAP_SYS_PTRACE; Yama's ptrace_scope, SELinux and AppArmor may refuse).
    Cost: the thread stands still for about 100-300 us; `stopped_ns` tells. Other threads run on.

    SIGCHLD must be blocked in the calling thread: that is how a stop is waited for without polling.

    Args:
        pid: Of a 64-bit x86-64 process.
        timeout_s: How long to wait for the thread to stop (one in uninterruptible sleep may not).

    Raises:
        Refused: the kernel forbids it, or somebody traces it already.
        NotTappable: a 32-bit process.
        TargetGone: it has ended.
        TimedOut: it did not stop in time; it was let go.
    """

    def __init__(self, pid: int, timeout_s: float = 2.0) -> None:
        self.pid = pid
        self.stopped_ns = 0
        self._timeout_s = timeout_s
        self._saved = abi.UserRegs()
        self._mask = ctypes.c_uint64()
        self._seized = False

    def __enter__(self) -> Self:
        self._gadget = _find_syscall_instruction(self.pid)
        try:
            self._request("PTRACE_SEIZE", _SEIZE)
        except KernelError as error:
            tracer = procfs.status_field(self.pid, "TracerPid")
            why = f"already traced by pid {tracer}" if tracer not in (None, "0") else error.reason
            raise Refused(error.operation, error.object, why, error.remedy) from error
        self._seized = True
        try:
            self._since_ns = time.monotonic_ns()
            self._request("PTRACE_INTERRUPT", _INTERRUPT)
            self._wait_stopped("PTRACE_INTERRUPT")
            self._request("PTRACE_GETREGS", _GETREGS, data=ctypes.addressof(self._saved))
            if self._saved.cs != _USER_CS_64:
                raise NotTappable(
                    "ptrace", f"pid {self.pid}", f"code segment {self._saved.cs:#x}: not a 64-bit program"
                )
            self._leave_sequence()
            self._request("PTRACE_GETSIGMASK", _GETSIGMASK, _SIGSET_BYTES, ctypes.addressof(self._mask))
        except BaseException:
            self._detach()
            raise
        return self

    def syscall(self, number: int, *args: int) -> int:
        """Run one system call in the target.

        Args:
            number: On x86-64.
            args: At most six integers.

        Returns:
            What the call returned: a negative value is minus the errno.

        Raises:
            TargetGone: the target was killed meanwhile.
            KernelError: the thread did not come back as expected; it was restored all the same.
        """
        regs = abi.UserRegs.from_buffer_copy(self._saved)
        regs.rip, regs.rax, regs.orig_rax = self._gadget, number, (1 << 64) - 1
        for name, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), args, strict=False):
            setattr(regs, name, value & (1 << 64) - 1)
        blocked = ctypes.c_uint64((1 << 64) - 1)
        self._request("PTRACE_SETSIGMASK", _SETSIGMASK, _SIGSET_BYTES, ctypes.addressof(blocked))
        try:
            self._request("PTRACE_SETREGS", _SETREGS, data=ctypes.addressof(regs))
            stop = self._single_step()
            after = abi.UserRegs()
            self._request("PTRACE_GETREGS", _GETREGS, data=ctypes.addressof(after))
        finally:
            self._restore()
        if stop != signal.SIGTRAP or after.rip != self._gadget + len(_SYSCALL_INSN):
            where = f"stopped by signal {stop} at {after.rip:#x}; restored unharmed"
            raise NotTappable("injected call", f"pid {self.pid}", where)
        result = int(after.rax)
        return result - (1 << 64) if result >= 1 << 63 else result

    def _leave_sequence(self) -> None:
        """Abort a restartable sequence that the thread was stopped in, as the kernel would.

        Kernel: PTRACE_GET_RSEQ_CONFIGURATION, since 5.13, CONFIG_RSEQ; rseq(2), kernel/rseq.c.
        """
        known = abi.RseqConfiguration()
        try:
            self._request(
                "PTRACE_GET_RSEQ_CONFIGURATION",
                _GET_RSEQ_CONFIGURATION,
                ctypes.sizeof(known),
                ctypes.addressof(known),
            )
        except KernelError as error:
            if error.errno == errno.EIO:
                return  # a kernel without restartable sequences
            raise
        if not known.rseq_abi_pointer:
            return
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            area = _read_struct(memory, known.rseq_abi_pointer, abi.RseqArea)
            if not area.rseq_cs:
                return
            # It may be one that the thread has left: the kernel clears it when it looks next.
            sequence = _read_struct(memory, area.rseq_cs, abi.RseqSequence)
        if 0 <= self._saved.rip - sequence.start_ip < sequence.post_commit_offset:
            self._saved.rip = sequence.abort_ip

    def _single_step(self) -> int:
        """Run one instruction; returns the signal that the thread stopped with after it."""
        for _ in range(_MAX_STEPS):
            self._request("PTRACE_SINGLESTEP", _SINGLESTEP)
            status = self._wait_stopped("PTRACE_SINGLESTEP")
            # A process that was stopped (SIGSTOP) when we came reports that stop once more before it runs.
            if status >> 16 != _EVENT_STOP:
                break
        return os.WSTOPSIG(status)

    def _restore(self) -> None:
        self._request("PTRACE_SETREGS", _SETREGS, data=ctypes.addressof(self._saved))
        self._request("PTRACE_SETSIGMASK", _SETSIGMASK, _SIGSET_BYTES, ctypes.addressof(self._mask))

    def _request(self, name: str, request: int, addr: int = 0, data: int = 0) -> None:
        ctypes.set_errno(0)
        if _ptrace(request, self.pid, addr, data) < 0:
            raise_errno(name, f"pid {self.pid}", ctypes.get_errno())

    def _wait_stopped(self, operation: str) -> int:
        """Wait until the thread stops; returns its wait status."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG | _WALL)
            if pid:
                break
            left = deadline - time.monotonic()
            # Every stop of the tracee sends SIGCHLD; being blocked it stays pending until taken here. It is
            # looked for now and then all the same: on a busy machine a thread was seen that had stopped,
            # with no signal left to tell.
            if left > 0:
                signal.sigtimedwait([signal.SIGCHLD], min(left, _LOOK_AGAIN_S))
            else:
                state = procfs.status_field(self.pid, "State")
                raise TimedOut(
                    operation,
                    f"pid {self.pid}",
                    f"did not stop within {self._timeout_s:g} s (state {state})",
                    "try again when it is not blocked in the kernel",
                )
        if not os.WIFSTOPPED(status):
            self._seized = False
            raise TargetGone(operation, f"pid {self.pid}", "it ended while it was stopped")
        return status

    def _detach(self) -> None:
        if self._seized:
            self._seized = False
            ctypes.set_errno(0)
            _ptrace(_DETACH, self.pid, 0, 0)
            self.stopped_ns = time.monotonic_ns() - self._since_ns

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detach()


S = TypeVar("S", bound=ctypes.Structure)


def _read_struct(memory: FileIO, address: int, kind: type[S]) -> S:
    """A struct out of /proc/PID/mem; the address is the target's word for it."""
    try:
        memory.seek(address)
        return kind.from_buffer_copy(memory.read(ctypes.sizeof(kind)))
    except (OSError, ValueError, OverflowError) as error:
        what = f"restartable sequence at {address:#x}, where no memory is"
        raise NotTappable("ptrace", memory.name, what) from error


def _find_syscall_instruction(pid: int) -> int:
    """The address of a `syscall` instruction in the target's vdso.

    Raises:
        NotTappable: it has no vdso, or none with such an instruction.
    """
    for mapping in procfs.read_maps(pid):
        if mapping.path == "[vdso]" and mapping.size_bytes <= _MAX_VDSO_BYTES:
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                memory.seek(mapping.start)
                at = memory.read(mapping.size_bytes).find(_SYSCALL_INSN)
            if at >= 0:
                return mapping.start + at
    raise NotTappable("injected call", f"pid {pid}", "no vdso with a syscall instruction in its memory")
