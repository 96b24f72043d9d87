"""MachineTarget, with guests of a few instructions."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import vramtap
from support.machine_code import assemble
from vramtap.display.mode import PixelFormat
from vramtap.errors import TargetGone
from vramtap.keyboard.events import KeyEvent, PointerEvent
from vramtap.machine.layout import VRAM_BASE
from vramtap.targets.machine.target import BLANK, MachineTarget

if TYPE_CHECKING:
    from collections.abc import Callable

SET_MODE = """
    .macro dispi index value
    mov $0x1CE, %dx; mov $\\index, %ax; out %ax, %dx
    inc %dx; mov $\\value, %ax; out %ax, %dx
    .endm
    .macro mode width height
    dispi 4 0; dispi 1 \\width; dispi 2 \\height; dispi 3 32; dispi 4 0x41
    .endm
"""
ONE_PIXEL = f"{SET_MODE}; mode 64 48; mov ${VRAM_BASE:#x}, %edi; movl $0x123456, (%rdi); 1: hlt; jmp 1b"
RESTLESS = f"""{SET_MODE}
    mode 64 48
    mov $0x1CE, %dx; mov $9, %ax; out %ax, %dx; inc %dx
1:  xor $48, %bx; mov %bx, %ax; out %ax, %dx
    jmp 1b
"""
"""Flips pages as fast as possible."""
ECHO = f"""{SET_MODE}
    mode 64 48
    mov $0xD4, %al; out %al, $0x64; mov $0xF4, %al; out %al, $0x60
    in $0x60, %al
    mov ${VRAM_BASE:#x}, %edi
1:  hlt
2:  in $0x64, %al; test $1, %al; jz 1b
    in $0x60, %al; mov %al, (%rdi); inc %rdi
    jmp 2b
"""
"""Stores the bytes of keyboard and mouse into video RAM, one after the other."""
SILENT = "cli; 1: jmp 1b"
FAULTING = "movabs $0x123456789A, %rax; mov %rax, (%rax)"


def machine(source: str) -> vramtap.Machine:
    return vramtap.Machine(assemble(source), cpu="unicorn")


async def until(holds: Callable[[], object]) -> None:
    """Wait until a condition holds, while the event loop runs."""
    async with asyncio.timeout(60):
        turn = asyncio.Event()
        while not holds():
            turn.clear()
            asyncio.get_running_loop().call_soon(turn.set)
            await turn.wait()


async def test_mode_and_pixels_come_from_the_vm() -> None:
    with machine(ONE_PIXEL) as guest:
        await until(lambda: guest.halts)
        async with vramtap.open(guest) as tap:
            assert (tap.screen.width, tap.screen.height) == (64, 48)
            assert tap.screen.pixels[0, 0] == 0x123456
            mode = await tap.target.mode()
            assert mode is not None
            assert mode.format is PixelFormat.XR24
        assert guest.ended is None, "the guest runs on after the tap"


async def test_screen_is_black_without_a_mode() -> None:
    with machine("1: hlt; jmp 1b") as guest:
        async with vramtap.open(guest) as tap:
            assert await tap.target.mode() is None
            assert tap.screen.pixels.shape == BLANK
            assert not tap.screen.pixels.any()


async def test_mode_changes_are_merged_while_the_loop_is_busy() -> None:
    with machine(RESTLESS) as guest:
        target = MachineTarget(guest)
        calls = 0

        def count() -> None:
            nonlocal calls
            calls += 1

        target.watch(count)
        async with target:
            progress = guest.progress
            while guest.progress < progress + 2000:
                threading.Event().wait(0.001)  # blocks the event loop
            assert calls == 0
            await asyncio.sleep(0)
            assert calls == 1
            await until(lambda: calls > 2)
        left = calls
        progress = guest.progress
        await until(lambda: guest.progress > progress + 100)
        assert calls == left, "no call after detaching"


async def test_two_taps_of_a_vm_both_receive_activity() -> None:
    with machine(RESTLESS) as guest:
        first, second = MachineTarget(guest, "first"), MachineTarget(guest, "second")
        calls = {"first": 0, "second": 0}

        def counter(name: str) -> None:
            calls[name] += 1

        first.watch(lambda: counter("first"))
        second.watch(lambda: counter("second"))
        await first.__aenter__()
        await second.__aenter__()
        await until(lambda: all(calls.values()))
        await first.__aexit__(None, None, None)
        before = dict(calls)
        await until(lambda: calls["second"] > before["second"])
        assert calls["first"] == before["first"]
        await second.__aexit__(None, None, None)


async def test_keys_and_pointer_reach_the_guest() -> None:
    with machine(ECHO) as guest:
        await until(lambda: guest.halts)
        async with vramtap.open(guest) as tap:
            hands = tap.target.input
            assert hands is not None
            await hands.key(KeyEvent(keysym=ord("a"), down=True))
            await hands.key(KeyEvent(keysym=ord("a"), down=False))
            await hands.key(KeyEvent(keysym=0xFF51, down=True, scancode=0xCB))
            await hands.key(KeyEvent(keysym=0x12345, down=True))  # no such key
            await until(lambda: guest.memory.vram[3] == 0x4B)
            assert bytes(guest.memory.vram[:4]) == b"\x1e\x9e\xe0\x4b"
            await hands.release_all()
            await until(lambda: guest.memory.vram[5] != 0)
            assert bytes(guest.memory.vram[4:6]) == b"\xe0\xcb"
            await hands.pointer(PointerEvent(5, 6, 1), 64, 48)
            # The motion to the corner, 127 counts a packet, then the position.
            packets = -(-16384 // 127)
            end = 6 + 3 * (packets + 1)
            await until(lambda: guest.memory.vram[end - 1] != 0)
            assert list(guest.memory.vram[end - 3 : end]) == [0x29, 5, 256 - 6]


async def test_fault_ends_the_tap_with_its_address() -> None:
    # It faults when the test raises the line, with the tap attached.
    source = f"{SET_MODE}; mode 64 48; hlt; {FAULTING}"
    with machine(source) as guest:
        async with asyncio.timeout(60), vramtap.open(guest) as tap:
            guest.raise_line()
            ended = await tap.ended()
            assert "rip 0x1000" in ended
            assert "cr2 0x123456789a" in ended
            with pytest.raises(TargetGone, match="cr2 0x123456789a"):
                await tap.target.mode()


async def test_ended_guest_cannot_be_tapped() -> None:
    with machine(FAULTING) as guest:
        await until(lambda: guest.ended)
        with pytest.raises(TargetGone, match=r"machine: the guest stopped: .* cr2 0x123456789a"):
            await vramtap.open(guest).__aenter__()
        async with asyncio.timeout(60), MachineTarget(guest) as target:
            assert "cr2 0x123456789a" in await target.gone()


async def test_hanging_guest_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with machine(SILENT) as guest:
        async with MachineTarget(guest, hang_after_s=0.01) as target:
            await until(lambda: caplog.messages)
            assert not guest.runs._watchers, "the measurement has ended"
            assert await target.mode() is None
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert messages == [
        "machine: the guest has neither halted nor used a port for 0.01 s; it is at rip 0x100001"
    ]


async def test_hanging_guest_is_logged_despite_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with machine(SILENT) as guest:
        async with MachineTarget(guest, hang_after_s=0.01):
            while not caplog.messages:
                with guest.paused():
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
    assert "has neither halted" in caplog.messages[0]


async def test_guest_that_uses_ports_is_not_logged_as_hanging(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine("1: in $0x64, %al; jmp 1b") as guest:
        async with MachineTarget(guest, hang_after_s=0.05) as target:
            assert target._hang_warning is not None
            timer, expiries = target._hang_warning._timer, []
            take = timer.take

            def counting_take() -> int:
                expiries.append(guest.progress)
                return take()

            monkeypatch.setattr(timer, "take", counting_take)
            await until(lambda: len(expiries) == 5)
    assert caplog.messages == []


async def test_guest_that_halts_stops_the_hang_timer(caplog: pytest.LogCaptureFixture) -> None:
    with machine("1: hlt; jmp 1b") as guest:
        async with MachineTarget(guest) as target:
            hang_warning = target._hang_warning
            assert hang_warning is not None
            fdinfo = Path(f"/proc/self/fdinfo/{hang_warning._timer.fileno()}")
            for _ in range(3):
                halts = guest.halts
                guest.raise_line()
                await until(lambda halts=halts: guest.halts > halts)  # type: ignore[misc]  # of this round
                # The kernel reports that the timer is not set (proc_pid_fdinfo(5)).
                await until(lambda: "it_value: (0, 0)" in fdinfo.read_text())
    assert caplog.messages == []


async def test_detach_removes_the_hang_timer() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with machine(SILENT) as guest:
        async with MachineTarget(guest) as target:
            assert len(guest.runs._watchers) == 1
            hang_warning = target._hang_warning
        assert not guest.runs._watchers
        assert hang_warning is not None
        hang_warning.run_ended(halted=True)  # a late call
        hang_warning._on_timer()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_cleared_screen_is_seen() -> None:
    # Sets a mode and fills the screen. When the test raises the line, it sets the mode again, which clears
    # it.
    source = f"{SET_MODE}; mode 64 48; mov ${VRAM_BASE:#x}, %edi; mov $-1, %eax; mov $3072, %ecx; rep stosl; "
    source += "hlt; mode 64 48; 1: hlt; jmp 1b"
    with machine(source) as guest:
        await until(lambda: guest.halts)
        async with vramtap.open(guest) as tap:
            assert np.all(tap.screen.pixels == 0xFFFFFF)
            guest.raise_line()
            await until(lambda: guest.halts == 2)
            await tap.refresh()
            assert not tap.screen.pixels.any()
