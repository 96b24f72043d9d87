"""The embedded machine's guest: compiled from its sources, again only when these have changed.

What was compiled carries the digest of what it was compiled from, so nothing lies beside it that could
get lost or lie: not the files' times, which git and archives do not keep, and no second file.

`python -m build_support.guest` does it outside of a build.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from build_support.errors import BuildError

DIRECTORY: Final = "src/vramtap/machine/guest"
"""Of the sources, and of what is compiled from them."""
RESULT: Final = "guest.elf"
COMPILER_VARIABLE: Final = "CC"

LINKER_SCRIPT: Final = "guest.ld"
FLAGS: Final = (
    "-std=c11", "-O2", "-Wall", "-Wextra",
    # Nothing but what is in the sources, at the addresses that the linker script says.
    "-ffreestanding", "-nostdlib", "-static", "-no-pie", "-fno-pic",
    # No SSE: the guest does not save or set it up. Below the stack's end lies what an interrupt overwrites.
    "-mgeneral-regs-only", "-mno-red-zone",
    # What a hosted compiler may add by default, and nobody is there to serve.
    "-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables",
    # Pixels are read and written as bytes and as words.
    "-fno-strict-aliasing",
    "-Wl,-z,noexecstack", "-Wl,-z,max-page-size=4096", "-Wl,--build-id=none", f"-Wl,-T,{LINKER_SCRIPT}",
)  # fmt: skip

_SOURCES: Final = ("*.c", "*.h", "*.S", "*.ld")
_UNITS: Final = (".S", ".c")
_MARK: Final = "vramtap guest source "
"""In front of the digest: main.c."""
_TIMEOUT_S: Final = 300
_SAID_CHARS: Final = 2000
_X86: Final = ("x86_64", "amd64")


class CompileError(BuildError):
    """The guest could not be compiled; says what to do."""


def build(directory: Path, *extra_flags: str) -> bool:
    """Have the guest compiled, unless it is.

    Args:
        directory: Holds the sources; `RESULT` is put there.
        extra_flags: For the compiler; no part of the digest.

    Returns:
        Whether anything was done.

    Raises:
        CompileError: there are no sources, there is no compiler, or it fails.
    """
    sources = sorted(path for pattern in _SOURCES for path in directory.glob(pattern))
    if not sources:
        raise CompileError(f"{directory} holds no sources of the guest")
    wanted = digest(sources)
    result = directory / RESULT
    if result.is_file() and _carries(result, wanted):
        return False
    command = [*compiler(), *FLAGS, *extra_flags, f'-DGUEST_DIGEST="{wanted}"']
    # Named without their directory: what comes out is the same wherever it is built.
    command += [path.name for path in sources if path.suffix in _UNITS]
    with tempfile.TemporaryDirectory(dir=directory, prefix=".guest-") as scratch:
        compiled = Path(scratch) / RESULT
        _run([*command, "-o", str(compiled)], directory)
        if not compiled.is_file() or not _carries(compiled, wanted):
            raise CompileError(f"{command[0]} gave no guest that carries its digest")
        os.replace(compiled, result)
    return True


def digest(sources: list[Path]) -> str:
    """Of the sources' names and contents, and of the flags, in hexadecimal."""
    hashed = hashlib.sha256()
    parts = [repr(FLAGS).encode()]
    for path in sources:
        parts += [path.name.encode(), path.read_bytes()]
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little") + part)
    return hashed.hexdigest()


def compiler() -> list[str]:
    """The command that compiles for x86-64: what CC says, or what is found.

    Raises:
        CompileError: there is none.
    """
    named = shlex.split(os.environ.get(COMPILER_VARIABLE, ""))
    if named:
        if shutil.which(named[0]) is None:
            raise CompileError(f"{COMPILER_VARIABLE} names {named[0]}, which is not there")
        return named
    if platform.machine().lower() in _X86:
        candidates = [["gcc"], ["cc"], ["clang"]]
        package = "gcc (apt-get install gcc, dnf install gcc, apk add gcc)"
    else:
        candidates = [["x86_64-linux-gnu-gcc"], ["clang", "--target=x86_64-linux-gnu", "-fuse-ld=lld"]]
        package = "gcc for x86-64 (apt-get install gcc-x86-64-linux-gnu), or clang and lld"
    for candidate in candidates:
        if shutil.which(candidate[0]) is not None:
            return candidate
    raise CompileError(
        "the embedded machine's guest has to be compiled, and there is no C compiler: "
        f"install {package}, or let {COMPILER_VARIABLE} name one"
    )


def _carries(result: Path, wanted: str) -> bool:
    return f"{_MARK}{wanted}".encode() in result.read_bytes()


def _run(command: list[str], directory: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except OSError as error:
        raise CompileError(f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{command[0]}: not done in {_TIMEOUT_S} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[:_SAID_CHARS]
        raise CompileError(
            f"{command[0]} failed with exit status {done.returncode} (it has to be a C compiler for x86-64; "
            f"{COMPILER_VARIABLE} names another):\n{said}"
        )


def main() -> None:
    """Compile the guest of this checkout."""
    root = Path(__file__).resolve().parents[1]
    try:
        done = build(root / DIRECTORY)
    except BuildError as error:
        sys.exit(f"vramtap build: {error}")
    print(f"{DIRECTORY}/{RESULT}: {'compiled' if done else 'up to date'}")


if __name__ == "__main__":
    main()
