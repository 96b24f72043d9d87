"""`vramtap`: its help, what the help imports, and the end on wrong usage."""

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
from vramtap.targets.open import _KINDS
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


WITH_TARGET = [("serve",), ("watch",), ("screenshot",), ("trace", "record")]
"""Commands with a TARGET argument."""


def all_commands() -> dict[str, click.Command]:
    """Return every command, subcommands included, by its path."""
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command: click.Command = import_module(f"vramtap.cli.{name}").command
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {each}": subcommand for each, subcommand in command.commands.items()}
    return found


def test_commands_with_a_target() -> None:
    names = {
        path
        for path, command in all_commands().items()
        if any(parameter.name in ("target", "targets") for parameter in command.params)
    }
    assert names == {" ".join(path) for path in WITH_TARGET}


@pytest.mark.parametrize("path", [(), *WITH_TARGET], ids=" ".join)
def test_help_names_every_kind_of_target(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *path, "--help") == 0
    said = capsys.readouterr().out
    assert [kind for kind in _KINDS if f"  {kind}:" not in said] == []


@pytest.mark.parametrize("path", all_commands())
def test_every_option_has_help_and_a_default(path: str) -> None:
    for option in all_commands()[path].params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            shown = option.show_default or "[default: " in option.help or option.is_flag or option.required
            assert shown or "may be repeated" in option.help, option.name


@pytest.mark.parametrize("path", ["", *all_commands()])
def test_examples_are_lines_of_the_help(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *path.split(), "--help") == 0
    said = capsys.readouterr().out
    assert "\\b" not in said
    lines = [line.strip() for line in said.splitlines()]
    if {"Example:", "Examples:"} & set(lines):
        assert any(line.startswith(f"vramtap {path}") for line in lines)
    else:
        assert path in {"trace", "bench"}, "groups have no examples"


@pytest.mark.parametrize("path", all_commands())
def test_help_begins_with_one_short_sentence(path: str) -> None:
    first, *_ = (all_commands()[path].help or "").split("\n\n")
    assert first.count(". ") == 0
    assert len(first) <= 100


def test_no_subcommand_prints_help_with_status_2(
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
def test_wrong_usage_gives_one_line_and_status_2(
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
def test_error_outside_a_command_gives_one_line(
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


def test_help_imports_no_large_library() -> None:
    heavy = ("numpy", "aiohttp", "simplejpeg", "xcffib", "cryptography", "rich", "textual")
    code = (
        "import sys; from vramtap.cli.main import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
