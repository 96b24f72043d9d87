"""Hostile guests and invalid answers of a monitor: each ends in a one-line error, never in a traceback."""

from __future__ import annotations

import asyncio
import itertools
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import vramtap
from support.fake_qmp import fake_qmp
from support.model_client import ModelClient
from vramtap.errors import VramtapError
from vramtap.pages import PAGE_SIZE
from vramtap.tap.tap import Tap
from vramtap.targets.qemu.qmp import MonitorTimeouts
from vramtap.targets.qemu.target import QemuTarget, QemuTimeouts

if TYPE_CHECKING:
    from support.testbed.guest import Guest

TRACKERS = ("hybrid", "log", "compare")
IMPATIENT = QemuTimeouts(
    monitor=MonitorTimeouts(connect_s=1.0, command_s=0.05), place_s=0.2, exit_grace_s=0.01
)


def resident_peak_kib() -> int:
    """Return the peak of resident memory since `forget_peak` (proc_pid_status(5), VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise AssertionError("no VmHWM")


def forget_peak() -> None:
    """Reset the peak (proc_pid_clear_refs(5), 5)."""
    Path("/proc/self/clear_refs").write_text("5")


MEMORY_BOUND_KIB = 1 << 20
"""Memory bound of a tap on 16 MiB of video RAM with any registers. At 4 bits a pixel the RAM holds 32 million
pixels, 128 MiB a copy; there are the picture, the last picture, and two states of the screen."""


@pytest.mark.stress
@pytest.mark.parametrize("tracker", TRACKERS)
async def test_random_registers_are_survived_within_a_memory_bound(
    guest: Guest, tracker: str, stress: int, caplog: pytest.LogCaptureFixture
) -> None:
    forget_peak()
    before = resident_peak_kib()
    async with vramtap.open(guest.url, tracker=tracker) as tap, ModelClient(tap) as client:
        for seed in range(10 * stress):
            # Few writes change a part of the mode, many change all of it.
            await asyncio.to_thread(guest.run, f"fbtool random-dispi {seed} {(3, 20, 2000)[seed % 3]}")
            await tap.refresh()
            await asyncio.to_thread(guest.run, "fbtool noise 1 || true")
            await asyncio.to_thread(guest.restore)
            await client.shows(await asyncio.to_thread(guest.screendump))
        assert tap.closed is None
    assert resident_peak_kib() - before < MEMORY_BOUND_KIB
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.stress
async def test_random_registers_show_what_qemu_shows(guest: Guest, stress: int) -> None:
    """Random registers make unusual modes. If QEMU shows a picture, the tap shows the same."""
    async with vramtap.open(guest.url) as tap, ModelClient(tap) as client:
        for seed in range(6 * stress):
            await asyncio.to_thread(guest.run, f"fbtool random-dispi {seed} 4")
            await asyncio.to_thread(guest.run, "fbtool stress 3 2000 || true")
            await client.shows(await asyncio.to_thread(guest.screendump))
            await asyncio.to_thread(guest.restore)


# Invalid answers of a monitor

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NUMBERS = st.sampled_from([-1, 0, 1, 2, 4095, 4096, 1 << 24, 1 << 31, 1 << 48, (1 << 64) - 1, 1 << 64])


def sometimes(invalid: st.SearchStrategy[Any], valid: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy that is mostly valid, so that tests get past the first command."""
    return st.integers(0, 15).flatmap(lambda n: valid if n < 15 else invalid)


@st.composite
def pci(draw: st.DrawFn) -> object:
    regions = [
        {
            "bar": draw(sometimes(JSON | NUMBERS, st.just(bar))),
            "address": draw(sometimes(JSON | NUMBERS, st.just(0xFD000000 + bar * 0x2000000))),
            "size": draw(sometimes(JSON | NUMBERS, st.just(1 << 20))),
        }
        for bar in (0, 2)
    ]
    device: object = {
        "id": draw(sometimes(JSON, st.just({"vendor": 0x1234, "device": 0x1111}))),
        "class_info": draw(sometimes(JSON, st.just({"class": 0x300}))),
        "regions": draw(sometimes(JSON, st.just(regions))),
    }
    device = draw(sometimes(JSON, st.just(device)))
    bus: object = {"bus": 0, "devices": draw(sometimes(JSON, st.just([device])))}
    if draw(st.integers(0, 4)) == 0:
        bus = {"devices": [{"pci_bridge": {"bus": {}, "devices": [device]}}]}
    return draw(sometimes(JSON, st.just([bus])))


WORDS = st.lists(
    st.integers(0, 0xFFFF) | st.sampled_from([0xB0C5, 64, 48, 32, 16, 24, 8, 0x41, 1, 0, 1024, 0xFFFF]),
    min_size=9,
    max_size=13,
)


@st.composite
def registers(draw: st.DrawFn) -> str:
    words = draw(sometimes(WORDS, st.just([0xB0C5, 64, 48, 32, 0x41, 0, 64, 1, 0, 0, 256])))
    lines = [words[at : at + 8] for at in range(0, len(words), 8)]
    text = "".join(
        f"{at:016x}: {' '.join(f'0x{word:04x}' for word in line)}\r\n" for at, line in enumerate(lines)
    )
    invalid = st.text(max_size=40) | st.sampled_from(["Cannot access memory\r\n", "0x" * 10, "(" * 100])
    return str(draw(sometimes(invalid, st.just(text))))


WIRE = st.sampled_from(
    [
        None,
        b"",
        b"no JSON",
        b"[]",
        b"5",
        b'{"id": ["unhashable"]}',
        b'{"error": 5}',
        b'{"event": 5}',
        b'{"event": "RESET", "timestamp": null}',
        b'{"return": {}}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"return": "' + b"x" * (11 << 20) + b'"}',
    ]
)


MEMORY = np.zeros((1 << 20) + PAGE_SIZE, np.uint8)
ADDRESS = -(-MEMORY.ctypes.data // PAGE_SIZE) * PAGE_SIZE


PLACES = sometimes(NUMBERS.map(hex) | st.text(max_size=20), st.just(hex(ADDRESS)))
LABELS = st.sampled_from(["vramtap 999999999999", "vramtap x", "vramtap 0", "else"]) | JSON
LENT = st.fixed_dictionaries({"opaque": LABELS}) | JSON
SETS = st.lists(st.fixed_dictionaries({"fdset-id": NUMBERS, "fds": st.lists(LENT, max_size=2)}), max_size=2)
ANSWERS = {
    "query-pci": pci(),
    "gpa2hva": PLACES.map(lambda at: f"Host virtual address for 0xfd000000 (vga.vram) is {at}\r\n"),
    "info": JSON | st.just("Block Name HVA\n vga.vram 0x10 0x7f\n"),
    "xp": registers(),
    "query-fdsets": sometimes(JSON, SETS),
    "add-fd": JSON | st.just({"fdset-id": 1, "fd": 9}),
    "screendump": JSON,
    "remove-fd": JSON,
}


def some(answers: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Return a strategy for successive answers to one command."""
    return st.lists(st.integers(0, 23).flatmap(lambda n: answers if n < 23 else WIRE), min_size=1, max_size=4)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(script=st.fixed_dictionaries({command: some(answers) for command, answers in ANSWERS.items()}))
def test_any_answers_of_a_monitor_raise_vramtap_errors_only(script: dict[str, list[Any]]) -> None:
    turns = {command: itertools.cycle(answers) for command, answers in script.items()}

    def answer(command: str, arguments: dict[str, Any]) -> object:
        line = str(arguments.get("command-line", command))
        return next(turns[line.split()[0]])

    async def attach_and_refresh(path: Path) -> None:
        async with asyncio.timeout(30), fake_qmp(path, answer):
            stage, message = "connecting", ""
            try:
                async with Tap(QemuTarget(str(path), timeouts=IMPATIENT), "compare") as tap:
                    for number in range(6):
                        stage = f"{number} refreshes"
                        await tap.refresh()
            except VramtapError as error:
                event(f"{stage}: {type(error).__name__} {error.operation} {error.reason[:20]}")
                message = str(error)
            assert len(message) < 5000

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(attach_and_refresh(Path(directory) / "qmp"))
