"""The documentation site and the manual page build without a warning, and their programs run."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from support.documents import ROOT, code_blocks
from support.testbed.require import require

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S: Final = 300.0
"""How long anything may take: only a hang takes so long."""
PAGES_WITH_PROGRAMS: Final = ("docs/getting-started.md", "docs/guides/python.md")
PROGRAMS: Final = [
    pytest.param(block, id=f"{page}-{number}")
    for page in PAGES_WITH_PROGRAMS
    for number, block in enumerate(code_blocks(page, "python"))
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory with `html/` and `man/`, built with warnings as errors."""
    require(importlib.util.find_spec("sphinx") is not None, "sphinx is not installed (make install)")
    out = tmp_path_factory.mktemp("docs")
    for builder in ("html", "man"):
        command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
        command += ["-d", str(out / "doctrees"), "-b", builder, str(ROOT / "docs"), str(out / builder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert done.returncode == 0, done.stderr
    return out


def test_site_has_every_page_of_the_sources(built: Path) -> None:
    sources = (path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md"))
    assert [path for path in sources if not (built / "html" / path.with_suffix(".html")).is_file()] == []


def test_reference_shows_the_public_api(built: Path) -> None:
    import vramtap

    page = (built / "html/reference/api.html").read_text()
    documented = [name for name in vramtap.__all__ if name not in ("__version__", "errors")]
    assert [name for name in documented if f'id="vramtap.{name}"' not in page] == []
    assert 'id="vramtap.errors.TargetGone"' in page


def test_manual_page_names_every_subcommand(built: Path) -> None:
    from vramtap.cli.main import COMMANDS

    page = (built / "man/vramtap.1").read_text()
    sections = re.findall(r"^\.SS (.+)$", page, re.MULTILINE)
    assert [name for name in COMMANDS if f"vramtap {name}" not in sections] == []
    assert ".SH EXIT STATUS" in page
    assert re.search(r"^\.. \w+::|^\\&\.\.", page, re.MULTILINE) is None, "a directive was not rendered"


@pytest.mark.parametrize("block", PROGRAMS)
def test_programs_of_the_guides_run(block: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(block)
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "program.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
