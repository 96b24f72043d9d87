"""Record the traces of this directory again: all, or those named (`workloads/scroll real/terminal`)."""

from __future__ import annotations

import sys
from pathlib import Path

from traces import real, workloads
from vramtap.trace.store import save


def main() -> int:
    """Record the traces that the command line names.

    Returns:
        Exit status: 0 done, 2 unknown name.
    """
    recorders = {**workloads.RECORDERS, **real.RECORDERS}
    names = sys.argv[1:] or list(recorders)
    unknown = [name for name in names if name not in recorders]
    if unknown:
        print(f"traces: {', '.join(unknown)}: not one of {', '.join(recorders)}", file=sys.stderr)
        return 2
    for name in names:
        path = Path(__file__).parent / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        trace = recorders[name]()
        save(path, trace)
        pages = int(trace.dirty(trace.pages).sum())
        size = f"{trace.intervals} intervals, {pages} pages written, {path.stat().st_size} bytes"
        print(f"{name}: {size}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
