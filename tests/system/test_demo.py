"""`demo:` served by the program: viewers show the guest's video RAM, and a bad guest does no harm."""

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
"""Workloads with the same frames each time; the desktop has a clock."""
SIZES = (DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE)


def last_picture(command_line: str, frames: int) -> NDArray[np.uint32]:
    """Return the guest's screen after its last frame, drawn by another VM in the same way."""
    with Machine(cpu="unicorn", command_line=command_line, held=True) as machine:
        machine.run_frames(frames)
        shown: NDArray[np.uint32] = pixels(machine) & np.uint32(0xFFFFFF)
        return shown


@pytest.mark.parametrize("tracker", ["log", "compare", "dirtybits"])
def test_every_viewer_shows_the_video_ram_of_every_workload(tracker: str) -> None:
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


def test_watch_and_screenshot_accept_demo_targets(tmp_path: Path) -> None:
    with started("watch", f"demo:?workload=caret&{SMALL}", "-n", "2", "--json") as child:
        finished = child.finish(None)
    assert finished.status == 0
    assert [line["width"] for line in finished.lines] == [320, 320]
    picture = tmp_path / "screen.png"
    assert run("screenshot", f"demo:?{SMALL}", "-o", picture).status == 0
    assert picture.stat().st_size > 1000


def test_demo_command_serves_a_demo_target() -> None:
    with demo("--workload", "scroll", "--mode", "640x480", "--seed", "2", web=True) as server:
        assert page(server).startswith(b"<!doctype html>")
        (report,) = server.stop()
    assert report["target"] == "demo:?workload=scroll&seed=2&mode=640x480"


# Bad guests

SET_MODE = """
    .macro dispi index value
    mov $0x1CE, %dx; mov $\\index, %ax; out %ax, %dx
    inc %dx; mov $\\value, %ax; out %ax, %dx
    .endm
    dispi 1 320; dispi 2 200; dispi 3 32; dispi 4 0x41
"""
ON_A_KEY = "1: hlt; in $0x64, %al; test $1, %al; jz 1b"
NO_TABLES = "xor %eax, %eax; mov %rax, %cr3; jmp ."
"""Without page tables the CPU finds no fault handler: a triple fault."""
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
"""Writes random values to the registers, as fast as possible. Many are small, so that some modes are
valid."""


def image(directory: Path, source: str) -> str:
    path = directory / "guest.bin"
    path.write_bytes(assemble(source))
    return f"demo:?image={path}&cpu=unicorn"


def page(server: Served) -> bytes:
    """Return the page, from a server that must still answer."""
    with urllib.request.urlopen(server.web[0], timeout=PATIENCE_S) as answer:
        content: bytes = answer.read()
        return content


def test_invalid_image_is_a_one_line_error(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.touch()
    with large.open("r+b") as file:
        file.truncate(RAM_BYTES - 1)
    message = r"image .+/large: is \d+ bytes long; a flat image has room for \d+"
    assert_one_line(run("serve", f"demo:?image={large}"), 2, message)
    assert_one_line(run("demo", "--image", str(large)), 2, message)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"\x7fELF" + bytes(100))
    message = r"image .+/damaged: is not a static ELF64 executable for x86-64 \(.+\)"
    assert_one_line(run("demo", "--image", str(damaged)), 2, message)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (NO_TABLES, r".*rip 0x10000\w, cr2 0x\w+"),
        ("movabs $0x123456789A, %rax; mov %rax, (%rax)", r".*rip 0x10000a, cr2 0x123456789a"),
        ("ud2", r".*rip 0x100000, cr2 0x0"),
    ],
    ids=["triple fault", "page fault", "invalid opcode"],
)
def test_guest_that_faults_at_once_is_a_one_line_error(source: str, message: str, tmp_path: Path) -> None:
    url = image(tmp_path, source)
    assert_one_line(run("serve", url), 1, rf"run .+guest\.bin&cpu=unicorn: the guest stopped: {message}")


def test_faulting_guest_ends_only_its_own_tap(tmp_path: Path) -> None:
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


def test_guest_exit_ends_the_program_with_its_status(tmp_path: Path) -> None:
    url = image(tmp_path, f"{SET_MODE}; {ON_A_KEY}; mov $7, %al; out %al, $0xF4; jmp .")
    with serve(url) as server, server.connect((RAW,)) as client:
        client.refresh(incremental=False)
        client.key(ord("a"), down=True)
        (report,) = server.stop(None)
    assert report["ended"] == "the guest ended with status 7"


@pytest.mark.parametrize("cpu", ["unicorn", "kvm"])
def test_endless_loop_is_shown_and_can_be_ended(cpu: str, tmp_path: Path) -> None:
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


def test_garbage_in_the_display_registers_does_no_harm(tmp_path: Path) -> None:
    with serve(image(tmp_path, GARBAGE), web=True) as server:
        with Follower(server.connect((RAW, *SIZES))) as follower:
            follower.progresses(50)
            assert page(server)
        (report,) = server.stop()
        assert server.log.count(": mode ") > 10, "the mode changed often"
    assert report["ended"] is None
    assert report["stats"]["failures"] == 0


@pytest.fixture
def no_devices() -> tuple[str, ...]:
    """Command that runs a program without permission for /dev/kvm."""
    return (sys.executable, str(Path(denial.__file__)), "devices")


def test_kvm_without_permission_is_a_one_line_error(no_devices: tuple[str, ...]) -> None:
    message = r"open /dev/kvm: EACCES \(add the user to group kvm .+\)"
    assert_one_line(run("demo", "--cpu", "kvm", prefix=no_devices), 1, message)


def test_unicorn_runs_where_kvm_is_missing(no_devices: tuple[str, ...]) -> None:
    with (
        demo("--workload", "random", "--mode", "320x200", prefix=no_devices) as server,
        Follower(server.connect((RAW,))) as follower,
    ):
        follower.progresses(2)
        server.stop()
