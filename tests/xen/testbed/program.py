"""The program as a user of dom0 installs it: from wheels, without a compiler there; and pytest beside it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

from support.testbed import cache
from support.testbed.cpio import Archive
from support.testbed.errors import TestbedError
from xen.testbed.debian import Debian, compile_python

PROJECT: Final = Path(__file__).resolve().parents[3]
"""The project's top directory."""
TEST_TOOLS: Final = ("pytest", "pytest-asyncio", "hypothesis")
_SITE: Final = "usr/local/lib/python{}/dist-packages"
"""Where Debian's Python looks for what the machine's administrator installed."""
# PEP 600: a wheel for glibc 2.N works with every later one; Debian 12, which has Xen 4.17, has 2.36.
_PLATFORMS: Final = ("manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in range(17, 37)))
# Only on PyPI as source, but pure Python: the wheel is built here, as pip would in dom0.
_PURE_SOURCE: Final = re.compile(r"(xcffib|qemu\.qmp)\b")
# Of no use when running. Emulated, each megabyte costs 15 ms at boot.
_TRIMMED: Final = (
    "numpy/**/tests", "numpy/f2py", "numpy/_core/include", "numpy/_core/lib", "numpy/random/lib",
    "unicorn/include", "unicorn/lib/*.a", "**/*.pyi", "**/*.pyx", "**/*.pxd",
)  # fmt: skip


def dependencies(debian: Debian) -> Path:
    """The layer with what the program needs to run, and the tools of its tests.

    Raises:
        TestbedError: pip cannot fetch the wheels.
    """
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *TEST_TOOLS]
    name = f"xen/dependencies-{cache.key(Path(__file__).read_bytes(), debian.python, *wanted)}"

    def build(into: Path) -> None:
        wheels = into / "wheels"
        for requirement in filter(_PURE_SOURCE.match, wanted):
            _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), requirement)
        (into / "layer.cpio").write_bytes(_installed(into / "root", debian.python, wanted, wheels))
        shutil.rmtree(into / "root")
        shutil.rmtree(wheels, ignore_errors=True)

    return cache.built(name, build) / "layer.cpio"


def program(debian: Debian) -> Path:
    """The layer with the program itself: its wheel, built from this tree.

    Raises:
        TestbedError: it cannot be built.
    """
    sources = [PROJECT / name for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE")]
    for directory in ("src", "build_support"):
        sources += sorted(
            path
            for path in (PROJECT / directory).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        )
    parts = [part for path in sources for part in (str(path.relative_to(PROJECT)), path.read_bytes())]
    name = f"xen/program-{cache.key(Path(__file__).read_bytes(), debian.python, *parts)}"

    def build(into: Path) -> None:
        wheels = into / "wheels"
        cache.run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels), cwd=PROJECT)
        (wheel,) = wheels.glob("*.whl")
        (into / "layer.cpio").write_bytes(
            _installed(into / "root", debian.python, ["--no-deps", str(wheel)], wheels)
        )
        shutil.rmtree(into / "root")
        shutil.rmtree(wheels)

    return cache.built(name, build) / "layer.cpio"


def _installed(root: Path, python: str, what: list[str], wheels: Path) -> bytes:
    """An archive of what pip installs for dom0's Python."""
    site = root / _SITE.format(python)
    platforms = [part for name in _PLATFORMS for part in ("--platform", name)]
    _pip(
        "install", "--target", str(site), "--find-links", str(wheels), "--only-binary=:all:", "--no-compile",
        *platforms, "--python-version", python, "--implementation", "cp", *what,
    )  # fmt: skip
    for pattern in _TRIMMED:
        for path in sorted(site.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.exists():
                path.unlink()
    scripts = root / "usr/local/bin"
    if (site / "bin").is_dir():
        shutil.move(site / "bin", scripts)
        for script in scripts.iterdir():
            # pip wrote this process's Python into the first line.
            _, _, rest = script.read_text().partition("\n")
            script.write_text(f"#!/usr/bin/python3\n{rest}")
            script.chmod(0o755)
    compile_python(root, site, python)
    layer = Archive()
    layer.tree(root)
    return layer.finish()


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise TestbedError(f"pip {arguments[0]}: {' '.join(errors) or done.stderr.strip()[-500:]}")
