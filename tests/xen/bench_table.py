"""Renders the measurements of `xen.dom0.bench`: `python -m xen.bench_table costs.json... > table.md`."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import Spread, table

Figures = Mapping[str, Any]
Row = Mapping[str, Any]

_NAMES: Final = {"vramtap": "vramtap", "qemu": "QEMU's VNC", "none": "untapped"}


def rendered(figures: Figures) -> str:
    """Return all tables with their explanations, as Markdown."""
    parts = ["# What tracking a Xen domain costs", _host(figures["host"])]
    for head, name, render in (
        ("First update after 20 s without a change", "screens", _latency),
        ("Idling with a viewer connected", "screens", _idle),
        ("Where vramtap's idle time goes", "screens", _questions),
        ("One call of `xendevicemodel_track_dirty_vram`", "calls", _calls),
        ("What the guest loses", "pace", _pace),
        ("A guest that only draws", "fills", _fills),
        ("A film", "video", _video),
        ("How often QEMU itself calls the hypervisor", "neighbour", _neighbour),
    ):
        if figures[name]:
            parts += [f"## {head}", render(figures[name])]
    return "\n\n".join(parts) + "\n"


def _host(host: Row) -> str:
    speeds = host["speed_ms"]
    where = "in the same start" if host["starts"] == 1 else f"in each of {host['starts']} starts"
    return (
        f"Measured in dom0 (Xen {host['xen']}, Linux {host['linux']}) of a host that QEMU emulates, "
        f"AMD's virtualization included, with {host['processors']} virtual processor for dom0 and its guests "
        "together: **only ratios mean anything**, since every process waits while another runs. Both "
        f"paging modes ran at the same time, {where}. A fixed piece of work took {min(speeds):.0f} to "
        f"{max(speeds):.0f} ms, tried {len(speeds)} times during the {host['took_s']:.0f} s: that "
        "is the noise of the machine underneath. "
        "With fewer than 100 shots, p99 is the maximum."
    )


def _paging(row: Row) -> str:
    return "hap" if row["hap"] else "shadow"


def _server(row: Row) -> str:
    name = _NAMES[row["server"]]
    return f"{name}, `--latency {row['latency_ms']}`" if row["latency_ms"] else name


def _latency(screens: Sequence[Row]) -> str:
    rows = []
    for row in _by_screen(screens):
        spread = Spread.of(row["ms"])
        cells = [f"{each:.0f}" for each in (spread.median, spread.p99, spread.least, spread.most)]
        rows.append([_paging(row), row["screen"], _server(row), *cells, str(spread.count), str(row["lost"])])
    text = table(["paging", "screen", "server", "median, ms", "p99", "min", "max", "shots", "lost"], rows)
    return (
        "The time starts when dom0 sees that the guest has drawn 64 pixels, and ends with the update that "
        "carries them to a client with Raw encoding. Each row is a domain with one server and one viewer. "
        f"All domains run at the same time and draw one after the other.\n\n{text}"
    )


def _by_screen(screens: Iterable[Row]) -> list[Row]:
    return sorted(screens, key=lambda row: (not row["hap"], len(row["screen"])))


def _idle(screens: Sequence[Row]) -> str:
    rows = []
    for row in _by_screen(screens):
        ours, seconds = row["server"] != "qemu", row["idle_s"]
        switches = row["counted"]["switches"] if ours else row["switches"]
        model = f"{row['model_cpu_ms'] / seconds:.1f}" if ours else "the server itself"
        rows.append([
            _paging(row), row["screen"], _server(row), f"{row['cpu_ms'] / seconds:.1f}",
            f"{switches / seconds:.1f}", model,
        ])  # fmt: skip
    head = [
        "paging",
        "screen",
        "server",
        "CPU, ms a second",
        "wake-ups a second",
        "QEMU's CPU, ms a second",
    ]
    seconds = min(row["idle_s"] for row in screens)
    return (
        "Measured between the shots above, from 5 s after each shot to the next. The screen is still, and a "
        f"viewer waits for an update. Each row covers at least {seconds:.0f} s. CPU is user and system time "
        "of the process, including the hypervisor's. Wake-ups are voluntary context switches."
        f"\n\n{table(head, rows)}"
    )


def _questions(screens: Sequence[Row]) -> str:
    rows = []
    for row in _by_screen(screens):
        if row["server"] == "qemu":
            continue
        seconds, counted = row["idle_s"], row["counted"]
        call_ms = counted["call_s"] * 1000
        rows.append([
            _paging(row), row["screen"], _server(row),
            f"{counted['calls'] / seconds:.1f}", f"{call_ms / seconds:.1f}",
            f"{call_ms / max(1, counted['calls']):.2f}", f"{counted['questions'] / seconds:.1f}",
            f"{60 * counted['scans'] / seconds:.0f}", f"{60 * counted['full_scans'] / seconds:.0f}",
            f"{60 * counted['sessions'] / seconds:.0f}", f"{60 * counted['cpu_states'] / seconds:.0f}",
        ])  # fmt: skip
    head = [
        "paging", "screen", "server", "calls a second", "ms a second in them", "ms each",
        "reads of QEMU's clock a second", "scans of the tap a minute", "of these full",
        "QMP sessions a minute", "reads of CR0.WP a minute",
    ]  # fmt: skip
    return table(head, rows)


def _calls(calls: Sequence[Row]) -> str:
    rows = []
    for row in calls:
        spread = Spread.of(row["ms"])
        wrong = row.get("wrong")
        rows.append([
            _paging(row), str(row["pages"]), row["written"], f"{spread.median:.2f}", f"{spread.p99:.2f}",
            f"{spread.most:.2f}", str(spread.count), "" if wrong is None else str(wrong),
        ])  # fmt: skip
    head = ["paging", "pages", "written before", "median, ms", "p99", "max", "calls", "answers not exact"]
    return table(head, rows)


def _pace(pace: Sequence[Row]) -> str:
    rows = []
    for row in pace:
        free = next(each for each in pace if each["hap"] == row["hap"] and each["dom0"] == "nothing")
        rate, most = _mean(row["rounds_per_s"]), _mean(free["rounds_per_s"])
        spread = f"{min(row['rounds_per_s']) / most:.0%} to {max(row['rounds_per_s']) / most:.0%}"
        rows.append([_paging(row), row["dom0"], f"{rate / most:.0%}", spread])
    text = table(["paging", "dom0, 60 times a second", "of the guest's pace", "from round to round"], rows)
    return (
        "The guest only counts. It shares the one processor with dom0, so it loses what dom0 uses, paused or "
        f"not. In the rows `wakes`, dom0 wakes up and makes no call.\n\n{text}"
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _fills(fills: Sequence[Row]) -> str:
    rows = []
    for row in fills:
        free = next(each for each in fills if each["hap"] == row["hap"] and each["server"] == "none")
        spread, most = Spread.of(row["per_s"]), Spread.of(free["per_s"])
        rows.append([
            _paging(row), _NAMES[row["server"]], row["viewer"], f"{spread.median:.0f}",
            f"{spread.least:.0f} to {spread.most:.0f}", f"{spread.median / most.median:.0%}",
        ])  # fmt: skip
    head = ["paging", "server", "viewer", "fills a second", "from round to round", "of the untapped rate"]
    return (
        f"The guest fills its screen of {fills[0]['screen']} as fast as it can. A viewer that is only "
        f"`connected` requests no update.\n\n{table(head, rows)}"
    )


def _video(video: Sequence[Row]) -> str:
    rows = []
    for row in video:
        seconds = row["s"]
        counted = row["counted"]
        calls = f"{counted['calls'] / seconds:.0f}" if counted else ""
        rows.append([
            _paging(row), _NAMES[row["server"]], f"{row['cpu_ms'] / seconds:.0f}",
            f"{row['model_cpu_ms'] / seconds:.0f}", f"{row['switches'] / seconds:.0f}",
            f"{row['updates'] / seconds:.1f}", calls,
        ])  # fmt: skip
    head = [
        "paging", "server", "CPU, ms a second", "QEMU's CPU, ms a second", "wake-ups a second",
        "updates a second", "calls a second",
    ]  # fmt: skip
    return (
        f"A third of a screen of {video[0]['screen']} is filled 25 times a second, and a viewer requests "
        "updates.\n\n"
        f"{table(head, rows)}"
    )


def _neighbour(neighbour: Sequence[Row]) -> str:
    rows = []
    for row in neighbour:
        at_s = row["at_s"]
        gaps = [after - before for before, after in itertools.pairwise(at_s)]
        cells = ["", "", ""]
        if gaps:
            cells = [
                f"{1000 * Spread.of(gaps).median:.0f}",
                f"{1000 * min(gaps):.0f}",
                f"{1000 * max(gaps):.0f}",
            ]
        rows.append([_paging(row), row["client"], f"{row['s']:.0f}", str(len(at_s)), *cells])
    head = [
        "paging",
        "client of QEMU's VNC",
        "measured for, s",
        "calls",
        "between two, median, ms",
        "min",
        "max",
    ]
    return (
        "Xen keeps one range per domain. A call for another range, every 10 ms, therefore shows whether QEMU "
        f"has made a call since the last one.\n\n{table(head, rows)}"
    )


def merged(starts: Sequence[Figures]) -> Figures:
    """Merge the measurements of several starts of the host."""
    hosts = [start["host"] for start in starts]
    host = {
        **hosts[0],
        "starts": len(hosts),
        "speed_ms": [speed for each in hosts for speed in each["speed_ms"]],
        "took_s": sum(each["took_s"] for each in hosts),
    }
    names = [name for name in starts[0] if name != "host"]
    return {"host": host, **{name: [row for start in starts for row in start[name]] for name in names}}


def main() -> None:
    """Read the files named on the command line, and print the tables."""
    print(rendered(merged([json.loads(Path(name).read_text()) for name in sys.argv[1:]])), end="")


if __name__ == "__main__":
    main()
