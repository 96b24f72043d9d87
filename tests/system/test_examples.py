"""Every program in examples/ does what it says."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

from support.documents import ROOT
from support.testbed.require import program

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES: Final = ROOT / "examples"
TIMEOUT_S: Final = 120.0
"""How long an example may take: only a hang takes so long."""
PNG: Final = b"\x89PNG\r\n\x1a\n"
CARET: Final = "demo:?workload=caret&cpu=unicorn"
"""A screen on which a caret blinks and nothing else changes."""


def run(name: str, *arguments: str | Path, status: int = 0) -> list[str]:
    """Run an example; return its lines."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == status, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_record_changes_writes_a_picture_for_each_change(tmp_path: Path) -> None:
    lines = run("record_changes.py", CARET, tmp_path / "out", "--count", "2")
    pictures = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in pictures] == ["00000.png", "00001.png", "00002.png"]
    contents = [path.read_bytes() for path in pictures]
    assert all(content.startswith(PNG) for content in contents)
    assert contents[0] != contents[1] != contents[2]
    assert [line.partition(":")[0] for line in lines] == ["00001.png", "00002.png"]


def test_wait_for_region_ends_with_the_change() -> None:
    assert run("wait_for_region.py", CARET, "0,0,1024,768") == ["changed: 1024x768 at 0,0"]


def test_wait_for_region_ignores_changes_elsewhere() -> None:
    lines = run("wait_for_region.py", CARET, "1000,700,16,16", "--timeout", "0.8", status=3)
    assert lines == ["unchanged for 0.8 s"]


def test_follow_array_copies_only_what_was_written() -> None:
    lines = run("follow_array.py")
    assert len(lines) == 5
    assert all(line.endswith("equal: True") for line in lines)
    copied = [int(line.split("copied ")[1].split()[0]) for line in lines]
    whole = copied[0]
    assert whole == 2000 * 1024 * 4
    # A row is 4,096 bytes and lies in two pages at most. `compare` and the log are both exact.
    assert all(4096 <= part <= 2 * 4096 for part in copied[1:4])
    assert copied[4] == 0


def test_kernel_paints_a_gradient(tmp_path: Path) -> None:
    program("cc", "gcc")
    lines = run("kernel/run.py", tmp_path / "screen.png")
    assert lines == [f"{tmp_path / 'screen.png'}: 256x192"]
    assert (tmp_path / "screen.png").read_bytes().startswith(PNG)


def test_every_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    entries = [path.name for path in EXAMPLES.iterdir() if path.name not in ("README.md", "__pycache__")]
    assert len(entries) == 4
    assert [name for name in entries if f"]({name})" not in listed] == []
