"""Tables of the measured figures, as Markdown; the input is what the parts keep as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks import held as held_part
from benchmarks.figures import Spread, table
from vramtap.cli._bench_trackers import Cost
from vramtap.cli.bench import as_markdown, totals_as_markdown

Figures = Mapping[str, Any]

SHORT_ROWS: Final = 6
"""Rows of the README's table at most."""
_SPREAD: Final = ("median", "p95", "p99", "min", "max")


def viewers(figures: Figures) -> str:
    """Return the table of first updates, with a paragraph on how they were measured."""
    rows = []
    for row in figures["updates"]:
        lost = row["lost"]
        shots = f"{len(row['ms'])}" + (f", {lost} lost" if lost else "")
        rows.append([_title(row), *_spread(row["ms"]), shots])
    head = [_first_update(figures), *_SPREAD, "shots"]
    return f"{_setting(figures)}\n\n{table(head, rows)}"


def viewers_short(figures: Figures) -> str:
    """Return the README's table of first updates: medians and 99th percentiles of the first rows."""
    rows = []
    for row in figures["updates"][:SHORT_ROWS]:
        median, _, p99, *_ = _spread(row["ms"])
        rows.append([_title(row), median, p99])
    return table([_first_update(figures), "median", "p99"], rows)


def _title(row: Figures) -> str:
    return f"{row['where']}: {row['server']}"


def _first_update(figures: Figures) -> str:
    return f"first update after {figures['idle_s']:.0f} s without change, ms"


def _setting(figures: Figures) -> str:
    """Return the paragraph that says how the first updates were measured."""
    said = [
        "One run, Raw encoding, all on the same machine: "
        f"{figures['side_by_side']} screens of each server on Xvfb{_and_guests(figures['guests'])}, "
        "changed one at a time."
    ]
    if figures["own_ms"]:
        said.append(
            "For a guest, the time starts with the write to its video RAM. The guest took "
            f"{_median(figures['own_ms'])} ms (median) from the command to that write."
        )
    said += [_unwatched(row) for row in figures["updates"] if row["unwatched_ms"]]
    said += [_at_rest(row) for row in figures["updates"] if row["at_rest"] is not None]
    return " ".join(said)


def _unwatched(row: Figures) -> str:
    return (
        f"From the command to the update {row['server']} took {_median(row['asked_ms'])} ms while the "
        f"benchmark watched for the write, and {_median(row['unwatched_ms'])} ms while it did not "
        f"({len(row['unwatched_ms'])} more shots)."
    )


def _at_rest(row: Figures) -> str:
    shots = len(row["ms"]) + len(row["unwatched_ms"]) + row["lost"]
    return f"{_title(row)} was at rest before {row['at_rest']} of {shots} shots."


def _and_guests(guests: int) -> str:
    return f" and {guests} guests, each shown by both servers" if guests else ""


def idle(figures: Figures) -> str:
    """Return the table of what servers cost while nothing changes."""
    rows = []
    for row in figures["idle"]:
        rest = "never" if row["rest_s"] is None else f"{row['rest_s']:.0f} s"
        counts = [f"{row['voluntary']}", f"{row['involuntary']}", f"{row['cpu_ms']:.1f}"]
        rows.append([_title(row), rest, *counts])
    head = [f"idle for {figures['stretch_s']:.0f} s with a viewer connected", "at rest after"]
    text = table([*head, "wake-ups", "other context switches", "CPU ms"], rows)
    note = (
        "All servers run at the same time, each on its own screen. Helper processes are included. The "
        "measurement begins when all servers have come to rest, and at the latest "
        f"{figures['limit_s']:.0f} s after the start."
    )
    for row in figures["idle"]:
        if row["updates"]:
            note += f" {_title(row)} sent {row['updates']} updates during the measurement."
    return f"{note}\n\n{text}"


def held(figures: Figures) -> str:
    """Return the table of how long a writer is held."""
    untapped_us = {
        row["what"]: statistics.median(row["all_us"])
        for row in figures["held"]
        if row["tracker"] == held_part.UNTAPPED
    }
    rows = []
    for row in figures["held"]:
        what = row["what"]
        base_us = untapped_us.get(what, untapped_us[held_part.PAGE])
        first, beyond = Spread.of(row["first_us"]), Spread.of([us - base_us for us in row["all_us"]])
        rows.append(
            [
                f"{row['tracker']}: {what}",
                *map(_us, (first.median, first.p99, first.most)),
                *map(_us, (beyond.median, beyond.p99, beyond.most)),
                f"{len(row['first_us'])}" + (f", {row['lost']} lost" if row["lost"] else ""),
                "-" if row["at_rest"] is None else f"{row['at_rest']}",
            ]
        )
    pages = figures["held"][0]["pages"]
    head = [f"written after {figures['idle_s']:g} s of silence or more"]
    head += ["first store us: median", "p99", "max", "all stores, beyond untapped: median", "p99", "max"]
    note = (
        f"{figures['side_by_side']} writers of {pages} pages run side by side and write one at a time. Each "
        "times its own stores. Beyond untapped: minus the median time of the same stores without a tap."
    )
    return f"{note}\n\n{table([*head, 'shots', 'at rest before'], rows)}"


def costs(figures: Figures) -> str:
    """Return the table of what tracking costs the writer and the tap."""
    rows_of = figures["costs"]
    names = list(dict.fromkeys(row["tracker"] for row in rows_of))
    head = ["recorded", "pages a frame"]
    for name in names:
        head += [f"{name}: lost us", "tap us", "total"]
    rows = []
    for trace in dict.fromkeys(row["trace"] for row in rows_of):
        row = {each["tracker"]: each for each in rows_of if each["trace"] == trace}
        cells = [trace, f"{next(iter(row.values()))['pages']:.1f}"]
        for name in names:
            lost_us, tap_us = row[name]["lost_us"], row[name]["tap_us"]
            cells += [_us(lost_us), _us(tap_us), _us(lost_us + tap_us)]
        rows.append(cells)
    note = (
        f"A separate writer process plays up to {figures['seconds']:g} s of each recording at 60 frames a "
        "second. Lost is the writer's own time in a frame beyond untapped. Tap is the CPU time of vramtap's "
        "processes in a frame. Both are means, and the total is their sum."
    )
    return f"{note}\n\n{table(head, rows)}"


def trackers(figures: Figures) -> str:
    """Return the tables of the built-in VM's workloads."""
    found = [Cost(**cost) for cost in figures["costs"]]
    return f"\n{as_markdown(found)}\n\n{totals_as_markdown(found)}"


def video(figures: Figures) -> str:
    """Return the table of what a full-screen video loses."""
    rows = []
    for row in figures["video"]:
        loss = [*_loss(row["ratios"]), _percent(1 - statistics.median(row["cpu_ratios"]))]
        per_s = [f"{statistics.median(row[key]):.0f}" for key in ("scans_per_s", "tap_ms_s")]
        rate = f"{statistics.median(row['per_s']):.1f}"
        rows.append([f"separate process: {row['tracker']}", rate, *loss, *per_s])
    for row in figures["machine_video"]:
        ratios = [1 / slowdown for slowdown in row["slowdowns"]]
        scans_per_s = row["scans"] * row["frames_per_s"] / (row["frames"] * len(ratios))
        name, rate = f"built-in VM: {row['tracker']}", f"{row['frames_per_s']:.1f}"
        rows.append([name, rate, *_loss(ratios), "-", f"{scans_per_s:.0f}", "-"])
    head = ["1920x1080 painted as fast as it can, tracked by", "frames/s", "loss: median", "least", "most"]
    note = (
        "Paired turns: a loss compares a turn with the untapped turn of the same round. `blind` reads and "
        "converts the whole screen and tracks nothing, so its loss is memory bandwidth and caches. CPU loss "
        "is the same comparison of the writer's own CPU time, which other processes cannot take."
    )
    return f"{note}\n\n{table([*head, 'CPU loss', 'scans/s', 'tap CPU ms/s'], rows)}"


def _loss(ratios: Sequence[float]) -> list[str]:
    losses = [1 - ratio for ratio in ratios]
    return [_percent(each) for each in (statistics.median(losses), min(losses), max(losses))]


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _us(value: float) -> str:
    """Format microseconds: tenths below ten, whole ones above."""
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{round(value, 1) + 0.0:.1f}" if abs(value) < 9.95 else f"{value:.0f}"


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f}" if values else "-"


def _spread(values: Sequence[float]) -> list[str]:
    """Format the columns of `_SPREAD`."""
    if not values:
        return ["-"] * len(_SPREAD)
    spread = Spread.of(values)
    each = (spread.median, spread.p95, spread.p99, spread.least, spread.most)
    return [f"{value:.1f}" for value in each]
