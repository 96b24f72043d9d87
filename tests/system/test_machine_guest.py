"""The guest that comes with the package: drawing, input, frames, command line, crashes."""

from __future__ import annotations

import hashlib
import itertools
import re
from typing import Literal

import numpy as np
import pytest

from support.guest_keys import stroke_of
from support.guest_screen import (
    BAR_INK,
    CONSOLE_INK,
    HEIGHT,
    POINTER_OUTLINE,
    TITLE_INK,
    WIDTH,
    find,
    pixels,
    read,
)
from vramtap.machine.devices.dispi import VIRT_HEIGHT, XRES, Y_OFFSET, YRES
from vramtap.machine.layout import BOOT_INFO, COMMAND_LINE, COMMAND_LINE_BYTES, BootInfo
from vramtap.machine.machine import Machine
from vramtap.machine.ports import NEVER_NS
from vramtap.pages import PAGE_SIZE, PageRuns

BY_SEED = (
    "workload=typing", "workload=scroll", "workload=drag", "workload=video-window", "workload=video-full",
    "workload=random", "workload=flip", "workload=modes", "workload=alias", "workload=remap",
    "workload=large", "program=random",
)  # fmt: skip
"""Workloads that depend on the seed."""
SMALL = "mode=320x200"
INTRO = "What you type is echoed here."


def guest(command_line: str, *, record_writes: bool = False) -> Machine:
    return Machine(cpu="unicorn", command_line=command_line, held=True, record_writes=record_writes)


def digest(command_line: str, frames: int, cpu: Literal["unicorn", "kvm"] = "unicorn") -> str:
    """Return a digest of the screen after each frame and of all video RAM after the last."""
    drawn = hashlib.sha256()
    with Machine(cpu=cpu, command_line=command_line, held=True) as machine:
        for _ in range(frames):
            machine.run_frames(1)
            drawn.update(pixels(machine).tobytes())
        drawn.update(machine.memory.vram.tobytes())
        assert machine.frames == frames
    return drawn.hexdigest()


@pytest.mark.parametrize("workload", BY_SEED)
def test_same_seed_draws_the_same(workload: str) -> None:
    line = f"{workload} {SMALL} hz=0"
    first, again, other = (digest(f"{line} seed={seed}", 24) for seed in (5, 5, 6))
    assert first == again
    assert first != other


@pytest.mark.parametrize("workload", ["workload=idle", "workload=caret"])
def test_workload_without_randomness_ignores_the_seed(workload: str) -> None:
    frames = 1 if workload == "workload=idle" else 5
    assert digest(f"{workload} {SMALL} hz=0", frames) == digest(f"{workload} {SMALL} hz=0 seed=9", frames)


@pytest.mark.parametrize("workload", ["workload=scroll", "workload=remap", "program=random"])
def test_both_cpus_draw_the_same(workload: str) -> None:
    line = f"{workload} {SMALL} hz=0 seed=8"
    assert digest(line, 12, "unicorn") == digest(line, 12, "kvm")


@pytest.mark.parametrize("workload", BY_SEED)
def test_every_frame_changes_the_video_ram(workload: str) -> None:
    with guest(f"{workload} {SMALL} hz=0 seed=3") as machine:
        machine.run_frames(1)
        changed = 0
        for _ in range(12):
            before = machine.memory.vram.copy()
            machine.run_frames(1)
            changed += not np.array_equal(before, machine.memory.vram)
        # A random program may do nothing in a frame, and a typed blank changes no pixel.
        assert changed >= (6 if workload in ("program=random", "workload=typing") else 12)


@pytest.mark.parametrize("workload", ["caret", "typing", "scroll", "drag"])
def test_desktop_stores_only_changed_pixels(workload: str) -> None:
    with guest(f"workload={workload} {SMALL} hz=0", record_writes=True) as machine:
        machine.run_frames(3)
        machine.written()
        for _ in range(8):
            before = machine.memory.vram.copy()
            machine.run_frames(1)
            differ = (before != machine.memory.vram).reshape(-1, PAGE_SIZE).any(axis=1)
            assert machine.written() == PageRuns.from_mask(differ)


def test_video_stores_into_every_page_of_its_area() -> None:
    with guest(f"workload=video-full {SMALL} hz=0", record_writes=True) as machine:
        machine.run_frames(1)
        for _ in range(3):
            machine.written()
            machine.run_frames(1)
            assert machine.written() == PageRuns([(0, -(-320 * 200 * 4 // PAGE_SIZE))])


def press(machine: Machine, text: str) -> None:
    """Type one character a frame. The guest is held after it has drawn the last one."""
    for stroke in map(stroke_of, text):
        for code in stroke:
            machine.ps2.key(code, down=True)
        machine.run_frames(1)
        for code in reversed(stroke):
            machine.ps2.key(code, down=False)


@pytest.mark.parametrize("workload", ["idle", "desktop", "caret"])
def test_typed_text_appears(workload: str) -> None:
    with guest(f"workload={workload} {SMALL} hz=64") as machine:
        machine.run_frames(1)
        start = find(machine, INTRO[:8], CONSOLE_INK)
        assert start is not None
        press(machine, "vram Tap")
        place = find(machine, "vram Tap", CONSOLE_INK)
        assert place is not None
        assert (place[0] - start[0]) % WIDTH == (place[1] - start[1]) % HEIGHT == 0
        assert place[1] > start[1]


def test_every_character_of_a_us_keyboard() -> None:
    printable = [chr(code) for code in range(0x21, 0x7F)]
    with guest("workload=idle mode=1024x768") as machine:
        machine.run_frames(1)
        for part in ("".join(printable[:47]), "".join(printable[47:])):
            press(machine, part)
            assert find(machine, part, CONSOLE_INK) is not None
            press(machine, "\n")


def test_backspace_deletes_typed_characters_only() -> None:
    with guest(f"workload=idle {SMALL}") as machine:
        machine.run_frames(1)
        empty = pixels(machine)
        press(machine, "abc")
        assert find(machine, "abc", CONSOLE_INK) is not None
        press(machine, "\b\b\b")
        assert np.array_equal(pixels(machine), empty)
        # Nothing is left to delete: this gives no frame, so a letter follows.
        machine.ps2.key(0x0E, down=True)
        machine.ps2.key(0x0E, down=False)
        press(machine, "x\b")
        assert np.array_equal(pixels(machine), empty)


def test_backspace_crosses_a_wrapped_line() -> None:
    with guest(f"workload=idle {SMALL}") as machine:
        machine.run_frames(1)
        empty = pixels(machine)
        press(machine, "0123456789" * 4)
        press(machine, "\b" * 40)
        assert np.array_equal(pixels(machine), empty)


def test_console_scrolls() -> None:
    with guest(f"workload=idle {SMALL}") as machine:
        machine.run_frames(1)
        press(machine, "first\n")
        before = find(machine, "first", CONSOLE_INK)
        assert before is not None
        places = []
        while (at := find(machine, "first", CONSOLE_INK)) is not None:
            places.append(at[1])
            assert len(places) < 20
            press(machine, "\n")
        assert find(machine, INTRO[:8], CONSOLE_INK) is None
        steps = {above - below for above, below in itertools.pairwise(places)}
        assert steps == {0, HEIGHT}


def move(machine: Machine, dx: int, dy: int, buttons: int = 0) -> None:
    machine.ps2.move(dx, dy, buttons)
    machine.run_frames(1)


def test_window_follows_the_pointer_while_dragged() -> None:
    with guest("workload=idle mode=640x400") as machine:
        machine.run_frames(1)
        before = pixels(machine)
        title = find(machine, "drag me", TITLE_INK)
        assert title is not None
        to_title = (title[0] + 70 - 320, title[1] + 4 - 200)
        move(machine, *to_title)
        machine.ps2.move(0, 0, 1)  # gives no frame
        move(machine, -90, -60, 1)
        assert find(machine, "drag me", TITLE_INK) == (title[0] - 90, title[1] - 60)
        move(machine, 37, 21, 1)
        assert find(machine, "drag me", TITLE_INK) == (title[0] - 53, title[1] - 39)
        move(machine, 53, 39, 1)
        machine.ps2.move(0, 0, 0)
        move(machine, -to_title[0], -to_title[1])
        assert np.array_equal(pixels(machine), before)


def test_drag_outside_the_title_moves_nothing() -> None:
    with guest("workload=idle mode=640x400") as machine:
        machine.run_frames(1)
        title = find(machine, "drag me", TITLE_INK)
        assert title is not None
        machine.ps2.move(0, 0, 1)
        move(machine, title[0] + 70 - 320, title[1] + 4 - 200, 1)
        move(machine, 30, 40, 1)
        assert find(machine, "drag me", TITLE_INK) == title


def test_pointer_stops_at_every_edge() -> None:
    with guest(f"workload=idle {SMALL}") as machine:
        machine.run_frames(1)
        for dx, dy, x, y in (
            (-1000, -1000, 0, 0),
            (100, 50, 100, 50),
            (1000, -50, 319, 0),
            (0, 1000, 319, 199),
        ):
            machine.ps2.move(dx, dy, 0)
            while pixels(machine)[y, x] != POINTER_OUTLINE:
                machine.run_frames(1)


def test_clock_advances() -> None:
    with guest(f"workload=desktop {SMALL}") as machine:
        machine.run_frames(1)
        seen = set()
        for _ in range(8):
            seen.add(read(machine, 320 - 9 * WIDTH, 3, 8, BAR_INK))
            if len(seen) == 2:
                break
            machine.run_frames(1)
        assert len(seen) == 2
        assert all(re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d", time) for time in seen)


def test_idle_guest_executes_nothing() -> None:
    with guest(f"workload=idle {SMALL}", record_writes=True) as machine:
        machine.run_frames(1)
        machine.release()
        press(machine, "x")
        machine.written()
        with machine.paused():
            assert machine.rtc.due_ns() == NEVER_NS
            before = machine.progress
            rip = machine.cpu.registers().rip
            code = bytes(machine.memory.ram[rip - 1 : rip])
        assert code == b"\xf4"  # it is halted
        with machine.paused():
            assert machine.progress == before
        assert not machine.written()


def test_guest_halts_after_its_last_frame() -> None:
    with guest(f"workload=typing {SMALL} hz=1024 frames=5") as machine:
        machine.run_frames(5)
        with machine.paused():
            assert machine.rtc.due_ns() == NEVER_NS
        drawn = pixels(machine)
        machine.release()
        machine.raise_line()
        with machine.paused():
            assert machine.frames == 5
            assert np.array_equal(pixels(machine), drawn)


@pytest.mark.parametrize(("word", "hz"), [("", 64), ("hz=2", 2), ("hz=1024", 1024)])
def test_frame_rate_is_set_by_hz(word: str, hz: int) -> None:
    with guest(f"workload=random {SMALL} {word}") as machine:
        machine.run_frames(1)
        assert machine.rtc.hz == hz
        machine.run_frames(1)
        assert machine.frames == 2


def test_caret_blinks_twice_a_second_by_default() -> None:
    with guest(f"workload=caret {SMALL}") as machine:
        machine.run_frames(1)
        assert machine.rtc.hz == 2


def test_flip_shows_one_page_and_draws_on_the_other() -> None:
    with guest(f"workload=flip {SMALL} hz=0") as machine:
        offsets = []
        for _ in range(6):
            machine.run_frames(1)
            words = machine.dispi.words()
            offsets.append(words[Y_OFFSET])
            assert words[VIRT_HEIGHT] >= 2 * words[YRES]
            # A box on a plain background: two colours, whatever the page held before.
            assert len(np.unique(pixels(machine))) == 2
        assert offsets == [200, 0] * 3


def test_modes_switches_modes_and_draws_in_each() -> None:
    with guest("workload=modes mode=640x480 hz=0 seed=4") as machine:
        sizes = []
        for _ in range(16):
            machine.run_frames(1)
            words = machine.dispi.words()
            sizes.append((words[XRES], words[YRES]))
            assert find(machine, "drag me", TITLE_INK) is not None
        switches = [at for at in range(1, 16) if sizes[at] != sizes[at - 1]]
        assert switches == [3, 7, 11, 15]
        assert all(width * height <= 640 * 480 for width, height in sizes)


def test_modes_finds_another_mode_below_the_smallest() -> None:
    with guest(f"workload=modes {SMALL} hz=0") as machine:
        machine.run_frames(4)
        assert machine.dispi.words()[XRES] == 400


@pytest.mark.parametrize("mode", ["320x200", "640x400", "800x600", "2560x1600"])
def test_desktop_fits_its_mode(mode: str) -> None:
    width, height = map(int, mode.split("x"))
    with guest(f"workload=idle mode={mode}") as machine:
        machine.run_frames(1)
        assert pixels(machine).shape == (height, width)
        for text, ink in (("vramtap", BAR_INK), ("drag me", TITLE_INK)):
            assert find(machine, text, ink) is not None


@pytest.mark.parametrize("seed", [1, 2])
def test_garbage_in_the_display_registers_does_not_stop_the_guest(seed: int) -> None:
    with guest(f"workload=random {SMALL} hz=0 dispi=garbage seed={seed}") as machine:
        words = []
        for _ in range(20):
            machine.run_frames(1)
            words.append(tuple(machine.dispi.words()))
        assert machine.ended is None
        assert len(set(words)) > 5


BAD_LINES = {
    "nonsense": "command line: not understood: nonsense",
    "workload=": "command line: no such workload: workload=",
    "workload=idle2": "command line: no such workload: workload=idle2",
    "workload=program": "command line: no such workload: workload=program",
    "program=randomly": "command line: not understood: program=randomly",
    "program=fixed": "command line: no such program: program=fixed",
    "seed=": "command line: a number is missing: seed=",
    "seed=-1": "command line: a number is missing: seed=-1",
    "seed=18446744073709551616": "command line: the number is too large: seed=18446744073709551616",
    "seed=1x": "command line: not understood: seed=1x",
    "hz=3": "command line: hz is 0 or a power of two in 2..1024: hz=3",
    "hz=1": "command line: hz is 0 or a power of two in 2..1024: hz=1",
    "hz=2048": "command line: hz is 0 or a power of two in 2..1024: hz=2048",
    "mode=640": "command line: a mode is WIDTHxHEIGHT: mode=640",
    "mode=640x": "command line: a number is missing: mode=640x",
    "mode=319x200": "command line: a mode is 320x200 to 2560x1600: mode=319x200",
    "mode=320x1601": "command line: a mode is 320x200 to 2560x1600: mode=320x1601",
    "mode=4294967616x200": "command line: the number is too large: mode=4294967616x200",
    "mode=324x200": "command line: a mode's width is a multiple of 8: mode=324x200",
    "fault=soft": "command line: no such fault: fault=soft",
    "dispi=off": "command line: dispi must be garbage: dispi=off",
    "seed=1 hz=64 odd": "command line: not understood: odd",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_invalid_command_line_ends_the_guest_with_a_message(line: str) -> None:
    with Machine(cpu="unicorn", command_line=line) as machine:
        assert machine.wait_end(60)
        assert machine.debug.text == f"vramtap guest: {BAD_LINES[line]}\n"
        assert machine.ended == "the guest ended with status 1"
        assert machine.frames == 0


BAD_BOOT = {
    "no magic": ("magic", 0, "started without boot information"),
    "short": ("size", 39, "started without boot information"),
    "no RAM": ("ram_bytes", 0, "the command line is not in RAM"),
    "little RAM": ("ram_bytes", 16 << 20, "RAM is not 32 MiB to 1 GiB"),
    "odd RAM": ("ram_bytes", (64 << 20) - 4096, "RAM is not 32 MiB to 1 GiB"),
    "command line far off": ("command_line", 1 << 40, "the command line is not in RAM"),
    "little video RAM": ("vram_bytes", 1 << 20, "video RAM is not 2 MiB to 64 MiB"),
    "endless video RAM": ("vram_bytes", 1 << 63, "video RAM is not 2 MiB to 64 MiB"),
    "video RAM for less": ("vram_bytes", 2 << 20, "the mode is larger than the video RAM"),
    "video RAM in RAM": ("vram_base", 0x200000, "video RAM lies in RAM, beyond 4 GiB or across a large page"),
}


@pytest.mark.parametrize("name", BAD_BOOT)
def test_invalid_boot_info_ends_the_guest_with_a_message(name: str) -> None:
    field, value, message = BAD_BOOT[name]
    with guest("") as machine:
        setattr(BootInfo.from_buffer(machine.memory.ram[BOOT_INFO:]), field, value)  # type: ignore[arg-type]
        machine.release()
        assert machine.wait_end(60)
        assert machine.debug.text == f"vramtap guest: {message}\n"


def test_unterminated_command_line_is_refused() -> None:
    with guest("") as machine:
        machine.memory.ram[COMMAND_LINE : COMMAND_LINE + COMMAND_LINE_BYTES] = ord(" ")
        machine.release()
        assert machine.wait_end(60)
        assert machine.debug.text == "vramtap guest: command line: does not end\n"


def test_largest_numbers_are_accepted() -> None:
    line = "seed=18446744073709551615 frames=4294967295 hz=0 workload=random"
    with guest(f"  {line}   {SMALL} ") as machine:
        machine.run_frames(2)
        assert machine.debug.text == "vramtap guest: random, 320x200, seed 18446744073709551615\n"


def test_flip_needs_room_for_two_pages() -> None:
    with Machine(cpu="unicorn", command_line="workload=flip mode=2560x1600 hz=0") as machine:
        assert machine.wait_end(60)
        assert "flip: two pages of this mode are larger than the video RAM" in machine.debug.text


FAULTS = {
    "ud": "rip 0x",
    "pf": "cr2 0xffffdeadbeef0000",
    "div": "rip 0x",
    "triple": "rip 0x",
    "hole": "0xb0000000",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_option_crashes_the_guest_after_its_first_frame(fault: str) -> None:
    with guest(f"workload=idle {SMALL} fault={fault}") as machine:
        machine.run_frames(1)
        assert machine.ended is None
        machine.release()
        assert machine.wait_end(60)
        assert machine.frames == 1
        assert FAULTS[fault] in (machine.ended or "")


def test_loop_option_makes_the_guest_hang() -> None:
    with guest(f"workload=idle {SMALL} fault=loop") as machine:
        machine.run_frames(1)
        machine.release()
        code = b""
        while code != b"\xeb\xfe":  # jmp to itself
            assert not machine.wait_end(0.05)
            with machine.paused():
                rip = machine.cpu.registers().rip
                code = bytes(machine.memory.ram[rip : rip + 2])
        assert machine.frames == 1
        assert machine.ended is None
