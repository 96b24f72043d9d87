"""Compiles the guest of the built-in VM, unless its sources are unchanged.

The compiled guest contains the digest of its sources. The build therefore needs neither file times, which git
and archives do not keep, nor a second file that could get lost.

`python -m build_support.guest` compiles outside of a build.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from build_support import command
from build_support.errors import BuildError

DIRECTORY: Final = "src/vramtap/machine/guest"
"""Directory of the sources and of the compiled guest."""
RESULT: Final = "guest.elf"
COMPILER_VARIABLE: Final = "CC"

LINKER_SCRIPT: Final = "guest.ld"
FLAGS: Final = (
    "-std=c11", "-O2", "-Wall", "-Wextra",
    # Only what is in the sources, at the addresses of the linker script.
    "-ffreestanding", "-nostdlib", "-static", "-no-pie", "-fno-pic",
    # No SSE: the guest does not set it up. No red zone: an interrupt would overwrite it.
    "-mgeneral-regs-only", "-mno-red-zone",
    # Nothing that needs the run-time support of a hosted compiler.
    "-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables",
    # The guest reads and writes pixels as bytes and as words.
    "-fno-strict-aliasing",
    "-Wl,-z,noexecstack", "-Wl,-z,max-page-size=4096", "-Wl,--build-id=none", f"-Wl,-T,{LINKER_SCRIPT}",
)  # fmt: skip

_SOURCES: Final = ("*.c", "*.h", "*.S", "*.ld")
_UNITS: Final = (".S", ".c")
_MARK: Final = "vramtap guest source "
"""Text before the digest, as in main.c."""
_TIMEOUT_S: Final = 300
_MAX_OUTPUT_CHARS: Final = 2000
_X86: Final = ("x86_64", "amd64")


class CompileError(BuildError):
    """The guest could not be compiled. The message says what to do."""


def build(directory: Path, *extra_flags: str) -> bool:
    """Compile the guest if it is missing or its sources have changed.

    Args:
        directory: Contains the sources, and receives `RESULT`.
        extra_flags: Further flags for the compiler; not part of the digest.

    Returns:
        Whether the guest was compiled.

    Raises:
        CompileError: there are no sources, or no compiler, or it fails.
    """
    sources = sorted(path for pattern in _SOURCES for path in directory.glob(pattern))
    if not sources:
        raise CompileError(f"{directory} contains no sources of the guest")
    wanted = digest(sources)
    result = directory / RESULT
    if result.is_file() and _has_digest(result, wanted):
        return False
    compile_command = [*compiler(), *FLAGS, *extra_flags, f'-DGUEST_DIGEST="{wanted}"']
    # File names without directory, so that the result is the same wherever it is built.
    compile_command += [path.name for path in sources if path.suffix in _UNITS]
    with tempfile.TemporaryDirectory(dir=directory, prefix=".guest-") as scratch:
        compiled = Path(scratch) / RESULT
        _run([*compile_command, "-o", str(compiled)], directory)
        if not compiled.is_file() or not _has_digest(compiled, wanted):
            raise CompileError(f"{compile_command[0]} produced no guest that contains its digest")
        os.replace(compiled, result)
    return True


def digest(sources: list[Path]) -> str:
    """Return the digest of the sources' names and contents and of the flags, in hexadecimal."""
    hashed = hashlib.sha256()
    parts = [repr(FLAGS).encode()]
    for path in sources:
        parts += [path.name.encode(), path.read_bytes()]
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little") + part)
    return hashed.hexdigest()


def compiler() -> list[str]:
    """Return the command that compiles for x86-64: the one in `CC`, or the first that is installed.

    Raises:
        CompileError: there is none.
    """
    named = shlex.split(os.environ.get(COMPILER_VARIABLE, ""))
    if named:
        if shutil.which(named[0]) is None:
            raise CompileError(f"{COMPILER_VARIABLE} names {named[0]}, which is not installed")
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
        "the guest of the built-in VM must be compiled, and there is no C compiler: "
        f"install {package}, or set {COMPILER_VARIABLE}"
    )


def _has_digest(result: Path, wanted: str) -> bool:
    return f"{_MARK}{wanted}".encode() in result.read_bytes()


def _run(argv: list[str], directory: Path) -> None:
    try:
        done = subprocess.run(
            argv, cwd=directory, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except OSError as error:
        raise CompileError(f"{argv[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{argv[0]}: not finished after {_TIMEOUT_S} s") from error
    if done.returncode:
        output = (done.stderr or done.stdout).strip()[:_MAX_OUTPUT_CHARS]
        raise CompileError(
            f"{argv[0]} failed with exit status {done.returncode} (it must be a C compiler for x86-64; "
            f"set {COMPILER_VARIABLE} to use another):\n{output}"
        )


def _step(root: Path) -> str:
    compiled = build(root / DIRECTORY)
    return f"{DIRECTORY}/{RESULT}: {'compiled' if compiled else 'up to date'}"


if __name__ == "__main__":
    command.run(_step)
