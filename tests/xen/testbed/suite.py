"""Runs dom0's tests on one hypervisor, or on several in parallel. Each host keeps one core busy."""

from __future__ import annotations

import shlex
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from support.testbed.errors import TestbedError
from xen.testbed import HAP, hypervisor
from xen.testbed.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

JUNIT: Final = "junit.xml"
"""Name of the tests' report in `/out`."""
_PYTEST: Final = ("python3", "-m", "pytest", "-p", "no:cacheprovider", f"--junit-xml=/out/{JUNIT}")
# pytest rewrites the modules of every plugin that announces itself, which leaves their bytecode unused: with
# hypothesis that takes an emulated CPU ten seconds. Plugins that are named are spared.
_PLUGINS: Final = ("-p", "pytest_asyncio.plugin", "-p", "_hypothesis_pytestplugin")
# A hanging test prints its stacks well before the testbed's time limit.
_HANGS_S: Final = 120


@dataclass(frozen=True, slots=True)
class Part:
    """One host to run.

    Args:
        name: The name of its hypervisor: `current` or `shadow`.
        program: The hypervisor.
        hap: Paging modes for guests: hardware-assisted (1), by shadow page tables (0).
    """

    name: str
    program: Path
    hap: Sequence[int]


@dataclass(slots=True)
class Outcome:
    """Result of a part.

    Args:
        status: The command's exit status.
        lines: The lines of its output.
        error: The failure of the testbed itself. The status is then meaningless.
    """

    status: int = -1
    lines: list[str] = field(default_factory=list)
    error: TestbedError | None = None

    @property
    def failed(self) -> bool:
        """Whether the command or the testbed failed."""
        return self.error is not None or self.status != 0

    def report(self) -> str:
        """Return the output from the first failure on; without one, its end."""
        starts = [
            number
            for number, line in enumerate(self.lines)
            if line.startswith("=") and line.strip("= ") in ("FAILURES", "ERRORS")
        ]
        shown = self.lines[starts[0] :] if starts else self.lines[-60:]
        return "\n".join([*shown, *([] if self.error is None else [str(self.error)])])


def parts(which: str, hap: Sequence[int] | None = None) -> tuple[list[Part], str]:
    """Return the hosts to run. Build the hypervisors that this needs.

    Args:
        which: `current`, `shadow` or `both`.
        hap: Paging modes. The default is all modes of the hypervisors, each once.

    Returns:
        The hosts, and a line about a part that is left out because it is not available, or ''.

    Raises:
        TestbedError: apt cannot fetch the hypervisor; for `both`, the current one.
    """
    found: list[Part] = []
    left_out = ""
    if which in ("current", "both"):
        found.append(Part("current", hypervisor.current(), hap or (1,)))
    if which == "shadow":
        found.append(Part("shadow", hypervisor.shadow(), hap or (1, 0)))
    if which == "both":
        try:
            found.append(Part("shadow", hypervisor.shadow(), hap or (0,)))
        except TestbedError as error:
            left_out = f"hap=0 is left out: {error}"
    return found, left_out


def tests(arguments: Sequence[str]) -> str:
    """Return the command that runs dom0's tests.

    Args:
        arguments: Further arguments for pytest. A path among them replaces the default `tests/xen/dom0`.
    """
    paths = [] if any(each.startswith("tests/") for each in arguments) else ["tests/xen/dom0"]
    options = (*_PLUGINS, "-o", f"faulthandler_timeout={_HANGS_S}")
    return f"PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 {shlex.join([*_PYTEST, *options, *paths, *arguments])}"


def run(
    chosen: Sequence[Part], command: str, *, out: Path, timeout_s: float, on_line: Callable[[str, str], None]
) -> Mapping[str, Outcome]:
    """Run a command in the dom0 of each part, in parallel.

    Args:
        chosen: The parts.
        command: A shell script.
        out: The directory that gets a directory for each part, by its name: that dom0's `/out`.
        timeout_s: The time limit for all parts, from the end of the builds.
        on_line: Called with the part's name and each line of output, from several threads.

    Returns:
        The result of each part, by its name.

    Raises:
        TestbedError: A part cannot be built.
    """
    outcomes = {part.name: Outcome() for part in chosen}

    def follow(part: Part, host: Host) -> None:
        outcome = outcomes[part.name]

        def take(line: str) -> None:
            outcome.lines.append(line)
            on_line(part.name, line)

        try:
            outcome.status = host.follow(timeout_s, take)
        except TestbedError as error:
            outcome.error = error

    with ExitStack() as hosts, ThreadPoolExecutor(max_workers=len(chosen)) as pool:
        started: list[Host] = []
        try:
            futures = []
            for part in chosen:
                place = out / part.name
                place.mkdir(parents=True, exist_ok=True)
                modes = " ".join(map(str, part.hap))
                host = Host(part.program, f"export {HAP}='{modes}'\n{command}", out=place)
                started.append(hosts.enter_context(host))
                futures.append(pool.submit(follow, part, host))
            for future in futures:
                future.result()
        except BaseException:
            # Mainly for Ctrl-C: this block waits for the threads, and the threads wait for their hosts.
            for host in started:
                host.stop()
            raise
    return outcomes
