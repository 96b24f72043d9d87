"""The command line without some system calls or capabilities: findings of `doctor`, fallbacks, and errors."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support import denied as denial
from support.follower import Follower
from support.program import assert_one_line, run, serve
from support.testbed.require import require
from support.writers import picture_of, screen_writer, url_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.testbed.writer import Writer

ANY_PORTS = ("--vnc", "127.0.0.1:0", "--web", "127.0.0.1:0")


@pytest.fixture
def writer() -> Iterator[Writer]:
    """A process that draws into a framebuffer."""
    with screen_writer() as writer:
        yield writer


def denied(what: str) -> tuple[str, ...]:
    """Return a command that runs a program without this system call."""
    return (sys.executable, str(Path(denial.__file__)), what)


def unprivileged() -> tuple[str, ...]:
    """Return a command that runs a program without CAP_SYS_PTRACE."""
    require(os.geteuid() == 0, "dropping CAP_SYS_PTRACE needs root")
    return ("setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace")


def test_doctor_finds_every_capability_of_this_machine() -> None:
    finished = run("doctor")
    assert (finished.status, finished.err) == (0, "")
    findings = json.loads(run("doctor", "--json").out)
    lines = finished.out.splitlines()
    assert len(lines) == len(findings) >= 9
    for line, finding in zip(lines, findings, strict=True):
        assert line.startswith(f"{'ok' if finding['ok'] else 'no'}  {finding['what']}: ")
        assert " -> " in line or finding["ok"]
    available = {finding["what"] for finding in findings if finding["ok"]}
    assert {
        "write log of this process",
        "write log of another process",
        "reading another process",
    } <= available


OWN, OTHER, WAKE_UP, READING, FOREIGN = (
    "write log of this process",
    "write log of another process",
    "wake-up by the first write",
    "reading another process",
    "tapping processes of other users",
)


@pytest.mark.parametrize(
    ("what", "findings", "status"),
    [
        ("userfaultfd", {OWN: "userfaultfd .*EPERM", OTHER: "seccomp", WAKE_UP: "seccomp"}, 0),
        ("PAGEMAP_SCAN", {OWN: "PAGEMAP_SCAN .*ENOTTY", OTHER: "seccomp", WAKE_UP: "seccomp"}, 0),
        ("ptrace", {OTHER: "seccomp", WAKE_UP: "seccomp"}, 0),
        (
            "process_vm_readv",
            {OTHER: "seccomp", WAKE_UP: "seccomp", READING: "process_vm_readv .*EPERM", FOREIGN: "refused"},
            1,
        ),
    ],
)
def test_doctor_reports_each_denied_capability(what: str, findings: dict[str, str], status: int) -> None:
    finished = run("doctor", "--json", prefix=denied(what))
    assert (finished.status, finished.err) == (status, "")
    before = {finding["what"]: finding for finding in json.loads(run("doctor", "--json").out)}
    changed = {
        finding["what"]: finding
        for finding in json.loads(finished.out)
        if before[finding["what"]]["ok"] and not finding["ok"]
    }
    assert changed.keys() == findings.keys()
    for name, pattern in findings.items():
        assert re.search(pattern, "{detail} -> {remedy}".format(**changed[name]))
        assert changed[name]["remedy"]


def test_doctor_requires_reading_memory_not_only_maps() -> None:
    finished = run("doctor", "--json", prefix=unprivileged())
    (foreign,) = (finding for finding in json.loads(finished.out) if finding["what"] == FOREIGN)
    assert not foreign["ok"]
    assert "CAP_SYS_PTRACE" in foreign["remedy"]


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("userfaultfd", r"log does not work on this kernel: userfaultfd .*EPERM"),
        ("PAGEMAP_SCAN", r"log does not work on this kernel: PAGEMAP_SCAN .*ENOTTY"),
        ("ptrace", r"log refused: .*EPERM"),
        ("pidfd_getfd", r"log refused: .*EPERM"),
    ],
)
def test_auto_falls_back_to_compare_and_gives_the_reason(what: str, why: str, writer: Writer) -> None:
    with serve(url_of(writer), prefix=denied(what)) as server:
        with Follower(server.connect()) as viewer:
            for _ in range(3):
                writer.run()
                viewer.shows(picture_of(writer))
        (report,) = server.stop()
        assert report["stats"]["tracker"] == "compare"
        assert re.match(why, report["stats"]["tracker_why"]), report["stats"]["tracker_why"]


@pytest.mark.parametrize("what", ["PAGEMAP_SCAN", "ptrace", "pidfd_getfd"])
def test_denied_log_tracker_is_a_one_line_error(what: str, writer: Writer) -> None:
    finished = run("watch", url_of(writer), "--tracker", "log", prefix=denied(what))
    assert_one_line(finished, 1, r".+: (EPERM|ENOTTY) \(.+\)")


def test_process_without_read_permission_is_a_one_line_error(writer: Writer) -> None:
    finished = run("serve", url_of(writer), *ANY_PORTS, prefix=unprivileged())
    assert_one_line(finished, 1, r".+: EPERM \(.*CAP_SYS_PTRACE.*\)")
