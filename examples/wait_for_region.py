"""Wait until a part of a screen changes: `wait_for_region.py TARGET X,Y,WIDTH,HEIGHT [--timeout SECONDS]`.

Exit status 0 when the region changed, 3 when the time is over, 1 when the target ended.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import vramtap


async def wait(target: str, region: vramtap.Rect, timeout_s: float | None) -> int:
    """Print the first change inside the region.

    Args:
        target: As on the command line of vramtap.
        region: Part of the screen, pixels.
        timeout_s: How long to wait, seconds; None waits for ever.

    Returns:
        Exit status.
    """
    async with vramtap.open(target) as tap:
        before = tap.screen.pixels[region.slices].copy()
        try:
            async with asyncio.timeout(timeout_s):
                async for damage in tap.changes():
                    if not any(rect.intersect(region) for rect in damage.rects):
                        continue
                    # Damage may be rounded outward, so compare the pixels.
                    after = tap.screen.pixels[region.slices]
                    if damage.resized or (after != before).any():
                        print(f"changed: {region.width}x{region.height} at {region.x},{region.y}")
                        return 0
        except TimeoutError:
            print(f"unchanged for {timeout_s} s")
            return 3
        print(f"the target ended: {tap.closed}")
        return 1


def _region(text: str) -> vramtap.Rect:
    x, y, width, height = (int(part) for part in text.split(","))
    return vramtap.Rect(x, y, width, height)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("region", type=_region)
    parser.add_argument("--timeout", type=float)
    options = parser.parse_args()
    sys.exit(asyncio.run(wait(options.target, options.region, options.timeout)))
