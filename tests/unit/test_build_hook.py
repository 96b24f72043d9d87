"""The hook that installs noVNC accepts only the pinned package, and writes only into its directory."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.util
import io
import os
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vramtap_hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.novnc  # type: ignore[no-any-return]  # loaded by its path, as hatchling does


def _regular(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def _special(name: str, kind: bytes, to: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = to
    return member, b""


def _archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def _digest(tarball: bytes) -> str:
    return base64.b64encode(hashlib.sha512(tarball).digest()).decode()


GOOD = (
    _regular("package/core/rfb.js", b"export default 1;"),
    _regular("package/vendor/pako/LICENSE", b"MIT"),
    _regular("package/LICENSE.txt", b"MPL"),
    _regular("package/docs/LICENSE.MPL-2.0", b"MPL, whole"),
    _regular("package/docs/API.md", b"not served"),
    _regular("package/package.json", b"{}"),
)


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hook: ModuleType) -> Callable[[bytes], None]:
    def offer(tarball: bytes) -> None:
        path = tmp_path / "offered.tgz"
        path.write_bytes(tarball)
        monkeypatch.setenv(hook.TARBALL_VARIABLE, str(path))

    return offer


def _files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_installs_served_files_and_licences(
    hook: ModuleType, offer: Callable[[bytes], None], tmp_path: Path
) -> None:
    tarball = _archive(*GOOD)
    offer(tarball)
    destination = tmp_path / "static" / "novnc"
    assert hook.install(destination, _digest(tarball))
    assert _files(destination) == {
        "core/rfb.js", "vendor/pako/LICENSE", "LICENSE.txt", "docs/LICENSE.MPL-2.0", ".unpacked",
    }  # fmt: skip
    assert (destination / "core" / "rfb.js").read_bytes() == b"export default 1;"
    assert os.listdir(destination.parent) == ["novnc"]


def test_second_install_does_nothing(
    hook: ModuleType, offer: Callable[[bytes], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball = _archive(*GOOD)
    offer(tarball)
    assert hook.install(tmp_path / "novnc", _digest(tarball))
    monkeypatch.setenv(hook.TARBALL_VARIABLE, str(tmp_path / "nothing here"))
    assert not hook.install(tmp_path / "novnc", _digest(tarball))


def test_replaces_another_version_as_a_whole(
    hook: ModuleType, offer: Callable[[bytes], None], tmp_path: Path
) -> None:
    old = _archive(*GOOD, _regular("package/core/old.js", b"old"))
    offer(old)
    hook.install(tmp_path / "novnc", _digest(old))
    new = _archive(*GOOD)
    offer(new)
    assert hook.install(tmp_path / "novnc", _digest(new))
    assert "core/old.js" not in _files(tmp_path / "novnc")


def test_refuses_another_digest_and_keeps_the_old_files(
    hook: ModuleType, offer: Callable[[bytes], None], tmp_path: Path
) -> None:
    good = _archive(*GOOD)
    offer(good)
    hook.install(tmp_path / "novnc", _digest(good))
    before = _files(tmp_path / "novnc")
    offer(good + b"\0")
    with pytest.raises(hook.FetchError, match=r"sha512 is .*; refused"):
        hook.install(tmp_path / "novnc", _digest(good + b"other"))
    assert _files(tmp_path / "novnc") == before


def test_default_digest_is_the_pinned_one(
    hook: ModuleType, offer: Callable[[bytes], None], tmp_path: Path
) -> None:
    offer(_archive(*GOOD))
    with pytest.raises(hook.FetchError, match="pinned is ucEJOx4T"):
        hook.install(tmp_path / "novnc")
    assert not (tmp_path / "novnc").exists()


HOSTILE = {
    "parent": _regular("package/core/../../../escaped", b"x"),
    "absolute": _regular("/escaped", b"x"),
    "elsewhere": _regular("other/core/rfb.js", b"x"),
    "bare parent": _regular("../escaped", b"x"),
    "backslash": _regular("package\\core\\x.js", b"x"),
    "control character": _regular("package/core/a\nb.js", b"x"),
    "symlink": _special("package/core/link", tarfile.SYMTYPE, "/etc"),
    "hard link": _special("package/core/link", tarfile.LNKTYPE, "/etc/passwd"),
    "device": _special("package/core/null", tarfile.CHRTYPE),
    "pipe": _special("package/core/pipe", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refuses_hostile_members(
    hook: ModuleType, offer: Callable[[bytes], None], tmp_path: Path, name: str
) -> None:
    tarball = _archive(*GOOD, HOSTILE[name])
    offer(tarball)
    destination = tmp_path / "deep" / "er" / "novnc"
    with pytest.raises(hook.FetchError, match="refused"):
        hook.install(destination, _digest(tarball))
    assert _files(tmp_path) == {"offered.tgz"}


def test_refuses_a_duplicate_member(hook: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(hook.FetchError, match="cannot be unpacked"):
        hook.unpack(_archive(*GOOD, _regular("package/core/rfb.js", b"again")), tmp_path / "novnc")


def test_refuses_too_many_members(hook: ModuleType, tmp_path: Path) -> None:
    many = [_regular(f"package/docs/{number}", b"") for number in range(1001)]
    with pytest.raises(hook.FetchError, match="more than 1000 members"):
        hook.unpack(_archive(*many), tmp_path / "novnc")


def test_refuses_a_decompression_bomb(hook: ModuleType, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(17 << 20))
    assert len(bomb) < 1 << 16
    with pytest.raises(hook.FetchError, match="unpacks to more than"):
        hook.unpack(bomb, tmp_path / "novnc")


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (b"", "cut off"),
        (b"<html>not found</html>", "not gzip"),
        (_archive(*GOOD)[:-20], "cut off"),
        (gzip.compress(b"no tar" * 1000), "cannot be unpacked"),
        (_archive(_regular("package/README.md", b"x")), "no core/rfb.js"),
    ],
    ids=["empty", "no archive", "cut off", "no tar", "another package"],
)
def test_refuses_a_damaged_archive(hook: ModuleType, tmp_path: Path, damaged: bytes, message: str) -> None:
    with pytest.raises(hook.FetchError, match=message):
        hook.unpack(damaged, tmp_path / "novnc")


def test_refuses_a_file_that_is_too_long(
    hook: ModuleType, offer: Callable[[bytes], None], tmp_path: Path
) -> None:
    offer(bytes((4 << 20) + 1))
    with pytest.raises(hook.FetchError, match="longer than"):
        hook.install(tmp_path / "novnc")


def test_says_what_to_do_without_npm(
    hook: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(hook.TARBALL_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(hook.FetchError, match="install npm, or set VRAMTAP_NOVNC_TARBALL to"):
        hook.install(tmp_path / "novnc")


def test_reports_npm_errors(hook: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'no such package' >&2\nexit 7\n")
    npm.chmod(0o755)
    monkeypatch.delenv(hook.TARBALL_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(hook.FetchError, match=r"exit status 7.*no such package"):
        hook.install(tmp_path / "novnc")


def test_reports_a_missing_file(hook: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(hook.TARBALL_VARIABLE, str(tmp_path / "nothing.tgz"))
    with pytest.raises(hook.FetchError, match="No such file"):
        hook.install(tmp_path / "novnc")
