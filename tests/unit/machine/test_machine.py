"""Machine, with guests of a few instructions: run, hold, pause, end."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from support.machine_code import assemble
from vramtap.errors import TargetGone, TimedOut, UsageError
from vramtap.machine.layout import IMAGE_BASE, VRAM_BASE
from vramtap.machine.machine import Machine
from vramtap.machine.ports import NEVER_NS
from vramtap.pages import PageRuns

if TYPE_CHECKING:
    from pathlib import Path

COUNTING = f"""
    mov ${VRAM_BASE}, %edi
1:  incq (%rdi)
    mov $1, %eax
    out %eax, $0xEA
    out %al, $0xEE
    hlt
    jmp 1b
"""
"""Counts its frames in video RAM, as fast as possible."""
ENDLESS = f"cli; mov ${VRAM_BASE}, %edi; 1: incq (%rdi); jmp 1b"
ECHOING = f"""
    mov ${VRAM_BASE}, %edi
1:  hlt
2:  in $0x64, %al
    test $1, %al
    jz 1b
    in $0x60, %al
    incb (%rdi)
    mov %al, 1(%rdi)
    jmp 2b
"""
"""Halts until the keyboard sends a byte; counts the bytes and stores the last one."""

CPUS = ("unicorn", "kvm")


@pytest.fixture(params=CPUS)
def cpu(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def machine(source: str, cpu: str, **options: object) -> Machine:
    return Machine(assemble(source), cpu=cpu, **options)  # type: ignore[arg-type]  # of a parameter


def word(machine: Machine) -> int:
    return int(machine.memory.words(VRAM_BASE, 1)[0])


def test_run_frames_draws_exactly_that_many(cpu: str) -> None:
    with machine(COUNTING, cpu, held=True) as guest:
        assert word(guest) == 0
        for count in (1, 1, 5):
            before = word(guest)
            guest.run_frames(count)
            assert word(guest) == before + count == guest.frames
        guest.release()
        guest.run_frames(1)
        assert word(guest) == guest.frames >= 8


def test_paused_guest_stores_nothing(cpu: str) -> None:
    with machine(ENDLESS, cpu) as guest:
        for _ in range(20):
            with guest.paused():
                before = word(guest)
                with guest.paused():  # inside another
                    registers = guest.cpu.registers()
                    assert IMAGE_BASE <= registers.rip < IMAGE_BASE + 64
                assert not guest.wait_end(0.001)
                assert word(guest) == before
                assert not guest.running


def test_guest_continues_after_each_pause(cpu: str) -> None:
    with machine(COUNTING, cpu) as guest:
        for _ in range(5):
            with guest.paused():
                before = word(guest)
            guest.run_frames(1)
            assert word(guest) > before
            guest.release()


def test_concurrent_pauses_all_stop_the_guest(cpu: str) -> None:
    with machine(ENDLESS, cpu) as guest:
        moved: list[int] = []

        def pause() -> None:
            for _ in range(30):
                with guest.paused():
                    before = word(guest)
                    assert not guest.wait_end(0.0005)
                    moved.append(word(guest) - before)

        threads = [threading.Thread(target=pause) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert moved == [0] * 90


def test_key_ends_one_halt(cpu: str) -> None:
    with machine(ECHOING, cpu) as guest:
        for scancode in (0x1E, 0x30):
            before = int(guest.memory.vram[0])
            with guest.devices():
                guest.ps2.key(scancode, down=True)
            while int(guest.memory.vram[1]) != scancode:
                assert not guest.wait_end(0.001), guest.ended
            assert int(guest.memory.vram[0]) == before + 1


def test_halted_guest_does_not_run() -> None:
    with machine("1: hlt; jmp 1b", "unicorn") as guest:
        guest.raise_line()
        with guest.paused():
            before = guest.progress
        with guest.paused():
            assert guest.progress - before <= 2  # one for the raised line, which the guest may see late
            assert guest.rtc.due_ns() == NEVER_NS


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mov $0xffff900000000123, %rdi; mov (%rdi), %rax; hlt", "cr2 0xffff900000000123"),
        ("xor %ecx, %ecx; div %rcx; hlt", "rip 0x100002"),
        ("ud2", "rip 0x100000"),
        ("mov $0x40000000, %rdi; mov (%rdi), %rax; hlt", "0x40000000"),
        ("mov $7, %al; out %al, $0xF4; hlt", "status 7"),
    ],
)
def test_end_is_reported_with_its_reason_to_all_callers(cpu: str, source: str, message: str) -> None:
    guest = machine(source, cpu)
    ended = threading.Event()
    guest.watch_end(ended.set)
    with guest:
        assert guest.wait_end(60)
        assert ended.wait(60)
        assert guest.ended is not None
        assert message in guest.ended
        with pytest.raises(TargetGone, match="guest"), guest.paused():
            pass
        with pytest.raises(TargetGone):
            guest.run_frames(1)


def test_device_defect_ends_the_machine_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    guest = machine(COUNTING, "unicorn")
    ended = threading.Event()
    guest.watch_end(ended.set)

    def broken(number: int) -> None:
        raise ZeroDivisionError("broken device")

    monkeypatch.setattr(guest.debug, "_on_frame", broken)
    with guest:
        assert guest.wait_end(60)
        assert ended.wait(60)
    assert "defect" in str(guest.ended)
    assert "broken device" in caplog.text


def test_end_watchers_are_called_once_and_late_ones_at_once() -> None:
    guest = machine("ud2", "unicorn")
    calls: list[str] = []
    remove = guest.watch_end(lambda: calls.append("removed"))
    guest.watch_end(lambda: calls.append("early"))
    remove()
    remove()
    with guest:
        assert guest.wait_end(60)
    guest.watch_end(lambda: calls.append("late"))()
    assert calls == ["early", "late"]


def test_close_ends_a_loop_without_interrupts(cpu: str) -> None:
    guest = machine(ENDLESS, cpu)
    guest.start()
    guest.close()
    guest.close()
    assert guest.ended == "the machine was closed"


def test_close_before_start(cpu: str) -> None:
    guest = machine(ENDLESS, cpu)
    guest.close()
    assert guest.ended is None


def test_run_frames_times_out() -> None:
    with machine("1: hlt; jmp 1b", "unicorn") as guest, pytest.raises(TimedOut, match="1 frames"):
        guest.run_frames(1, timeout_s=0.01)


def test_unicorn_records_the_exact_pages() -> None:
    source = f"mov ${VRAM_BASE}, %edi; movb $1, 0x3fff(%rdi); movw $1, 0x4fff(%rdi); mov $1, %eax;"
    with machine(source + "out %eax, $0xEA; hlt", "unicorn", record_writes=True, held=True) as guest:
        guest.run_frames(1)
        assert guest.written() == PageRuns([(3, 6)])
        assert guest.written() == PageRuns()


def test_endless_loop_can_be_paused_while_stores_are_recorded() -> None:
    with machine(ENDLESS, "unicorn", record_writes=True) as guest:
        before = 0
        for _ in range(5):
            while word(guest) == before:
                assert not guest.wait_end(0.001), guest.ended
            with guest.paused():
                before = word(guest)
                assert not guest.wait_end(0.001)
                assert word(guest) == before
        assert guest.written() == PageRuns([(0, 1)])


def test_progress_distinguishes_a_stuck_guest() -> None:
    with machine(COUNTING, "unicorn", held=True) as guest:
        before = guest.progress
        guest.run_frames(1)
        assert guest.progress > before
    with machine(ENDLESS, "unicorn") as guest:
        with guest.paused():
            before = guest.progress
        assert not guest.wait_end(0.001)
        with guest.paused():
            assert guest.progress == before


def test_invalid_options_are_refused(tmp_path: Path) -> None:
    for options, message in [
        ({"cpu": "z80"}, "no such CPU"),
        ({"log": "book"}, "no such form"),
        ({"cpu": "unicorn", "log": "ring"}, "form of KVM's log"),
        ({"cpu": "kvm", "record_writes": True}, "does not record stores"),
    ]:
        with pytest.raises(UsageError, match=message):
            Machine(b"\xf4", **options)  # type: ignore[arg-type]  # that is what is tested
    with pytest.raises(UsageError, match="nowhere"):
        Machine(tmp_path / "nowhere")


def test_auto_chooses_the_cpu_by_trial() -> None:
    with Machine(b"\xf4") as guest:
        assert guest.cpu.name in CPUS
        assert "trial" in guest.cpu_reason or "does not work here" in guest.cpu_reason
