"""`vramtap trace`: record which pages a target writes, look at it, and try policies on it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from vramtap.cli import run
from vramtap.cli._progress import progress_bar
from vramtap.cli._trace_files import plain, title
from vramtap.cli.trace_replay import command as replay
from vramtap.errors import UsageError
from vramtap.targets.open import open_target
from vramtap.targets.url import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vramtap.trace.recording import Recording
    from vramtap.trace.trace import Trace

# What reads and writes traces is imported by each command: `--help` needs none of it.

SECONDS: Final = 60.0
HZ: Final = 60.0
"""As often as a tap looks."""
SHOW_COLUMNS: Final = 72
SHOW_ROWS: Final = 16
"""Characters of a trace's map on a terminal."""
_PICTURES: Final = (".png", ".svg")


@click.group()
def command() -> None:
    """Record which pages a target writes and when, and replay it."""


command.add_command(replay, "replay")


@command.command()
@click.argument("target")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Parquet file to write.")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 24 * 3600), default=SECONDS, help=f"How long [{SECONDS:g}]."
)
@click.option("--hz", type=click.FloatRange(0.1, 1000), default=HZ, help=f"Looks a second [{HZ:g}].")
@click.option(
    "--frames", type=click.IntRange(1, 1 << 22), help="demo: only: so many looks, instead of --seconds."
)
@click.option("--name", default="", help="What the trace is called in tables; the file's name otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print what was recorded as JSON.")
@run.command
async def record(
    target: str, output: Path, seconds: float, hz: float, frames: int | None, name: str, as_json: bool
) -> None:
    """Record the pages of TARGET's screen that are written, interval by interval.

    Ctrl-C ends it and keeps what was recorded. A screen that changes its size ends it, too.

    A demo: that draws by frames is recorded in the guest's own time: it draws in each interval what it would
    draw on a machine that is fast enough, however slow this one is.
    """
    from vramtap.trace import store
    from vramtap.trace.record import looks_in
    from vramtap.trace.record_machine import in_guest_time
    from vramtap.trace.recording import Recording

    spec = parse(target)
    guest_time = in_guest_time(spec)
    if frames is not None and not guest_time:
        raise UsageError("--frames", target, "has no frames to count", "use --seconds")
    looks = frames if frames is not None else looks_in(seconds, hz)
    store.check_place(output)
    recording = Recording(target, hz, "guest" if guest_time else "host", {"name": name or output.stem})
    try:
        with _progress(looks / hz, target, as_json) as told:
            if guest_time:
                await _record_machine(target, recording, hz, looks, told)
            else:
                from vramtap.trace.record import record as record_target

                await record_target(open_target(target), recording, hz=hz, seconds=seconds, progress=told)
    except asyncio.CancelledError:
        # Whoever presses Ctrl-C wants what there is.
        if not recording.looks:
            raise
    finally:
        if recording.looks:
            store.save(output, recording.trace())
            _say_recorded(recording, output, as_json)


async def _record_machine(
    target: str, recording: Recording, hz: float, looks: int, told: Callable[[Recording], None]
) -> None:
    """Record on a thread, since the guest's frames are waited for; a cancellation ends it after its look."""
    from vramtap.trace.record_machine import record_machine

    stop = threading.Event()
    work = asyncio.create_task(
        asyncio.to_thread(
            record_machine, parse(target), recording, hz=hz, looks=looks, stop=stop, progress=told
        )
    )
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([work])
        # An error of its own says more than that it was ended.
        work.result()
        raise


@contextlib.contextmanager
def _progress(total_s: float, target: str, as_json: bool) -> Iterator[Callable[[Recording], None]]:
    """A line when it begins, and a bar that moves with each second recorded."""
    with progress_bar() as progress:
        task = progress.add_task("recording", total=total_s)

        def told(recording: Recording) -> None:
            if recording.looks == 1 and not as_json:
                click.echo(f"{target}: recording {recording.pages} pages; Ctrl-C ends it")
            if recording.seconds - progress.tasks[0].completed >= 1:
                what = f"recording: {recording.pages_written} pages written"
                progress.update(task, completed=recording.seconds, description=what)

        yield told


def _say_recorded(recording: Recording, output: Path, as_json: bool) -> None:
    figures = {
        "file": str(output),
        "looks": recording.looks,
        "seconds": round(recording.seconds, 3),
        "pages": recording.pages,
        "pages_written": recording.pages_written,
        "ended": recording.ended,
    }
    if as_json:
        click.echo(json.dumps(figures))
    else:
        click.echo(
            f"{output}: {recording.looks} looks in {recording.seconds:.1f} s, "
            f"{recording.pages_written} writes to {recording.pages} pages; ended: {recording.ended}"
        )


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Picture to write: .png or .svg.")
@click.option("--json", "as_json", is_flag=True, help="The figures as JSON.")
def show(file: Path, output: Path | None, as_json: bool) -> None:
    """Say what is in a trace, and draw it: time from left to right, pages from top to bottom."""
    from vramtap.display.png import write_png
    from vramtap.trace import picture, store

    if output is not None and output.suffix.lower() not in _PICTURES:
        raise UsageError("-o", str(output), "is no kind of picture", f"one of {', '.join(_PICTURES)}")
    trace = store.load(file)
    if output is not None:
        if not trace.intervals:
            raise UsageError("-o", str(file), "has no look to draw")
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
        # What a stranger's file says is not for the terminal to obey.
        click.echo(f"{plain(name):{width}}  {plain(text)}")
    if trace.intervals:
        for line in picture.as_text(picture.heat(trace, SHOW_COLUMNS, SHOW_ROWS)):
            click.echo(f"|{line:{min(SHOW_COLUMNS, trace.intervals)}}|")


def summary(trace: Trace) -> dict[str, object]:
    """A trace in figures, by name."""
    import numpy as np

    written = trace.dirty(trace.pages)[:, 0]
    busy = written[written > 0]
    # Between two looks that found something, and before the first and after the last.
    at_ns = np.concatenate([[0], trace.at_ns[written > 0], trace.at_ns[-1:]])
    return {
        "looks": trace.intervals,
        "seconds": round(trace.duration_s, 3),
        "interval_ms": round(1000 * trace.interval_s, 3),
        "pages": trace.pages,
        "looks_with_writes": len(busy),
        "longest_still_s": round(float(np.diff(at_ns).max(initial=0)) / 1e9, 3),
        "pages_a_write_median": float(np.median(busy)) if len(busy) else 0.0,
        "pages_a_write_most": int(busy.max()) if len(busy) else 0,
        "pages_written": int(written.sum()),
    }
