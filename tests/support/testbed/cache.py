"""The testbed's cache: things built once, kept under the hash of what they were built from."""

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
"""Where everything is kept; never in git."""
COMPILER_FLAGS: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")


def key(*parts: bytes | str) -> str:
    """A short name for exactly this content."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]


def built(name: str, build: Callable[[Path], None]) -> Path:
    """A directory of the cache, built if it is not there.

    Args:
        name: Its name, which must hold the hash of all it depends on.
        build: Fills an empty directory; called by one process at a time.
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
    """A C program, compiled if its source or flags have changed.

    Args:
        source: The C file, complete in itself.
        flags: Given to gcc after our own; `-static` for what runs in a guest.

    Raises:
        TestbedError: there is no compiler, or it refused.
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
        TestbedError: it is not installed, or failed; with what it said.
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
