"""Taps a guest until it is killed, and prints each stage it reaches.

`python tapper.py URL TRACKER`
"""

from __future__ import annotations

import asyncio
import sys

import vramtap
from vramtap.display.region import Rect


async def tap_for_ever(url: str, tracker: str) -> None:
    """Attach, and take one update after the other."""
    print("attaching", flush=True)
    async with vramtap.open(url, tracker=tracker) as tap:
        print("attached", flush=True)
        with tap.viewer("tapper") as viewer:
            while True:
                await viewer.changed()
                backlog = viewer.backlog
                backlog.accept_size()
                backlog.take(Rect(0, 0, backlog.width, backlog.height), moves=True)
                print("updated", flush=True)


if __name__ == "__main__":
    asyncio.run(tap_for_ever(*sys.argv[1:3]))
