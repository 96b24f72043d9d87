"""The injected system call: the target must not notice it, at any point of its execution."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import pytest

from support.testbed.cache import compiled
from vramtap.errors import KernelError, NotFound, Refused, TargetGone, VramtapError
from vramtap.linux import inject, procfs
from vramtap.linux.inject import fetch_userfaultfd
from vramtap.linux.userfaultfd import LOG_FEATURES, Userfaultfd

if TYPE_CHECKING:
    from collections.abc import Iterator

VICTIM = Path(__file__).with_name("victim.c")
SEQUENCES = Path(__file__).with_name("sequences.c")


@contextmanager
def victim(*arguments: str, source: Path = VICTIM) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [compiled(source), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "READY\n"
        try:
            yield process
        finally:
            process.kill()


def verdict(process: subprocess.Popen[str]) -> tuple[int, int, int]:
    """End the victim; return its counts of faults, calls and signals."""
    output, _ = process.communicate("x")
    word, faults, calls, signals = output.split()
    assert word == "DONE"
    return int(faults), int(calls), int(signals)


def descriptors(pid: int) -> set[str]:
    return set(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.parametrize("mode", ["calm", "signals"])
def test_program_notices_nothing_of_forty_injections(mode: str, stress: int) -> None:
    with victim(mode) as process:
        before = descriptors(process.pid)
        for _ in range(40 * stress):
            fetched = fetch_userfaultfd(process.pid)
            with Userfaultfd(fetched.fd, "victim") as uffd:
                uffd.api(LOG_FEATURES)
            assert fetched.stopped_us > 0
            assert descriptors(process.pid) == before
        faults, calls, signals = verdict(process)
    assert faults == 0
    assert calls > 0
    assert (signals > 0) == (mode == "signals")


def test_restartable_sequence_is_aborted() -> None:
    with victim(source=SEQUENCES) as process:
        for _ in range(10):
            os.close(fetch_userfaultfd(process.pid).fd)
        output, _ = process.communicate("x")
    word, lost, counted = output.split()
    assert word == "DONE"
    assert int(counted) > 0
    assert int(lost) == 0


def test_stopped_process_stays_stopped_until_sigcont() -> None:
    with victim("calm") as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        os.close(fetch_userfaultfd(process.pid).fd)
        assert (procfs.status_field(process.pid, "State") or "")[0] in "Tt"
        process.send_signal(signal.SIGCONT)
        assert verdict(process)[0] == 0


def test_target_keeps_no_descriptor() -> None:
    with victim("calm") as process:
        fetched = fetch_userfaultfd(process.pid)
        assert not os.get_inheritable(fetched.fd)
        stack = next(m for m in procfs.read_maps(process.pid) if m.path == "[stack]")
        with Userfaultfd(fetched.fd, "victim") as uffd:
            uffd.api(LOG_FEATURES)
            uffd.register(stack.start, stack.end)
            flagged = [m.path for m, flags in procfs.vm_flags(process.pid) if "uw" in flags]
            assert flagged == ["[stack]"]
        assert not [m for m, flags in procfs.vm_flags(process.pid) if "uw" in flags]
        assert verdict(process)[0] == 0


def test_missing_process_is_reported() -> None:
    with victim("calm") as process:
        pid = process.pid
    with pytest.raises((TargetGone, NotFound)) as caught:
        fetch_userfaultfd(pid)
    assert str(pid) in str(caught.value)


def test_traced_process_is_refused_and_tracer_named() -> None:
    tracer_code = (
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.ptrace.argtypes = [ctypes.c_long] * 4\n"
        "assert libc.ptrace(0x4206, int(sys.argv[1]), 0, 0) == 0, ctypes.get_errno()\n"
        "print('seized', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with (
        victim("calm") as process,
        subprocess.Popen(
            [sys.executable, "-c", tracer_code, str(process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as tracer,
    ):
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == "seized\n"
        with pytest.raises(Refused, match=f"already traced by pid {tracer.pid}"):
            fetch_userfaultfd(process.pid)
        tracer.communicate()
        assert verdict(process)[0] == 0


def test_process_of_another_user_is_refused_with_remedy() -> None:
    """Run the helper's code as an unprivileged user, who could not start this interpreter."""
    code = (
        "import os, sys\n"
        "from vramtap.errors import VramtapError\n"
        "from vramtap.linux import inject\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        "    inject._inject(int(sys.argv[1]), allow_filtered=False)\n"
        "except VramtapError as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    if os.getuid() != 0:
        pytest.fail("this test changes its user: run it as root")
    with victim("calm") as process:
        done = subprocess.run(
            [sys.executable, "-c", code, str(process.pid)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert done.stdout.startswith("Refused"), done
        assert "ptrace rights" in done.stdout
        assert verdict(process)[0] == 0


def test_seccomp_filter_is_refused_unless_allowed() -> None:
    code = (
        "import ctypes, struct, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "program = struct.pack('<HBBI', 0x06, 0, 0, 0x7fff0000)\n"  # BPF_RET | BPF_K, SECCOMP_RET_ALLOW
        "buffer = ctypes.create_string_buffer(program)\n"
        "class Prog(ctypes.Structure):\n"
        "    _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_void_p)]\n"
        "prog = Prog(1, ctypes.addressof(buffer))\n"
        "assert libc.prctl(38, 1, 0, 0, 0) == 0\n"
        "assert libc.prctl(22, 2, ctypes.byref(prog)) == 0, ctypes.get_errno()\n"
        "print('READY', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "READY\n"
        with pytest.raises(Refused, match="seccomp"):
            fetch_userfaultfd(process.pid)
        os.close(fetch_userfaultfd(process.pid, allow_filtered=True).fd)
        process.communicate()
        assert process.returncode == 0


def test_helper_finishes_when_vramtap_is_killed() -> None:
    """Killing vramtap at any moment leaves the target running, without an extra descriptor."""
    code = (
        "import sys\n"
        "from vramtap.linux.inject import fetch_userfaultfd\n"
        "print('go', flush=True)\n"
        "while True:\n"
        "    import os; os.close(fetch_userfaultfd(int(sys.argv[1])).fd)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with victim("calm") as process, TemporaryFile() as errors:
        before = descriptors(process.pid)
        for milliseconds in range(0, 200, 10):
            with subprocess.Popen(
                [sys.executable, "-c", code, str(process.pid)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=env,
                start_new_session=True,
            ) as asker:
                assert asker.stdout is not None
                assert asker.stdout.readline() == "go\n"
                try:
                    asker.wait(milliseconds / 1000)
                except subprocess.TimeoutExpired:
                    os.killpg(asker.pid, signal.SIGKILL)
        os.close(fetch_userfaultfd(process.pid).fd)
        faults, _, _ = verdict_when_alone(process, before)
        errors.seek(0)
        assert errors.read() == b""
    assert faults == 0


def verdict_when_alone(process: subprocess.Popen[str], before: set[str]) -> tuple[int, int, int]:
    """Return the verdict after all helpers have ended: the last fetch waited for them."""
    assert descriptors(process.pid) == before
    return verdict(process)


def test_helper_errors_are_rebuilt_unchanged() -> None:
    for error in (
        Refused("a", "b", "c", "d"),
        TargetGone("a", "b", "c"),
        KernelError("a", "b", 1, "d"),
    ):
        again = inject._rebuild(inject._describe(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert isinstance(again, VramtapError)
