"""ptrace: makes another process execute one system call, and lets it continue as after a short stop.

How vramtap injects a call, and why it does it this way:

Facts.

- A userfaultfd acts on the address space of the process that called userfaultfd(2). So this one call must run
  inside the target; vramtap does everything else from outside.
- PTRACE_SEIZE does not stop the target. PTRACE_INTERRUPT stops one thread at any point.
- The thread may be inside a system call that the kernel can restart. The kernel has then written its private
  restart code (-512..-516) into rax. It acts on the code when the thread returns to user mode, unless
  orig_rax is negative.
- The thread may be inside a restartable sequence (rseq(2)). The kernel then sends it to the abort handler of
  the sequence when it returns to user mode. It considers only the rip of that moment: with a borrowed rip it
  forgets the sequence.
- A signal that arrives while the thread runs with borrowed registers pushes a frame built from them.
- If the tracer dies, the kernel detaches the thread with the registers it has at that moment.

Consequences. vramtap must save and restore all registers, orig_rax included, so that an interrupted call
restarts by itself. It must abort a sequence as the kernel would: otherwise the sequence commits over changes
that another thread has made meanwhile. The borrowed run needs orig_rax = -1, so that the kernel does not take
it for a restart. Signals must be blocked meanwhile. The tracer must not be killed half way.

Decision. The tracer blocks all signals of the thread, and restores the mask at the end. It points rip at a
`syscall` instruction that exists already (the vdso has one) and runs it with one single step. It runs in a
helper process in its own session (see `vramtap.linux.inject`), which no Ctrl-C, hang-up or SIGKILL meant for
vramtap reaches. It never stops the other threads of the target.

The thread notices no more than SIGSTOP and SIGCONT would cause: the few calls that the kernel does not
restart after a stop (epoll_wait, semop, sigtimedwait, ...) return EINTR; see signal(7), "Interruption of
system calls and library functions by stop signals".
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

_RECHECK_S: Final = 0.05
"""Interval of the checks for a stop without SIGCHLD. They are rarely needed: SIGCHLD arrives within 1 ms."""
_EVENT_STOP: Final = 128
_MAX_STEPS: Final = 8
"""Most single steps until one runs an instruction; each stop reported in between uses up one."""

_WALL: Final = 0x40000000
"""__WALL of waitpid(2): wait also for threads and for children that do not end with SIGCHLD."""
_USER_CS_64: Final = 0x33
"""Code segment of 64-bit user mode (kernel: arch/x86/include/asm/segment.h, __USER_CS)."""
_SYSCALL_INSN: Final = b"\x0f\x05"
_MAX_VDSO_BYTES: Final = 1 << 16
_SIGSET_BYTES: Final = 8

_ptrace = LIBC.ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class Tracee:
    """A thread of another process, stopped while this context manager is entered.

    Kernel: ptrace(2) PTRACE_SEIZE and PTRACE_INTERRUPT, since 3.4; needs ptrace attach rights (same user
        and dumpable, or CAP_SYS_PTRACE; Yama's ptrace_scope, SELinux and AppArmor may refuse).
    Cost: the thread is stopped for about 100-300 us; `stopped_ns` has the time. Other threads continue.

    The calling thread must block SIGCHLD: `Tracee` waits for the signal instead of polling for a stop.

    Args:
        pid: Process id of a 64-bit x86-64 process.
        timeout_s: Time limit for the thread to stop. A thread in uninterruptible sleep may exceed it.

    Raises:
        Refused: The kernel forbids it, or another process traces the thread.
        NotTappable: The process is a 32-bit one.
        TargetGone: The process has ended.
        TimedOut: The thread did not stop in time; it is detached.
    """

    def __init__(self, pid: int, timeout_s: float = 2.0) -> None:
        self.pid = pid
        self.stopped_ns: int = 0
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
            number: Number of the call on x86-64.
            args: At most six integers.

        Returns:
            The result of the call: a negative value is minus the errno.

        Raises:
            TargetGone: The target was killed meanwhile.
            NotTappable: The thread did not stop after the call; its registers are restored.
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
        """Abort the restartable sequence that the thread is in, if any, as the kernel would.

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
            # The thread may have left this sequence: the kernel clears the pointer at its next check.
            sequence = _read_struct(memory, area.rseq_cs, abi.RseqSequence)
        if 0 <= self._saved.rip - sequence.start_ip < sequence.post_commit_offset:
            self._saved.rip = sequence.abort_ip

    def _single_step(self) -> int:
        """Run one instruction; return the signal that stopped the thread after it."""
        for _ in range(_MAX_STEPS):
            self._request("PTRACE_SINGLESTEP", _SINGLESTEP)
            status = self._wait_stopped("PTRACE_SINGLESTEP")
            # A process that was stopped by SIGSTOP before reports that stop once more before it runs.
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
        """Wait until the thread stops; return its wait status."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG | _WALL)
            if pid:
                break
            left = deadline - time.monotonic()
            # Every stop of the tracee sends SIGCHLD. The signal is blocked, so it stays pending until this
            # call. The timeout covers a case seen on a busy machine: a stopped thread without the signal.
            if left > 0:
                signal.sigtimedwait([signal.SIGCHLD], min(left, _RECHECK_S))
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
    """Read a struct from /proc/PID/mem. The target supplies the address, so it may be invalid."""
    try:
        memory.seek(address)
        return kind.from_buffer_copy(memory.read(ctypes.sizeof(kind)))
    except (OSError, ValueError, OverflowError) as error:
        what = f"restartable sequence at {address:#x}, where no memory is"
        raise NotTappable("ptrace", memory.name, what) from error


def _find_syscall_instruction(pid: int) -> int:
    """Return the address of a `syscall` instruction in the target's vdso.

    Raises:
        NotTappable: The target has no vdso with such an instruction.
    """
    for mapping in procfs.read_maps(pid):
        if mapping.path == "[vdso]" and mapping.size_bytes <= _MAX_VDSO_BYTES:
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                memory.seek(mapping.start)
                at = memory.read(mapping.size_bytes).find(_SYSCALL_INSN)
            if at >= 0:
                return mapping.start + at
    raise NotTappable("injected call", f"pid {pid}", "no vdso with a syscall instruction in its memory")
