"""Runs the tests of dom0 on one hypervisor or on several side by side: a host keeps one core busy."""

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
"""File that the tests leave in their `/out`."""
_PYTEST: Final = ("python3", "-m", "pytest", "-p", "no:cacheprovider", f"--junit-xml=/out/{JUNIT}")
# pytest rewrites the modules of every plugin that announces itself, which leaves their bytecode unused: with
# hypothesis that takes an emulated CPU ten seconds. Plugins that are named are spared.
_PLUGINS: Final = ("-p", "pytest_asyncio.plugin", "-p", "_hypothesis_pytestplugin")
# A test that hangs says where well before the testbed is ended.
_HANGS_S: Final = 120


@dataclass(frozen=True, slots=True)
class Part:
    """What one host runs.

    Args:
        name: Of its hypervisor: `current` or `shadow`.
        program: The hypervisor.
        hap: Paging modes for guests: hardware-assisted (1), by shadow page tables (0).
    """

    name: str
    program: Path
    hap: Sequence[int]


@dataclass(slots=True)
class Outcome:
    """What became of a part.

    Args:
        status: The command's exit status.
        lines: All that it wrote.
        error: What went wrong with the testbed itself; the status means nothing then.
    """

    status: int = -1
    lines: list[str] = field(default_factory=list)
    error: TestbedError | None = None

    @property
    def failed(self) -> bool:
        """Whether anything went wrong."""
        return self.error is not None or self.status != 0

    def report(self) -> str:
        """What a reader needs of it: from the first failure on; else the end."""
        starts = [
            number
            for number, line in enumerate(self.lines)
            if line.startswith("=") and line.strip("= ") in ("FAILURES", "ERRORS")
        ]
        shown = self.lines[starts[0] :] if starts else self.lines[-60:]
        return "\n".join([*shown, *([] if self.error is None else [str(self.error)])])


def parts(which: str, hap: Sequence[int] | None = None) -> tuple[list[Part], str]:
    """The hosts to run, built as far as it takes to know them.

    Args:
        which: `current`, `shadow` or `both`.
        hap: Paging modes, where the default is not meant: all that the hypervisor can do, but each once.

    Returns:
        They, and what is left out because it cannot be had (empty: nothing).

    Raises:
        TestbedError: apt cannot fetch a hypervisor; of both, the current one.
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
    """The command that runs dom0's tests.

    Args:
        arguments: Further ones for pytest; if one is a path, it stands for the tests.
    """
    paths = [] if any(each.startswith("tests/") for each in arguments) else ["tests/xen/dom0"]
    options = (*_PLUGINS, "-o", f"faulthandler_timeout={_HANGS_S}")
    return f"PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 {shlex.join([*_PYTEST, *options, *paths, *arguments])}"


def run(
    chosen: Sequence[Part], command: str, *, out: Path, timeout_s: float, on_line: Callable[[str, str], None]
) -> Mapping[str, Outcome]:
    """Run a command in the dom0 of each part, all at the same time.

    Args:
        chosen: The parts.
        command: A shell script.
        out: Gets a directory for each part, by its name: that dom0's `/out`.
        timeout_s: For all of it, from when everything is built.
        on_line: Told each line of output as it comes, after the part's name; from several threads.

    Returns:
        What became of each, by its name.

    Raises:
        TestbedError: something cannot be built.
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
            # Ctrl-C, above all: the threads wait for their hosts, and this block for the threads.
            for host in started:
                host.stop()
            raise
    return outcomes
