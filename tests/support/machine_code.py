"""Assembles x86-64 machine code for tests, and caches it by its source."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

from vramtap.machine.layout import IMAGE_BASE


@functools.cache
def assemble(source: str, base: int = IMAGE_BASE) -> bytes:
    """Return a flat image.

    Args:
        source: Text in GNU assembler syntax; `;` ends a statement. Its first byte is the entry point.
        base: Address for which it is linked.
    """
    with tempfile.TemporaryDirectory(prefix="vramtap-code-") as name:
        directory = Path(name)
        text = directory / "code.S"
        text.write_text(f".code64\n.globl _start\n_start:\n{source}\n")
        elf, flat = directory / "code.elf", directory / "code.bin"
        command = ["gcc", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", f"-Wl,-Ttext={base:#x}"]
        subprocess.run([*command, "-o", str(elf), str(text)], check=True, capture_output=True)
        subprocess.run(
            ["objcopy", "-O", "binary", "-j", ".text", str(elf), str(flat)], check=True, capture_output=True
        )
        return flat.read_bytes()
