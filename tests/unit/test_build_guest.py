"""The guest is compiled when necessary, and failures are reported."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.delenv("CC", raising=False)
    return importlib.import_module("build_support.guest")


@pytest.fixture
def sources(guest: ModuleType, tmp_path: Path) -> Path:
    """Copy of the guest's sources, without the compiled guest."""
    return Path(
        shutil.copytree(
            ROOT / guest.DIRECTORY, tmp_path / "guest", ignore=shutil.ignore_patterns("*.elf", ".*")
        )
    )


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def script(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_compiles_without_a_warning_and_leaves_nothing_else(guest: ModuleType, sources: Path) -> None:
    before = names(sources)
    assert guest.build(sources, "-Werror")
    assert (sources / "guest.elf").read_bytes()[:4] == b"\x7fELF"
    assert names(sources) == before | {"guest.elf"}


def test_compiles_to_the_same_bytes_anywhere(guest: ModuleType, sources: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(sources, tmp_path / "else where" / "guest"))
    guest.build(sources)
    guest.build(elsewhere)
    assert (sources / "guest.elf").read_bytes() == (elsewhere / "guest.elf").read_bytes()


def test_needs_no_compiler_while_nothing_changed(
    guest: ModuleType, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert guest.build(sources)
    monkeypatch.setenv("PATH", str(sources))
    assert not guest.build(sources)
    # Neither age nor order of the files matters.
    (sources / "main.c").touch()
    assert not guest.build(sources)


@pytest.mark.parametrize("name", ["font.c", "boot.h", "entry.S", "guest.ld"])
def test_compiles_again_when_a_source_changed(guest: ModuleType, sources: Path, name: str) -> None:
    guest.build(sources)
    (sources / name).write_text((sources / name).read_text() + "\n")
    assert guest.build(sources)
    assert not guest.build(sources)


def test_compiles_again_when_the_guest_is_damaged(guest: ModuleType, sources: Path) -> None:
    (sources / "guest.elf").write_bytes(b"")
    assert guest.build(sources)


def test_says_what_to_install_without_a_compiler(
    guest: ModuleType, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(sources))
    with pytest.raises(guest.CompileError, match=r"no C compiler: install gcc .*, or set CC"):
        guest.build(sources)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(guest.CompileError, match=r"install gcc for x86-64 \(apt-get install gcc-x86-64-"):
        guest.build(sources)


def test_selects_a_cross_compiler_on_other_machines(
    guest: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path, "clang", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert guest.compiler() == ["clang", "--target=x86_64-linux-gnu", "-fuse-ld=lld"]


def test_uses_the_compiler_in_CC(
    guest: ModuleType, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = script(tmp_path, "my-cc", f'echo "$@" > {tmp_path}/called; shift; exec gcc "$@"')
    monkeypatch.setenv("CC", f"{wrapper} --first")
    assert guest.build(sources)
    assert (tmp_path / "called").read_text().startswith("--first -std=c11")


def test_reports_a_missing_compiler_in_CC(
    guest: ModuleType, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(guest.CompileError, match="CC names no-such-compiler, which is not installed"):
        guest.build(sources)


FAILURES = {
    "failing": (
        "echo 'main.c:1: error: nonsense' >&2; exit 3",
        r"exit status 3 (?s:.*)main.c:1: error: nonsense",
    ),
    "doing nothing": ("true", "produced no guest that contains its digest"),
    "something else": (
        'for last; do :; done; echo hello > "$last"',
        "produced no guest that contains its digest",
    ),
    "not executable": (None, "Exec format error"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_reports_a_failing_compiler_and_keeps_the_old_guest(
    guest: ModuleType, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    text, message = FAILURES[name]
    compiler = script(tmp_path, "cc", text or "")
    if text is None:
        compiler.write_bytes(b"\x7fELF, cut off")
    (sources / "guest.elf").write_bytes(b"old")
    before = names(sources)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(guest.CompileError, match=message):
        guest.build(sources)
    assert names(sources) == before
    assert (sources / "guest.elf").read_bytes() == b"old"


def test_reports_missing_sources(guest: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(guest.CompileError, match="contains no sources of the guest"):
        guest.build(tmp_path)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source archive of this checkout, and a wheel built from the unpacked archive."""
    directory = tmp_path_factory.mktemp("archives")

    def build(what: str, root: Path) -> Path:
        command = [sys.executable, "-P", "-m", "hatchling", "build", "-t", what, "-d", str(directory)]
        subprocess.run(command, cwd=root, check=True, capture_output=True)
        (made,) = directory.glob("*.tar.gz" if what == "sdist" else "*.whl")
        return made

    sdist = build("sdist", ROOT)
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    (unpacked,) = (path for path in directory.iterdir() if path.is_dir())
    return sdist, build("wheel", unpacked)


def test_source_archive_contains_hook_and_sources(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[0]) as archive:
        members = {name.partition("/")[2] for name in archive.getnames()}
    sources = {f"src/vramtap/machine/guest/{name}" for name in ("main.c", "boot.h", "entry.S", "guest.ld")}
    assert sources | {"hatch_build.py", "build_support/guest.py", "build_support/novnc.py"} <= members
    assert not [name for name in members if ".guest-" in name]


def test_wheel_contains_the_guest_without_its_sources(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[1]) as archive:
        members = {name for name in archive.namelist() if name.startswith("vramtap/machine/guest/")}
        assert members == {"vramtap/machine/guest/__init__.py", "vramtap/machine/guest/guest.elf"}
        compiled = archive.read("vramtap/machine/guest/guest.elf")
        assert not [name for name in archive.namelist() if name.startswith("build_support")]
    assert compiled == (ROOT / "src/vramtap/machine/guest/guest.elf").read_bytes()
