"""The program's frame: what it lists, what it loads, and how wrong usage ends."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.metadata import version

import click
import pytest

from vramtap.cli import main as entry
from vramtap.cli.main import COMMANDS
from vramtap.errors import NotFound, UsageError
from vramtap.trackers.choose import NAMES

TRACKERS = ", ".join(map(repr, NAMES))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the entry point in this process.

    Returns:
        The exit status.
    """
    monkeypatch.setattr(sys, "argv", ["vramtap", *arguments])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_has_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, name, "--help") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"Usage: vramtap {name} ")
    command: click.Command = import_module(f"vramtap.cli.{name}").command
    assert command.help


def test_help_names_every_subcommand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "-h") == 0
    said = capsys.readouterr().out
    assert all(f"  {name}" in said and summary in said for name, summary in COMMANDS.items())


def test_without_a_subcommand_it_helps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 2
    assert "Commands:" in capsys.readouterr().err


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert version("vramtap") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("nonsense",), r"No such command 'nonsense' (see vramtap --help)"),
        (("--nonsense",), r"No such option '--nonsense' (see vramtap --help)"),
        (("serve",), r"serve: Missing argument 'TARGET...' (see vramtap serve --help)"),
        (
            ("watch", "shm:/x?mode=1x1", "--tracker", "magic"),
            f"watch: Invalid value for '--tracker': 'magic' is not one of {TRACKERS} "
            "(see vramtap watch --help)",
        ),
        (
            ("screenshot", "x11::1"),
            "screenshot: Missing option '-o' / '--output' (see vramtap screenshot --help)",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: tuple[str, ...],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.err == f"vramtap: {line}\n"
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "status"),
    [(UsageError("target", "x:", "no"), 2), (NotFound("connect", "x", "no"), 1), (click.Abort(), 1)],
)
def test_errors_from_outside_a_command_end_it_too(
    error: Exception,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(**_: object) -> None:
        raise error

    monkeypatch.setattr(entry.cli, "main", fails)
    assert run(monkeypatch) == status
    said = capsys.readouterr().err
    assert said == ("" if isinstance(error, click.Abort) else f"vramtap: {error}\n")


def test_help_loads_nothing_that_is_not_needed() -> None:
    heavy = ("numpy", "aiohttp", "simplejpeg", "xcffib", "cryptography", "rich", "textual")
    code = (
        "import sys; from vramtap.cli.main import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
