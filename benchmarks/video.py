"""What a full-screen video loses to each tracker, and what it loses to being read at all.

Turns alternate: untapped, a reader that tracks nothing (`blind`), and each tracker. The order rotates from
round to round. A ratio compares a turn with the untapped turn of the same round, which was taken within
seconds of it.

The writer is a separate process that paints 1920x1080x32 as fast as it can, with arithmetic for every pixel
like a decoder's. `vramtap.cli._bench_trackers` measures the same in the built-in VM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.follow import BLIND, follower
from benchmarks.painter import Painted, Painter

Progress = Callable[[str], None]

UNTAPPED: Final = "untapped"
SIZE: Final = 1920, 1080
ROUNDS_OF_WORK: Final = 16
"""Rounds of arithmetic for every two pixels. On the machine these figures come from, an untapped frame takes
9 ms, 1 ms of it for storing the pixels."""
WARM_S: Final = 1.5
"""Painting before a turn is measured, seconds, so that an adaptive tracker has adapted."""


@dataclass(frozen=True)
class Video:
    """The turns of one follower.

    Args:
        tracker: Name as in `--tracker`, or `BLIND`, or `UNTAPPED`.
        per_s: Frames a second of each turn.
        ratios: Each turn's rate over the untapped rate of the same round.
        cpu_ratios: The same ratio of the frames in a second of the writer's own CPU time. That time includes
            the writer's faults. It includes neither what other processes take from it on a busy machine nor
            the time for which a tracker holds it.
        scans_per_s: Scans a second of each turn; 0 when untapped.
        tap_ms_s: CPU time of the follower and its helpers in each turn, milliseconds a second.
    """

    tracker: str
    per_s: list[float]
    ratios: list[float]
    cpu_ratios: list[float]
    scans_per_s: list[float]
    tap_ms_s: list[float]


def measure(
    trackers: Sequence[str],
    rounds: int,
    turn_s: float,
    progress: Progress,
    size: tuple[int, int] = SIZE,
    work: int = ROUNDS_OF_WORK,
) -> list[Video]:
    """Measure the rate of a painter, tracked and untapped.

    Args:
        trackers: Names as in `--tracker`.
        rounds: Number of turns of each follower.
        turn_s: Length of a turn, seconds.
        progress: Called with what is going on.
        size: Width and height of the screen, pixels.
        work: Rounds of arithmetic for every 8 bytes.
    """
    names = [UNTAPPED, BLIND, *trackers]
    found = {name: Video(name, [], [], [], [], []) for name in names}
    with Painter.of_screen(*size) as painter:
        for number in range(rounds):
            turns: dict[str, Painted] = {}
            first = number % len(names)
            for name in names[first:] + names[:first]:
                progress(f"video: {name}, round {number + 1} of {rounds}")
                turns[name] = _turn(painter, found[name], turn_s, work)
            for video in found.values():
                video.ratios.append(turns[video.tracker].per_s / turns[UNTAPPED].per_s)
                video.cpu_ratios.append(turns[video.tracker].per_cpu_s / turns[UNTAPPED].per_cpu_s)
    return list(found.values())


def _turn(painter: Painter, video: Video, turn_s: float, work: int) -> Painted:
    if video.tracker == UNTAPPED:
        painter.video(WARM_S, work)
        painted, scans, tap_ms = painter.video(turn_s, work), 0, 0.0
    else:
        with follower(painter.url, video.tracker) as tap:
            painter.video(WARM_S, work)
            before, scans_before = tap.spent(), tap.stats()["polls"]
            painted = painter.video(turn_s, work)
            scans, tap_ms = tap.stats()["polls"] - scans_before, tap.spent().since(before).cpu_ns / 1e6
    video.per_s.append(painted.per_s)
    video.scans_per_s.append(scans / painted.took_s)
    video.tap_ms_s.append(tap_ms / painted.took_s)
    return painted
