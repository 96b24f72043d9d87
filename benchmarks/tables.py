"""What was measured, as the tables of the README; takes what the parts keep as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks import held as held_part
from benchmarks.figures import Spread, table
from vramtap.cli._bench_trackers import Cost
from vramtap.cli.bench import as_markdown, totals_as_markdown

Figures = Mapping[str, Any]

_STRETCH: Final = ("median", "p95", "p99", "min", "max")


def viewers(figures: Figures) -> str:
    """First updates."""
    rows = []
    for row in figures["updates"]:
        name, lost = f"{row['where']}: {row['server']}", row["lost"]
        shots = f"{len(row['ms'])}" + (f", {lost} lost" if lost else "")
        rows.append([name, *_spread(row["ms"]), shots])
    head = [f"first update after {figures['idle_s']:.0f} s without change, ms", *_STRETCH, "shots"]
    return f"{_setting(figures)}\n\n{table(head, rows)}"


def _setting(figures: Figures) -> str:
    """How the first updates were measured."""
    said = [
        "One run, Raw encoding, all on the same machine: "
        f"{figures['side_by_side']} screens of each server on Xvfb{_and_guests(figures['guests'])}, "
        "changed one at a time."
    ]
    if figures["own_ms"]:
        said.append(
            "A guest's update is timed from the write in its video RAM; from the command to the write it "
            f"took the guest {_median(figures['own_ms'])} ms by itself (median)."
        )
    for row in figures["updates"]:
        if row["unwatched_ms"]:
            said.append(
                f"From the command to the update of {row['server']} it took {_median(row['asked_ms'])} ms "
                f"where the write was looked for, and {_median(row['unwatched_ms'])} ms where it was not "
                f"({len(row['unwatched_ms'])} shots more)."
            )
    rested = [row for row in figures["updates"] if row["at_rest"] is not None]
    for row in rested:
        count = row["at_rest"]
        shots = len(row["ms"]) + len(row["unwatched_ms"]) + row["lost"]
        said.append(f"{row['where']}: {row['server']} was at rest before {count} of {shots} shots.")
    return " ".join(said)


def _and_guests(guests: int) -> str:
    return f" and {guests} guests, each shown by both servers" if guests else ""


def idle(figures: Figures) -> str:
    """What idling costs."""
    rows = []
    for row in figures["idle"]:
        rest = "never" if row["rest_s"] is None else f"{row['rest_s']:.0f} s"
        rows.append(
            [
                f"{row['where']}: {row['server']}",
                rest,
                f"{row['voluntary']}",
                f"{row['involuntary']}",
                f"{row['cpu_ms']:.1f}",
            ]
        )
    head = [f"idle for {figures['stretch_s']:.0f} s with a viewer connected", "at rest after"]
    text = table([*head, "wake-ups", "other context switches", "CPU ms"], rows)
    note = (
        "All at once, each on a screen of its own, helper processes included; measured when they had come "
        f"to rest, or {figures['limit_s']:.0f} s after they were started."
    )
    restless = [row for row in figures["idle"] if row["updates"]]
    for row in restless:
        note += f" {row['where']}: {row['server']} sent {row['updates']} updates meanwhile."
    return f"{note}\n\n{text}"


def held(figures: Figures) -> str:
    """How long a writer is held."""
    alone: dict[str, float] = {}
    rows = []
    for row in figures["held"]:
        what = row["what"]
        if row["tracker"] == held_part.NOBODY:
            alone[what] = statistics.median(row["all_us"])
        beyond = [us - alone.get(what, alone[held_part.PAGE]) for us in row["all_us"]]
        shots = f"{len(row['first_us'])}" + (f", {row['lost']} lost" if row["lost"] else "")
        rested = "-" if row["at_rest"] is None else f"{row['at_rest']}"
        first, more = Spread.of(row["first_us"]), Spread.of(beyond)
        rows.append(
            [
                f"{row['tracker']}: {what}",
                *map(_us, (first.median, first.p99, first.most)),
                *map(_us, (more.median, more.p99, more.most)),
                shots,
                rested,
            ]
        )
    pages = figures["held"][0]["pages"]
    head = [f"written after {figures['idle_s']:g} s of silence or more"]
    head += ["first store us: median", "p99", "max", "all stores, beyond untapped: median", "p99", "max"]
    note = (
        f"Writers of {pages} pages, {figures['side_by_side']} side by side, one at a time; each times its "
        "own stores. Beyond untapped: less the median of the same stores that nobody taps."
    )
    return f"{note}\n\n{table([*head, 'shots', 'at rest before'], rows)}"


def costs(figures: Figures) -> str:
    """What following costs both sides."""
    rows_of = figures["costs"]
    names = list(dict.fromkeys(row["tracker"] for row in rows_of))
    head = ["recorded", "pages a frame"]
    for name in names:
        head += [f"{name}: lost us", "our us", "total"]
    rows = []
    for trace in dict.fromkeys(row["trace"] for row in rows_of):
        row = {each["tracker"]: each for each in rows_of if each["trace"] == trace}
        cells = [trace, f"{next(iter(row.values()))['pages']:.1f}"]
        for name in names:
            lost, ours = row[name]["lost_us"], row[name]["our_us"]
            cells += [_us(lost), _us(ours), _us(lost + ours)]
        rows.append(cells)
    note = (
        f"A writer in a process of its own plays up to {figures['seconds']:g} s of each recording, 60 frames "
        "a second. Lost is its own time in a frame beyond untapped, ours the CPU of the tap: means, a total "
        "is their sum."
    )
    return f"{note}\n\n{table(head, rows)}"


def trackers(figures: Figures) -> str:
    """The embedded machine's workloads."""
    found = [Cost(**cost) for cost in figures["costs"]]
    return f"\n{as_markdown(found)}\n\n{totals_as_markdown(found)}"


def video(figures: Figures) -> str:
    """What a video loses."""
    rows = []
    for row in figures["video"]:
        rows.append(
            [
                f"process of its own: {row['tracker']}",
                f"{statistics.median(row['per_s']):.1f}",
                *_loss(row["ratios"]),
                f"{_percent(1 - statistics.median(row['cpu_ratios']))}",
                f"{statistics.median(row['looks_per_s']):.0f}",
                f"{statistics.median(row['our_ms_s']):.0f}",
            ]
        )
    for row in figures["embedded"]:
        ratios = [1 / slowdown for slowdown in row["slowdowns"]]
        looks_per_s = row["looks"] * row["frames_per_s"] / (row["frames"] * len(ratios))
        name, rate = f"embedded machine: {row['tracker']}", f"{row['frames_per_s']:.1f}"
        rows.append([name, rate, *_loss(ratios), "-", f"{looks_per_s:.0f}", "-"])
    head = ["1920x1080 painted as fast as it can, followed by", "frames/s", "loss: median", "least", "most"]
    note = (
        "Paired turns: a loss compares a turn with that of the same round in which nobody follows. `blind` "
        "reads and converts everything and tracks nothing: what is lost to it is memory bandwidth and "
        "caches. CPU loss is the same of the writer's own CPU time, which others cannot take from it."
    )
    return f"{note}\n\n{table([*head, 'CPU loss', 'looks/s', 'our CPU ms/s'], rows)}"


def _loss(ratios: Sequence[float]) -> list[str]:
    losses = [1 - ratio for ratio in ratios]
    return [_percent(each) for each in (statistics.median(losses), min(losses), max(losses))]


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _us(value: float) -> str:
    """Whole microseconds; tenths of less than ten."""
    return f"{round(value, 1) + 0.0:.1f}" if abs(value) < 9.95 else f"{value:.0f}"


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f}" if values else "-"


def _spread(values: Sequence[float]) -> list[str]:
    if not values:
        return ["-"] * len(_STRETCH)
    spread = Spread.of(values)
    each = (spread.median, spread.p95, spread.p99, spread.least, spread.most)
    return [f"{value:.1f}" for value in each]
