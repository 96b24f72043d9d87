"""Runs tests, a command or a shell in the dom0 of the Xen testbed; see tests/xen/README.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from support.testbed.errors import TestbedError
from xen.testbed import suite
from xen.testbed.host import Host

_TIMEOUT_S: Final = 300.0


def main() -> int:
    """Run the command line.

    Returns:
        The command's exit status, or the first one of several hosts that is not 0. 1 if the testbed failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m xen.testbed",
        description=__doc__,
        epilog="Other arguments go to pytest in dom0.",
        allow_abbrev=False,
    )
    parser.add_argument("--hypervisor", choices=("current", "shadow", "both"), default="current")
    parser.add_argument("--hap", choices=("0", "1", "10"), help="paging modes to test")
    parser.add_argument("--run", metavar="COMMAND", help="a shell command for dom0 instead of the tests")
    parser.add_argument("--shell", action="store_true", help="a shell in dom0 on this terminal")
    parser.add_argument("--out", type=Path, help="keep dom0's /out in this directory")
    parser.add_argument("--timeout", type=float, default=_TIMEOUT_S, metavar="SECONDS")
    arguments, for_pytest = parser.parse_known_args()
    try:
        with tempfile.TemporaryDirectory(prefix="vramtap-xen-out-") as name:
            out = arguments.out or Path(name)
            hap = [int(mode) for mode in arguments.hap or ()]
            chosen, left_out = suite.parts(arguments.hypervisor, hap or None)
            if left_out:
                print(f"xen testbed: {left_out}", file=sys.stderr)
            if arguments.shell:
                return _shell(chosen[0], out)
            command = arguments.run or suite.tests(for_pytest)
            return _run(chosen, command, out, arguments.timeout)
    except KeyboardInterrupt:
        return 130
    except TestbedError as error:
        print(f"xen testbed: {error}", file=sys.stderr)
        return 1


def _shell(part: suite.Part, out: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    with Host(part.program, "setsid cttyhack sh -i", out=out, keys_for="dom0") as host:
        host.converse()
    return 0


def _run(chosen: list[suite.Part], command: str, out: Path, timeout_s: float) -> int:
    def show(name: str, line: str) -> None:
        print(f"{name}: {line}" if len(chosen) > 1 else line, flush=True)

    outcomes = suite.run(chosen, command, out=out, timeout_s=timeout_s, on_line=show)
    for name, outcome in outcomes.items():
        if outcome.error is not None:
            print(f"xen testbed: {name}: {outcome.error}", file=sys.stderr)
        elif outcome.status:
            print(f"xen testbed: {name}: exit status {outcome.status}", file=sys.stderr)
    statuses = [1 if outcome.error is not None else outcome.status for outcome in outcomes.values()]
    return next(filter(None, statuses), 0)


if __name__ == "__main__":
    sys.exit(main())
