"""A program that follows a target, armed whenever it is quiet, until it is killed.

`python following_tapper.py URL`: says `watchdog PID` when it has attached, and obeys lines on standard input:
  armed       waits until it is and sleeps; answers `armed`
  show PATH   waits until it shows that picture (`numpy.save`); answers `shows`
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np

from support.forced import ArmAtOnce, armed, tapped
from support.model_client import ModelClient
from vramtap.tap.timings import TapTimings


async def follow(url: str) -> None:
    """Attach, follow, and obey standard input until it ends."""
    async with (
        tapped(url, ArmAtOnce(), timings=TapTimings(idle_after_s=0.0)) as (tap, tracker),
        ModelClient(tap) as client,
    ):
        print(f"watchdog {tracker.watchdog_pid}", flush=True)
        while words := (await asyncio.to_thread(sys.stdin.readline)).split():
            if words == ["armed"]:
                await armed(tap, tracker)
                print("armed", flush=True)
            else:
                await client.shows(np.load(words[1]))
                print("shows", flush=True)


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1]))
