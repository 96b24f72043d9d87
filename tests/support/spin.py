"""Spin, the model checker: a verifier is generated, compiled and run, and its report is read."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MEMORY_LIMIT_MB: Final = 2_000
"""What a run may take; beyond it spin ends with an incomplete search, which is a failure here."""
DEPTH_LIMIT_STEPS: Final = 1_000_000
"""Steps of the longest path; the longest seen has 33,000, and a path cut short is a failure too."""
TIMEOUT_S: Final = 540
"""Something hangs: the longest run takes 40 s on two cores of 2024."""

_ERRORS = re.compile(r"errors: (\d+)")
_VIOLATED = re.compile(r"assertion violated +(.+) \(at depth \d+\)")
_UNREACHED = re.compile(r"^unreached in (?:proctype )?(\w+|claim \w+)\n((?:\t.*\n)*)", re.MULTILINE)
_INCOMPLETE = ("Search not completed", "max search depth too small", "out of memory", "memory limit")


@dataclass(frozen=True, slots=True)
class Report:
    """What a verifier said.

    Args:
        errors: How many violations it found; it ends at the first.
        complete: Whether every state was visited: nothing was cut short.
        kind: How the violation looks: "assertion", "cycle", or "" where there is none.
        violated: The assertion that does not hold, as spin prints it.
        trail: Whether the way to the violation was written down.
        unreached: For each process the statements that no state reached, as spin prints them.
        text: All of it.
    """

    errors: int
    complete: bool
    kind: str
    violated: str
    trail: bool
    unreached: dict[str, tuple[str, ...]]
    text: str


def verify(
    model: Path, claim: str, defines: Iterable[str], directory: Path, *, liveness: bool = False
) -> Report:
    """Check one claim of a model over all its states.

    Invalid end states are not looked for: a process that was killed or stopped ends anywhere. What must not
    wait for ever is stated as a claim instead.

    Args:
        model: Promela source.
        claim: Name of an `ltl` block in it.
        defines: Macros to set.
        directory: Empty; what is generated goes there.
        liveness: Look for cycles under weak fairness instead of for assertions alone.

    Raises:
        subprocess.CalledProcessError: the model does not translate or compile.
        subprocess.TimeoutExpired: the search takes far longer than it ever did.
    """
    macros = [f"-D{name}" for name in defines]
    _run(["spin", "-a", *macros, str(model)], directory)
    # No partial order reduction: it is not defined for processes with `provided` clauses.
    # NFAIR: words of fairness counters, one bit a process.
    options = ["-DNOREDUCE", f"-DMEMLIM={MEMORY_LIMIT_MB}", "-DNFAIR=3" if liveness else "-DNOFAIR"]
    _run(["gcc", "-O2", "-w", *options, "-o", "pan", "pan.c"], directory)
    how = ["-a", "-f"] if liveness else []
    text = _run(["./pan", "-E", f"-m{DEPTH_LIMIT_STEPS}", *how, "-N", claim], directory)
    return read_report(text, trail=bool(list(directory.glob("*.trail"))))


def read_report(text: str, *, trail: bool) -> Report:
    """Read what a verifier printed.

    Raises:
        ValueError: it is no report.
    """
    errors = _ERRORS.search(text)
    if errors is None:
        raise ValueError(f"read spin's report: no count of errors in {text[-2000:]!r}")
    violated = _VIOLATED.search(text)
    if violated is not None:
        kind = "assertion"
    elif "acceptance cycle (" in text:
        kind = "cycle"
    else:
        kind = ""
    unreached = {
        name: tuple(line.strip() for line in lines.splitlines() if ", state " in line)
        for name, lines in _UNREACHED.findall(text)
    }
    return Report(
        errors=int(errors[1]),
        complete=not any(said in text for said in _INCOMPLETE),
        kind=kind,
        violated=violated[1] if violated else "",
        trail=trail,
        unreached=unreached,
        text=text,
    )


def _run(command: list[str], directory: Path) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT_S,
    )
    return done.stdout
