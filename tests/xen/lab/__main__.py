"""Runs the Xen laboratory: the tests in dom0, or a command or a shell there; see tests/xen/README.md."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

from lab.errors import LabError
from xen.lab import host, hypervisor

_TIMEOUT_S = 300.0


def main() -> int:
    """Run what the command line says.

    Returns:
        The command's exit status; 1 if the laboratory failed.
    """
    parser = argparse.ArgumentParser(prog="python -m xen.lab", description=__doc__)
    parser.add_argument("--hypervisor", choices=("current", "shadow"), default="current")
    parser.add_argument("--run", metavar="COMMAND", help="a shell command for dom0 instead of the tests")
    parser.add_argument("--shell", action="store_true", help="a shell in dom0 on this terminal")
    parser.add_argument("--out", type=Path, help="a directory for dom0's /out")
    parser.add_argument("--timeout", type=float, default=_TIMEOUT_S, metavar="SECONDS")
    arguments, for_pytest = parser.parse_known_args()
    try:
        with tempfile.TemporaryDirectory(prefix="vramtap-xen-out-") as name:
            out = arguments.out or Path(name)
            out.mkdir(parents=True, exist_ok=True)
            booted = {"current": hypervisor.current, "shadow": hypervisor.shadow}[arguments.hypervisor]()
            if arguments.shell:
                host.shell(booted, out)
                return 0
            command = arguments.run or tests(for_pytest)
            return host.run(
                booted,
                command,
                out=out,
                timeout_s=arguments.timeout,
                on_line=lambda line: print(line, flush=True),
            )
    except KeyboardInterrupt:
        return 130
    except LabError as error:
        print(f"xen lab: {error}", file=sys.stderr)
        return 1


def tests(arguments: list[str]) -> str:
    """The command that runs the tests in dom0, with further arguments for pytest."""
    return shlex.join(
        [
            "python3",
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--junit-xml=/out/junit.xml",
            "tests/xen/dom0",
            *arguments,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
