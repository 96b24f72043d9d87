"""Build the kernel in kernel.S, run it in the built-in VM, and write its screen: `run.py FILE.png`.

Needs a C compiler for x86-64, named by the variable CC (default `cc`).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
from pathlib import Path

import vramtap
from vramtap.display.png import write_png

SOURCE = Path(__file__).with_name("kernel.S")
LAST_PIXEL = 0x00BF_00FF
"""Bottom right of the gradient: red 191, blue 255."""


def build(elf: Path) -> None:
    """Assemble and link the kernel for address 1 MiB."""
    compiler = os.environ.get("CC", "cc")
    options = ["-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0x100000", "-Wl,--build-id=none"]
    subprocess.run([compiler, *options, "-o", str(elf), str(SOURCE)], check=True)


async def show(elf: Path, png: Path) -> None:
    """Run the kernel until its last pixel is painted, and write the screen."""
    with vramtap.Machine(elf, cpu="unicorn") as machine:
        async with vramtap.open(machine) as tap:
            while tap.screen.pixels.size == 0 or tap.screen.pixels[-1, -1] != LAST_PIXEL:
                async for _ in tap.changes():
                    break
            write_png(png, tap.screen.pixels)
            print(f"{png}: {tap.screen.width}x{tap.screen.height}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("png", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        kernel = Path(directory) / "kernel.elf"
        build(kernel)
        asyncio.run(show(kernel, arguments.png))
