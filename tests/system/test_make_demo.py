"""`make demo` as on a fresh machine with an empty home and nothing built, up to text typed in the browser."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from support.browser import window
from support.guest_screen import CONSOLE_INK, locate
from support.program import Lines
from support.testbed.require import program
from support.testbed.supervise import spawn, stop

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = (
    "Makefile",
    "constraints.txt",
    "pyproject.toml",
    "hatch_build.py",
    "README.md",
    "LICENSE",
    "build_support",
    "src",
    "tools",
)
BUILT: Final = ("novnc", "guest.elf", "__pycache__", "*.egg-info")
MISSING: Final = (
    "npm",
    "npx",
    "node",
    "nodejs",
    "corepack",
    "qemu-system-x86_64",
    "busybox",
    "python",
    "python3",
)
PATIENCE_S: Final = 600.0
"""Longest installation: it downloads 100 MB."""
TEXT: Final = "from nothing"


def checkout(directory: Path) -> None:
    """Copy what git has, without build results."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns(*BUILT))
        else:
            shutil.copy2(ROOT / name, directory / name)


def tools(directory: Path) -> None:
    """Link this host's programs, except those that a fresh machine lacks."""
    for place in ("/bin", "/usr/bin"):
        for path in Path(place).iterdir():
            if path.name not in MISSING and not (directory / path.name).exists():
                (directory / path.name).symlink_to(path)
    # The interpreter of the tests' own environment.
    (directory / "python3").symlink_to(Path(sys.executable).resolve())


async def test_make_demo_works_on_a_fresh_machine(tmp_path: Path) -> None:
    program("make", "make")
    places = {name: tmp_path / name for name in ("home", "tools", "checkout")}
    for place in places.values():
        place.mkdir()
    checkout(places["checkout"])
    tools(places["tools"])
    options = "--json --vnc 127.0.0.1:0 --web 127.0.0.1:0"
    # Remove the variables that an outer make passes to its children.
    clean = [
        "env",
        *[f"--unset={name}" for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VRAMTAP_NOVNC_TARBALL")],
    ]
    command = [*clean, "make", "--silent", "-C", str(places["checkout"]), "demo", f"DEMO_ARGS={options}"]
    environment = {"HOME": str(places["home"]), "PATH": str(places["tools"]), "CI": ""}
    with tempfile.TemporaryFile() as log:
        process = spawn(command, stdout=subprocess.PIPE, stderr=log, env=environment)
        try:
            made = Lines(process, log)
            url = ""
            while not url:
                line = made.line(PATIENCE_S)
                assert line is not None, made.log
                url = json.loads(line).get("web", "") if line.startswith("{") else ""
            async with window() as shown:
                await shown.page.goto(url)
                await shown.state("connected")
                await shown.type(TEXT)

                async def shows_text() -> bool:
                    return locate(await shown.pixels(), TEXT, CONSOLE_INK) is not None

                await shown.until(shows_text)
            # As Ctrl-C in a terminal: to make and to its children.
            os.killpg(process.pid, signal.SIGINT)
            while (line := made.line()) is not None:
                assert "Traceback" not in line
            process.wait(PATIENCE_S)
            assert "Traceback" not in made.log
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            stop(process)
            print(made.log)
    left = {path.name for path in (places["checkout"] / ".venv/bin").iterdir()}
    assert "vramtap" in left
    assert not left & {"npm", "node"}, "tools for the build are not installed"
