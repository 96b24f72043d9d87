"""The testbed's cache. Files are built once, under the hash of their sources."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from support.testbed.errors import TestbedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT: Final = Path(__file__).resolve().parents[3] / ".cache" / "testbed"
"""Directory of the cache; not in git."""
COMPILER_FLAGS: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")


def key(*parts: bytes | str) -> str:
    """Return a short hash of this content."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]


def built(name: str, build: Callable[[Path], None]) -> Path:
    """Return a directory of the cache. Build it if it does not exist.

    Args:
        name: Name of the directory. It must contain the hash of everything the content depends on.
        build: Fills an empty directory. Only one process calls it at a time.
    """
    place = ROOT / name
    if place.is_dir():
        return place
    with _locked(ROOT / "lock"):
        if place.is_dir():
            return place
        scratch = Path(tempfile.mkdtemp(dir=ROOT, prefix=".building-"))
        try:
            build(scratch)
            place.parent.mkdir(parents=True, exist_ok=True)
            scratch.chmod(0o755)
            scratch.rename(place)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return place


def compiled(source: Path, *flags: str) -> Path:
    """Return a compiled C program. Compile it if its source or flags have changed.

    Args:
        source: The C file; it includes no other file of the testbed.
        flags: Further arguments of gcc: `-static` for a program that runs in a guest.

    Raises:
        TestbedError: gcc is not installed, or the compilation failed.
    """
    name = f"bin/{source.stem}-{key(source.read_bytes(), *COMPILER_FLAGS, *flags)}"

    def build(into: Path) -> None:
        run("gcc", *COMPILER_FLAGS, *flags, "-o", str(into / source.stem), str(source))

    return built(name, build) / source.stem


def run(*argv: str, cwd: Path | None = None) -> str:
    """Run a tool to its end.

    Returns:
        Its standard output.

    Raises:
        TestbedError: The tool is not installed, or it failed. The message has its stderr.
    """
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise TestbedError(f"{argv[0]} is not installed (make test names the Debian packages)") from error
    if done.returncode:
        raise TestbedError(f"{' '.join(argv)}: exit status {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
