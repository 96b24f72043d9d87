"""Spin, the model checker: generates, compiles and runs a verifier, and reads its report."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MEMORY_LIMIT_MB: Final = 2_000
"""Memory limit of a run. Beyond it the search is incomplete, and the test fails."""
DEPTH_LIMIT_STEPS: Final = 1_000_000
"""Longest path; the longest seen has 33,000 steps. A truncated path fails the test too."""
TIMEOUT_S: Final = 540
"""Time limit of a run, against hangs; the longest run takes 40 s on two cores of 2024."""

_ERRORS = re.compile(r"errors: (\d+)")
_VIOLATED = re.compile(r"assertion violated +(.+) \(at depth \d+\)")
_UNREACHED = re.compile(r"^unreached in (?:proctype )?(\w+|claim \w+)\n((?:\t.*\n)*)", re.MULTILINE)
_INCOMPLETE = ("Search not completed", "max search depth too small", "out of memory", "memory limit")


@dataclass(frozen=True, slots=True)
class Report:
    """The report of a verifier.

    Args:
        errors: Number of violations found; the search ends at the first.
        complete: The search visited every state.
        kind: Kind of the violation: "assertion", "cycle", or "" without one.
        violated: The assertion that does not hold, as spin prints it.
        trail: The verifier wrote a trail that leads to the violation.
        unreached: For each process the statements that no state reached, as spin prints them.
        text: The whole output.
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

    It does not check for invalid end states: a killed or stopped process ends anywhere. The model has a claim
    for every process that must not wait for ever instead.

    Args:
        model: Promela source.
        claim: Name of an `ltl` block in the model.
        defines: Macros to set.
        directory: Empty directory for the generated files.
        liveness: Search for cycles under weak fairness, not only for failed assertions.

    Raises:
        subprocess.CalledProcessError: The model does not translate or compile.
        subprocess.TimeoutExpired: The search exceeds the time limit.
    """
    macros = [f"-D{name}" for name in defines]
    _run(["spin", "-a", *macros, str(model)], directory)
    # No partial order reduction: it is undefined for processes with `provided` clauses.
    # NFAIR: words of fairness counters, one bit per process.
    options = ["-DNOREDUCE", f"-DMEMLIM={MEMORY_LIMIT_MB}", "-DNFAIR=3" if liveness else "-DNOFAIR"]
    _run(["gcc", "-O2", "-w", *options, "-o", "pan", "pan.c"], directory)
    how = ["-a", "-f"] if liveness else []
    text = _run(["./pan", "-E", f"-m{DEPTH_LIMIT_STEPS}", *how, "-N", claim], directory)
    return read_report(text, trail=bool(list(directory.glob("*.trail"))))


def read_report(text: str, *, trail: bool) -> Report:
    """Read the output of a verifier.

    Raises:
        ValueError: The text is not a report.
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
        complete=not any(phrase in text for phrase in _INCOMPLETE),
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
