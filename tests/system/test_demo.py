"""`demo:` served by the program: viewers have the guest's video RAM, and a bad guest harms nobody."""

from __future__ import annotations

import contextlib
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from support import denied as denial
from support.follower import Follower
from support.guest_screen import pixels
from support.machine_code import assemble
from support.program import PATIENCE_S, Served, assert_one_line, demo, run, serve, started
from support.rfb_client import COPY_RECT, DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE, RAW, ZRLE
from vramtap.machine.layout import RAM_BYTES, VRAM_BASE
from vramtap.machine.machine import Machine
from vramtap.machine.workloads import WORKLOADS

if TYPE_CHECKING:
    from numpy.typing import NDArray

SMALL = "mode=320x200"
FRAMES = 24
DRAWING = [name for name in WORKLOADS if name not in ("desktop", "idle")]
"""Those whose frames are the same each time; the desktop has a clock."""
SIZES = (DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE)


def last_picture(command_line: str, frames: int) -> NDArray[np.uint32]:
    """What the guest's screen shows after its last frame: drawn by another machine, for it is the same."""
    with Machine(cpu="unicorn", command_line=command_line, held=True) as machine:
        machine.run_frames(frames)
        shown: NDArray[np.uint32] = pixels(machine) & np.uint32(0xFFFFFF)
        return shown


@pytest.mark.parametrize("tracker", ["log", "compare", "dirtybits"])
def test_every_viewer_has_the_video_ram_of_every_workload(tracker: str) -> None:
    urls = [f"demo:?workload={name}&{SMALL}&seed=9&frames={FRAMES}&cpu=unicorn" for name in DRAWING]
    with serve(*urls, arguments=("--tracker", tracker)) as server:
        with contextlib.ExitStack() as stack:
            followers = [
                stack.enter_context(Follower(server.connect((COPY_RECT, ZRLE, RAW, *SIZES), index=index)))
                for index in range(len(urls))
            ]
            for name, follower in zip(DRAWING, followers, strict=True):
                truth = last_picture(f"workload={name} {SMALL} seed=9 frames={FRAMES} hz=0", FRAMES)
                follower.shows(truth, name)
        reports = server.stop()
    assert [report["stats"]["tracker"] for report in reports] == [tracker] * len(urls)
    assert all(report["ended"] is None and report["stats"]["failures"] == 0 for report in reports)


@pytest.mark.parametrize("log", ["bitmap", "manual", "ring"])
def test_kvm_shows_the_same(log: str) -> None:
    url = f"demo:?cpu=kvm&log={log}&workload=random&{SMALL}&seed=4&frames=3"
    with serve(url, arguments=("--tracker", "kvmlog")) as server:
        with Follower(server.connect((ZRLE, *SIZES))) as follower:
            follower.shows(last_picture(f"workload=random {SMALL} seed=4 frames=3 hz=0", 3))
        (report,) = server.stop()
    assert report["stats"]["tracker"] == "kvmlog"


def test_watch_and_screenshot_take_it(tmp_path: Path) -> None:
    with started("watch", f"demo:?workload=caret&{SMALL}", "-n", "2", "--json") as child:
        finished = child.finish(None)
    assert finished.status == 0
    assert [line["width"] for line in finished.lines] == [320, 320]
    picture = tmp_path / "screen.png"
    assert run("screenshot", f"demo:?{SMALL}", "-o", picture).status == 0
    assert picture.stat().st_size > 1000


def test_demo_is_serve_with_a_target_of_its_own() -> None:
    with demo("--workload", "scroll", "--mode", "640x480", "--seed", "2", web=True) as server:
        assert page(server).startswith(b"<!doctype html>")
        (report,) = server.stop()
    assert report["target"] == "demo:?workload=scroll&seed=2&mode=640x480"


# Guests that are up to no good

SET_MODE = """
    .macro dispi index value
    mov $0x1CE, %dx; mov $\\index, %ax; out %ax, %dx
    inc %dx; mov $\\value, %ax; out %ax, %dx
    .endm
    dispi 1 320; dispi 2 200; dispi 3 32; dispi 4 0x41
"""
ON_A_KEY = "1: hlt; in $0x64, %al; test $1, %al; jz 1b"
NO_TABLES = "xor %eax, %eax; mov %rax, %cr3; jmp ."
"""Without page tables not even the handler of a fault can be found: a triple fault."""
GARBAGE = f"""{SET_MODE}
    mov ${VRAM_BASE:#x}, %edi
    mov $12345, %ebx
1:  imul $1103515245, %ebx; add $12345, %ebx
    mov $0x1CE, %dx; mov %ebx, %eax; shr $16, %eax; and $15, %eax; out %ax, %dx
    imul $1103515245, %ebx; add $12345, %ebx
    inc %dx; mov %ebx, %eax; shr $16, %eax
    mov $0x7FF, %ecx; mov $0x38, %esi; test $0x8000, %eax; cmovz %esi, %ecx; and %ecx, %eax; out %ax, %dx
    incl (%rdi)
    jmp 1b
"""
"""Writes anything to the registers, as fast as it can; often small values, or hardly a mode would be good."""


def image(directory: Path, source: str) -> str:
    path = directory / "guest.bin"
    path.write_bytes(assemble(source))
    return f"demo:?image={path}&cpu=unicorn"


def page(server: Served) -> bytes:
    """The page, from a server that still answers."""
    with urllib.request.urlopen(server.web[0], timeout=PATIENCE_S) as answer:
        content: bytes = answer.read()
        return content


def test_images_that_cannot_be_run_are_one_line(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.touch()
    with large.open("r+b") as file:
        file.truncate(RAM_BYTES - 1)
    said = r"image .+/large: is \d+ bytes long; a flat image has room for \d+"
    assert_one_line(run("serve", f"demo:?image={large}"), 2, said)
    assert_one_line(run("demo", "--image", str(large)), 2, said)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"\x7fELF" + bytes(100))
    said = r"image .+/damaged: is not a static ELF64 executable for x86-64 \(.+\)"
    assert_one_line(run("demo", "--image", str(damaged)), 2, said)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (NO_TABLES, r".*rip 0x10000\w, cr2 0x\w+"),
        ("movabs $0x123456789A, %rax; mov %rax, (%rax)", r".*rip 0x10000a, cr2 0x123456789a"),
        ("ud2", r".*rip 0x100000, cr2 0x0"),
    ],
    ids=["triple fault", "page fault", "invalid opcode"],
)
def test_a_guest_that_faults_at_once_is_one_line(source: str, said: str, tmp_path: Path) -> None:
    url = image(tmp_path, source)
    assert_one_line(run("serve", url), 1, rf"run .+guest\.bin&cpu=unicorn: the guest stopped: {said}")


def test_a_guest_that_faults_while_it_is_watched_ends_its_tap_and_no_other(tmp_path: Path) -> None:
    bad = image(tmp_path, f"{SET_MODE}; {ON_A_KEY}; {NO_TABLES}")
    good = f"demo:?workload=caret&{SMALL}&cpu=unicorn"
    with serve(bad, good, web=True) as server:
        with (
            Follower(server.connect((RAW,), index=1)) as other,
            server.connect((RAW,), index=0) as client,
        ):
            client.refresh(incremental=False)
            client.key(ord("a"), down=True)
            while "the guest stopped" not in server.log:
                other.progresses(1)
            assert page(server)
            other.progresses(2)
        reports = {report["target"]: report["ended"] for report in server.stop()}
    assert reports[good] is None
    assert "rip 0x1000" in reports[bad]
    assert "cr2 0x" in reports[bad]


def test_a_guest_that_ends_itself_ends_the_program_and_says_its_status(tmp_path: Path) -> None:
    url = image(tmp_path, f"{SET_MODE}; {ON_A_KEY}; mov $7, %al; out %al, $0xF4; jmp .")
    with serve(url) as server, server.connect((RAW,)) as client:
        client.refresh(incremental=False)
        client.key(ord("a"), down=True)
        (report,) = server.stop(None)
    assert report["ended"] == "the guest ended with status 7"


@pytest.mark.parametrize("cpu", ["unicorn", "kvm"])
def test_an_endless_loop_without_interrupts_is_shown_and_ended(cpu: str, tmp_path: Path) -> None:
    source = (
        f"cli; {SET_MODE}; mov ${VRAM_BASE:#x}, %edi; mov $0x123456, %eax; mov $64000, %ecx; rep stosl; jmp ."
    )
    url = image(tmp_path, source).replace("cpu=unicorn", f"cpu={cpu}")
    with serve(url, web=True) as server:
        with Follower(server.connect((RAW,))) as follower:
            follower.shows(np.full((200, 320), 0x123456, np.uint32))
            assert page(server)
        (report,) = server.stop()
    assert report["ended"] is None


def test_a_display_set_to_garbage_is_survived(tmp_path: Path) -> None:
    with serve(image(tmp_path, GARBAGE), web=True) as server:
        with Follower(server.connect((RAW, *SIZES))) as follower:
            follower.progresses(50)
            assert page(server)
        (report,) = server.stop()
        assert server.log.count(": mode ") > 10, "modes came and went"
    assert report["ended"] is None
    assert report["stats"]["failures"] == 0


@pytest.fixture
def no_devices() -> tuple[str, ...]:
    """The command that runs a program which may not open /dev/kvm."""
    return (sys.executable, str(Path(denial.__file__)), "devices")


def test_kvm_without_permission_is_one_line(no_devices: tuple[str, ...]) -> None:
    said = r"open /dev/kvm: EACCES \(add the user to group kvm .+\)"
    assert_one_line(run("demo", "--cpu", "kvm", prefix=no_devices), 1, said)


def test_without_kvm_it_is_unicorn_that_runs(no_devices: tuple[str, ...]) -> None:
    with (
        demo("--workload", "random", "--mode", "320x200", prefix=no_devices) as server,
        Follower(server.connect((RAW,))) as follower,
    ):
        follower.progresses(2)
        server.stop()
