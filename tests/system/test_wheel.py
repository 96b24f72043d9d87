"""The wheel installs into an empty virtual environment and serves from it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
import zipfile
from typing import TYPE_CHECKING, Final

import pytest

from support.documents import ROOT
from support.program import Lines
from support.rfb_client import RfbClient
from support.testbed.supervise import spawn, stop

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S: Final = 600.0
"""How long the installation may take: it may download numpy and others."""


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of this tree."""
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out, cwd=ROOT)
    (path,) = out.glob("*.whl")
    return path


def test_wheel_carries_what_git_does_not_and_no_sources_of_the_guest(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert "vramtap/machine/guest/guest.elf" in names
    assert "vramtap/servers/web/static/novnc/core/rfb.js" in names
    assert "vramtap/py.typed" in names
    assert [name for name in names if name.startswith("vramtap/machine/guest/") and name.endswith(".c")] == []
    assert "Project-URL: Changelog" in metadata


def test_wheel_serves_from_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "environment"
    constraints = ROOT / "constraints.txt"
    venv.create(home, with_pip=True)
    pip = [str(home / "bin/python"), "-m", "pip", "--disable-pip-version-check"]
    _run(*pip, "install", "--constraint", constraints, wheel)
    program = home / "bin/vramtap"
    # Somewhere else, so that nothing is imported from this tree.
    version = wheel.name.split("-")[1]
    assert _run(program, "--version", cwd=tmp_path).strip().endswith(version)
    addresses = ["--vnc", "127.0.0.1:0", "--web", "127.0.0.1:0"]
    command = [str(program), "serve", "--json", *addresses, "demo:?cpu=unicorn"]
    with tempfile.TemporaryFile() as log:
        process = spawn(command, stdout=subprocess.PIPE, stderr=log)
        try:
            child = Lines(process, log)
            line = child.line(TIMEOUT_S)
            assert line is not None, child.log
            host, port = json.loads(line)["vnc"]
            with RfbClient.connect(host, port) as client:
                client.refresh(incremental=False)
                assert client.pixels.shape == (768, 1024)
                assert client.pixels.any()
        finally:
            stop(process)
        assert "Traceback" not in child.log
