"""Records the traces beside this file again: all of them, or those named (`workloads/scroll real/xterm`)."""

from __future__ import annotations

import sys
from pathlib import Path

from traces import real, workloads
from vramtap.trace.store import save


def main() -> int:
    """Record what the command line names.

    Returns:
        Exit status: 0, or 2 for a name that there is not.
    """
    recorders = {**workloads.RECORDERS, **real.RECORDERS}
    names = sys.argv[1:] or list(recorders)
    unknown = [name for name in names if name not in recorders]
    if unknown:
        print(f"traces: {', '.join(unknown)}: not among {', '.join(recorders)}", file=sys.stderr)
        return 2
    for name in names:
        path = Path(__file__).parent / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        trace = recorders[name]()
        save(path, trace)
        pages = int(trace.dirty(trace.pages).sum())
        print(f"{name}: {trace.intervals} looks, {pages} pages, {path.stat().st_size} bytes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
