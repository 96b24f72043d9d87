"""How commands end: by errors, signals, and a closed stdout."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from vramtap.cli import run
from vramtap.errors import NotTappable, UsageError, VramtapError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (VramtapError("do", "this", "it failed"), 1),
        (NotTappable("attach", "a:b", "two\nlines", "do\tthat"), 1),
        (UsageError("--vnc", "x", "not HOST:PORT"), 2),
    ],
)
def test_vramtap_error_gives_one_line_and_a_status(
    error: VramtapError, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    @run.command
    async def body() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        body()
    assert ended.value.code == status
    assert capsys.readouterr().err == f"vramtap: {error}\n"


def test_any_other_error_is_a_defect_and_is_raised() -> None:
    @run.command
    async def body() -> None:
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        body()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_a_command_through_its_context_managers(number: signal.Signals) -> None:
    left = []

    @run.command
    async def body() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            left.append(True)

    body()
    assert left == [True]


def test_closed_stdout_ends_a_command_silently(capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "from vramtap.cli import run\n"
        "@run.command\n"
        "async def body():\n"
        "    while True:\n"
        "        print('x' * 1000)\n"
        "body()\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", code],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)],
    )
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert capfd.readouterr().err == ""


@pytest.fixture
def package_log() -> Iterator[logging.Logger]:
    """Restore the log at the end."""
    log = logging.getLogger("vramtap")
    level, handlers = log.level, list(log.handlers)
    yield log
    log.setLevel(level)
    log.handlers[:] = handlers


@pytest.mark.parametrize(
    ("verbose", "level"),
    [(0, logging.WARNING), (1, logging.INFO), (2, logging.DEBUG), (9, logging.DEBUG)],
)
def test_verbosity(
    package_log: logging.Logger, verbose: int, level: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run.configure_log(verbose)
    assert package_log.level == level
    package_log.log(level, "said")
    package_log.log(level - 1, "not said")
    said = capsys.readouterr().err
    assert "said" in said
    assert "not said" not in said


def test_discarded_output_accepts_writes() -> None:
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            run.discard_output()
            os.write(1, b"into nowhere")
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
