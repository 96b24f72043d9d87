"""What a video on the whole screen loses to whoever follows it, beside what it loses to being read at all.

In turns: nobody, a reader that tracks nothing (`blind`), and each tracker, in an order that moves on from
round to round. A ratio compares a turn with nobody's turn of the same round, taken within seconds of it.

The writer is a process of its own that paints 1920x1080x32 as fast as it can, with arithmetic for every pixel
as a decoder has. The same on the embedded machine is `vramtap.cli._bench_trackers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.follow import BLIND, follower
from benchmarks.painter import Painted, Painter

Progress = Callable[[str], None]

NOBODY: Final = "nobody"
SIZE: Final = 1920, 1080
ROUNDS_OF_WORK: Final = 16
"""Of arithmetic for every two pixels: a frame takes 9 ms on the machine this was written on, untracked, of
which storing it is one."""
WARM_S: Final = 1.5
"""Painted before a turn is measured: what decides by what it saw has seen it."""


@dataclass(frozen=True)
class Video:
    """One follower's turns.

    Args:
        tracker: As `--tracker` names it, `BLIND` or `NOBODY`.
        per_s: Frames a second of each turn.
        ratios: Of each turn's rate to nobody's in the same round.
        cpu_ratios: The same of the frames in a second of the writer's own CPU time, its faults included: what
            other processes take from it on a busy machine is not in them, and neither is being held.
        looks_per_s: Of each turn; 0 for nobody.
        our_ms_s: CPU of the follower and its helpers, milliseconds a second, of each turn.
    """

    tracker: str
    per_s: list[float]
    ratios: list[float]
    cpu_ratios: list[float]
    looks_per_s: list[float]
    our_ms_s: list[float]


def measure(
    trackers: Sequence[str],
    rounds: int,
    turn_s: float,
    progress: Progress,
    size: tuple[int, int] = SIZE,
    work: int = ROUNDS_OF_WORK,
) -> list[Video]:
    """Let a painter paint, followed and not.

    Args:
        trackers: As `--tracker` names them.
        rounds: In each of which everybody has a turn.
        turn_s: Seconds a turn.
        progress: Told what is going on.
        size: Of the screen, pixels.
        work: Rounds of arithmetic for every 8 bytes.
    """
    names = [NOBODY, BLIND, *trackers]
    found = {name: Video(name, [], [], [], [], []) for name in names}
    with Painter.of_screen(*size) as painter:
        for number in range(rounds):
            turns: dict[str, Painted] = {}
            first = number % len(names)
            for name in names[first:] + names[:first]:
                progress(f"video: {name}, round {number + 1} of {rounds}")
                turns[name] = _turn(painter, found[name], turn_s, work)
            for video in found.values():
                video.ratios.append(turns[video.tracker].per_s / turns[NOBODY].per_s)
                video.cpu_ratios.append(turns[video.tracker].per_cpu_s / turns[NOBODY].per_cpu_s)
    return list(found.values())


def _turn(painter: Painter, video: Video, turn_s: float, work: int) -> Painted:
    if video.tracker == NOBODY:
        painter.video(WARM_S, work)
        painted, looks, our_ms = painter.video(turn_s, work), 0, 0.0
    else:
        with follower(painter.url, video.tracker) as tap:
            painter.video(WARM_S, work)
            before, looked = tap.spent(), tap.stats()["looks"]
            painted = painter.video(turn_s, work)
            looks, our_ms = tap.stats()["looks"] - looked, tap.spent().since(before).cpu_ns / 1e6
    video.per_s.append(painted.per_s)
    video.looks_per_s.append(looks / painted.took_s)
    video.our_ms_s.append(our_ms / painted.took_s)
    return painted
