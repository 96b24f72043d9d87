"""Write a PNG of a screen for each change: `record_changes.py TARGET DIRECTORY [--count N]`.

Changes that happen while a picture is written are merged into the next picture.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import vramtap
from vramtap.display.png import write_png


async def record(target: str, directory: Path, count: int | None) -> None:
    """Write the screen at the start and after each change.

    Args:
        target: As on the command line of vramtap.
        directory: Gets 00000.png, 00001.png, ...
        count: Number of changes to record; None records until the target ends.
    """
    async with vramtap.open(target) as tap:
        write_png(directory / "00000.png", tap.screen.pixels)
        number = 0
        async for damage in tap.changes():
            number += 1
            # A copy, since the screen goes on changing while the thread writes.
            pixels = tap.screen.pixels.copy()
            await asyncio.to_thread(write_png, directory / f"{number:05}.png", pixels)
            print(
                f"{number:05}.png: {len(damage.rects)} rectangles, {damage.area} pixels changed", flush=True
            )
            if number == count:
                break


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--count", type=int)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    asyncio.run(record(options.target, options.directory, options.count))
