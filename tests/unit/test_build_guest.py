"""The guest is compiled when it has to be, and what hinders that is said."""

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
    """A copy of the guest's sources, with nothing compiled."""
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
    # Neither age nor order of the files counts.
    (sources / "main.c").touch()
    assert not guest.build(sources)


@pytest.mark.parametrize("name", ["font.c", "boot.h", "entry.S", "guest.ld"])
def test_compiles_again_when_a_source_changed(guest: ModuleType, sources: Path, name: str) -> None:
    guest.build(sources)
    (sources / name).write_text((sources / name).read_text() + "\n")
    assert guest.build(sources)
    assert not guest.build(sources)


def test_compiles_again_what_is_damaged(guest: ModuleType, sources: Path) -> None:
    (sources / "guest.elf").write_bytes(b"")
    assert guest.build(sources)


def test_says_what_to_install_without_a_compiler(
    guest: ModuleType, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(sources))
    with pytest.raises(guest.CompileError, match=r"no C compiler: install gcc .*, or let CC name one"):
        guest.build(sources)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(guest.CompileError, match=r"install gcc for x86-64 \(apt-get install gcc-x86-64-"):
        guest.build(sources)


def test_asks_another_machines_compiler_for_the_right_code(
    guest: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path, "clang", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert guest.compiler() == ["clang", "--target=x86_64-linux-gnu", "-fuse-ld=lld"]


def test_takes_the_compiler_that_CC_names(
    guest: ModuleType, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = script(tmp_path, "my-cc", f'echo "$@" > {tmp_path}/called; shift; exec gcc "$@"')
    monkeypatch.setenv("CC", f"{wrapper} --first")
    assert guest.build(sources)
    assert (tmp_path / "called").read_text().startswith("--first -std=c11")


def test_says_that_CC_names_nothing(
    guest: ModuleType, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    with pytest.raises(guest.CompileError, match="CC names no-such-compiler, which is not there"):
        guest.build(sources)


FAILURES = {
    "failing": (
        "echo 'main.c:1: error: nonsense' >&2; exit 3",
        r"exit status 3 (?s:.*)main.c:1: error: nonsense",
    ),
    "doing nothing": ("true", "gave no guest that carries its digest"),
    "something else": ('for last; do :; done; echo hello > "$last"', "gave no guest that carries its digest"),
    "not executable": (None, "Exec format error"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_reports_a_compiler_that_fails_and_keeps_what_was_there(
    guest: ModuleType, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    text, message = FAILURES[name]
    compiler = script(tmp_path, "cc", text or "")
    if text is None:
        compiler.write_bytes(b"\x7fELF, but no more of it")
    (sources / "guest.elf").write_bytes(b"old")
    before = names(sources)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(guest.CompileError, match=message):
        guest.build(sources)
    assert names(sources) == before
    assert (sources / "guest.elf").read_bytes() == b"old"


def test_says_that_there_are_no_sources(guest: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(guest.CompileError, match="holds no sources of the guest"):
        guest.build(tmp_path)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source archive of this checkout, and a wheel made from what it unpacks to."""
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


def test_a_source_archive_carries_the_hook_and_the_sources(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[0]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    sources = {f"src/vramtap/machine/guest/{name}" for name in ("main.c", "boot.h", "entry.S", "guest.ld")}
    assert sources | {"hatch_build.py", "build_support/guest.py", "build_support/novnc.py"} <= held
    assert not [name for name in held if ".guest-" in name]


def test_a_wheel_made_from_it_carries_the_guest_and_not_its_sources(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[1]) as archive:
        held = {name for name in archive.namelist() if name.startswith("vramtap/machine/guest/")}
        assert held == {"vramtap/machine/guest/__init__.py", "vramtap/machine/guest/guest.elf"}
        compiled = archive.read("vramtap/machine/guest/guest.elf")
        assert not [name for name in archive.namelist() if name.startswith("build_support")]
    assert compiled == (ROOT / "src/vramtap/machine/guest/guest.elf").read_bytes()
