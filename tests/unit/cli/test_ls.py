"""The output of `vramtap ls`."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from vramtap.cli import ls
from vramtap.targets.discovered import Discovered

LONG = "qemu:/tmp/" + "directory/" * 30 + "with [bold]brackets[/bold] and :smile: in it/qmp.sock"
FOUND = [
    Discovered(url=LONG, kind="qemu", description="QEMU debian", pid=812),
    Discovered(url="x11::7", kind="x11", description="X server", reason="it is not ours"),
]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Discovered]:
    found = list(FOUND)
    monkeypatch.setattr(ls, "discover", lambda: found)
    return found


def test_lines_in_a_pipe_are_not_truncated_and_paths_are_not_markup(found: list[Discovered]) -> None:
    done = CliRunner().invoke(ls.command)
    assert done.exit_code == 0
    head, first, second = (line.rstrip() for line in done.stdout.splitlines())
    assert head.split() == ["target", "pid", "what", "tappable"]
    assert first.startswith(f"{LONG}  812  QEMU debian")
    assert first.endswith("yes")
    assert second.split(maxsplit=2) == ["x11::7", "?", "X server     no: it is not ours"]


def test_json(found: list[Discovered]) -> None:
    done = CliRunner().invoke(ls.command, ["--json"])
    assert json.loads(done.stdout) == [
        {
            "url": LONG,
            "kind": "qemu",
            "description": "QEMU debian",
            "pid": 812,
            "reason": "",
            "tappable": True,
        },
        {
            "url": "x11::7",
            "kind": "x11",
            "description": "X server",
            "pid": 0,
            "reason": "it is not ours",
            "tappable": False,
        },
    ]


def test_nothing_found(found: list[Discovered]) -> None:
    found.clear()
    said = (
        "No QEMU guest with a QMP socket, no X display and no Xen domain was found. "
        "`vramtap demo` runs a VM of its own.\n"
    )
    assert CliRunner().invoke(ls.command).stdout == said
    assert json.loads(CliRunner().invoke(ls.command, ["--json"]).stdout) == []
