"""A program that follows a target until it is killed, and arms whenever the target is idle.

`python following_tapper.py URL` prints `watchdog PID` when it has attached. It reads commands from standard
input:
  armed       wait until it is armed and sleeps; print `armed`
  show PATH   wait until it shows the picture in a `numpy.save` file; print `shows`
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np

from support.forced import ArmAtOnce, armed, tapped
from support.model_client import ModelClient
from vramtap.tap.timings import TapTimings


async def follow(url: str) -> None:
    """Attach and follow. Run the commands on standard input until it ends."""
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
