"""`vramtap trace`: record which pages a target writes, show a recording, and replay policies on it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from vramtap.cli import run
from vramtap.cli._console import progress_bar
from vramtap.cli._target import TARGET_HELP
from vramtap.cli._trace_files import printable, title
from vramtap.cli.trace_replay import command as replay
from vramtap.errors import UsageError
from vramtap.targets.open import open_target
from vramtap.targets.url import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vramtap.trace.recording import Recording
    from vramtap.trace.trace import Trace

# Each command imports what reads and writes traces itself: `--help` needs none of it.

SECONDS: Final = 60.0
HZ: Final = 60.0
"""Scan rate of a tap, scans a second."""
SHOW_COLUMNS: Final = 72
SHOW_ROWS: Final = 16
"""Size of a trace's map on a terminal, characters."""
_PICTURES: Final = (".png", ".svg")


@click.group()
def command() -> None:
    """Record which pages a target writes and when, and replay it.

    A trace is a Parquet file. For each interval it has the pages of the screen's memory that were written. It
    has no pixels.
    """


command.add_command(replay, "replay")


@command.command(epilog=TARGET_HELP)
@click.argument("target")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Parquet file to write.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 24 * 3600),
    default=SECONDS,
    show_default=True,
    metavar="S",
    help="Length of the recording, seconds.",
)
@click.option(
    "--hz",
    type=click.FloatRange(0.1, 1000),
    default=HZ,
    show_default=True,
    metavar="HZ",
    help="Intervals a second.",
)
@click.option(
    "--frames",
    type=click.IntRange(1, 1 << 22),
    metavar="N",
    help="Number of intervals, for demo: only.  [default: as given by --seconds]",
)
@click.option("--name", default="", help="Name of the trace in tables.  [default: the file's name]")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
@run.command
async def record(
    *, target: str, output: Path, seconds: float, hz: float, frames: int | None, name: str, as_json: bool
) -> None:
    """Record which pages of TARGET are written.

    The recording is divided into intervals. For each interval it has the pages of the screen that were
    written.

    Ctrl-C ends the recording and keeps what was recorded. A change of the screen's size ends it, too.

    A demo: target whose workload draws by frames is recorded in the guest's own time. In each interval the
    guest draws what it would draw on a machine that is fast enough, however slow this machine is.

    \b
    Examples:
      vramtap trace record x11::99 -o terminal.parquet
      vramtap trace record demo:?workload=scroll -o scroll.parquet --frames 600
    """
    from vramtap.trace import store
    from vramtap.trace.record import intervals_in
    from vramtap.trace.record_machine import in_guest_time
    from vramtap.trace.recording import Recording

    spec = parse(target)
    guest_time = in_guest_time(spec)
    if frames is not None and not guest_time:
        raise UsageError("--frames", target, "has no frames to count", "use --seconds")
    intervals = frames if frames is not None else intervals_in(seconds, hz)
    store.check_place(output)
    recording = Recording(target, hz, "guest" if guest_time else "host", {"name": name or output.stem})
    try:
        with _progress(intervals / hz, target, as_json=as_json) as progress:
            if guest_time:
                await _record_machine(target, recording, hz, intervals, progress)
            else:
                from vramtap.trace.record import record as record_target

                await record_target(open_target(target), recording, hz=hz, seconds=seconds, progress=progress)
    except asyncio.CancelledError:
        # A user who presses Ctrl-C wants what was recorded until then.
        if not recording.intervals:
            raise
    finally:
        if recording.intervals:
            store.save(output, recording.trace())
            _print_summary(recording, output, as_json=as_json)


async def _record_machine(
    target: str, recording: Recording, hz: float, intervals: int, progress: Callable[[Recording], None]
) -> None:
    """Record on a thread, which waits for the guest's frames; a cancellation ends it after the interval."""
    from vramtap.trace.record_machine import record_machine

    stop = threading.Event()
    work = asyncio.create_task(
        asyncio.to_thread(
            record_machine,
            parse(target),
            recording,
            hz=hz,
            intervals=intervals,
            stop=stop,
            progress=progress,
        )
    )
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([work])
        # An error of the recording says more than the cancellation.
        work.result()
        raise


@contextlib.contextmanager
def _progress(total_s: float, target: str, *, as_json: bool) -> Iterator[Callable[[Recording], None]]:
    """Print a line at the first interval, and move a progress bar with each second recorded."""
    with progress_bar() as bar:
        task = bar.add_task("recording", total=total_s)

        def update(recording: Recording) -> None:
            if recording.intervals == 1 and not as_json:
                click.echo(f"{target}: recording {recording.pages} pages; Ctrl-C ends it")
            if recording.seconds - bar.tasks[0].completed >= 1:
                what = f"recording: {recording.pages_written} pages written"
                bar.update(task, completed=recording.seconds, description=what)

        yield update


def _print_summary(recording: Recording, output: Path, *, as_json: bool) -> None:
    figures = {
        "file": str(output),
        "intervals": recording.intervals,
        "seconds": round(recording.seconds, 3),
        "pages": recording.pages,
        "pages_written": recording.pages_written,
        "ended": recording.ended,
    }
    if as_json:
        click.echo(json.dumps(figures))
    else:
        click.echo(
            f"{output}: {recording.intervals} intervals in {recording.seconds:.1f} s, "
            f"{recording.pages_written} writes to {recording.pages} pages; ended: {recording.ended}"
        )


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PICTURE",
    help="Map to write, .png or .svg.  [default: none]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def show(*, file: Path, output: Path | None, as_json: bool) -> None:
    """Print the figures of the trace FILE, and draw it as a map.

    In the map time runs from left to right and pages from top to bottom. A denser character or a brighter
    colour means more writes.

    \b
    Examples:
      vramtap trace show terminal.parquet
      vramtap trace show terminal.parquet -o terminal.svg
    """
    from vramtap.display.png import write_png
    from vramtap.trace import picture, store

    if output is not None and output.suffix.lower() not in _PICTURES:
        raise UsageError("-o", str(output), "is not a known kind of picture", f"use {' or '.join(_PICTURES)}")
    trace = store.load(file)
    if output is not None:
        if not trace.intervals:
            raise UsageError("-o", str(file), "has no interval to draw", "record a longer one")
        if output.suffix.lower() == ".png":
            write_png(output, picture.as_pixels(picture.heat(trace)))
        else:
            with store.replacing(output) as drawing:
                drawing.write(picture.as_svg(trace, title(trace, file)).encode())
    figures = summary(trace)
    if as_json:
        click.echo(json.dumps({"file": str(file), **figures, "meta": dict(trace.meta)}, indent=2))
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        click.echo(f"{name.replace('_', ' '):{width}}  {value}")
    for name, text in trace.meta.items():
        # The file may come from a stranger: no control character of it reaches the terminal.
        click.echo(f"{printable(name):{width}}  {printable(text)}")
    if trace.intervals:
        for line in picture.as_text(picture.heat(trace, SHOW_COLUMNS, SHOW_ROWS)):
            click.echo(f"|{line:{min(SHOW_COLUMNS, trace.intervals)}}|")


def summary(trace: Trace) -> dict[str, object]:
    """Return the figures of a trace, by name."""
    import numpy as np

    written = trace.dirty(trace.pages)[:, 0]
    busy = written[written > 0]
    # The times of the intervals with writes, with the begin and the end of the trace.
    at_ns = np.concatenate([[0], trace.at_ns[written > 0], trace.at_ns[-1:]])
    return {
        "intervals": trace.intervals,
        "seconds": round(trace.duration_s, 3),
        "interval_ms": round(1000 * trace.interval_s, 3),
        "pages": trace.pages,
        "intervals_with_writes": len(busy),
        "longest_idle_s": round(float(np.diff(at_ns).max(initial=0)) / 1e9, 3),
        "pages_an_interval_median": float(np.median(busy)) if len(busy) else 0.0,
        "pages_an_interval_most": int(busy.max()) if len(busy) else 0,
        "pages_written": int(written.sum()),
    }
