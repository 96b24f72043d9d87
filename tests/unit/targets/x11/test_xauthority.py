"""Xauthority files."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from vramtap.targets.x11 import xauthority

if TYPE_CHECKING:
    import pytest

HERE = socket.gethostname().encode()
MAGIC = b"MIT-MAGIC-COOKIE-1"


def entry(family: int, address: bytes, number: bytes, cookie: bytes, name: bytes = MAGIC) -> bytes:
    fields = (address, number, name, cookie)
    return struct.pack(">H", family) + b"".join(struct.pack(">H", len(field)) + field for field in fields)


def test_the_cookies_of_a_display_come_best_first(tmp_path: Path) -> None:
    file = tmp_path / "authority"
    file.write_bytes(
        entry(256, b"elsewhere", b"7", b"other")
        + entry(256, HERE, b"8", b"wrong display")
        + entry(256, HERE, b"7", b"exact")
        + entry(65535, b"", b"", b"wild")
        + entry(256, HERE, b"7", b"xdm", b"XDM-AUTHORIZATION-1")
    )
    assert xauthority.cookies(7, str(file)) == [(MAGIC, b"exact"), (MAGIC, b"wild"), (MAGIC, b"other")]


def test_a_truncated_file_gives_its_complete_entries(tmp_path: Path) -> None:
    file = tmp_path / "authority"
    file.write_bytes(entry(65535, b"", b"", b"whole") + entry(65535, b"", b"", b"cut")[:-1])
    assert xauthority.cookies(0, str(file)) == [(MAGIC, b"whole")]


def test_a_path_that_is_not_a_regular_file_has_no_cookies(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path / "missing", tmp_path, pipe, Path("/dev/zero")):
        assert xauthority.cookies(0, str(path)) == []


def test_the_default_file_is_xauthority_then_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".Xauthority").write_bytes(entry(65535, b"", b"", b"home"))
    named = tmp_path / "named"
    named.write_bytes(entry(65535, b"", b"", b"named"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XAUTHORITY", raising=False)
    assert xauthority.cookies(0) == [(MAGIC, b"home")]
    monkeypatch.setenv("XAUTHORITY", str(named))
    assert xauthority.cookies(0) == [(MAGIC, b"named")]


@given(st.binary(max_size=200))
def test_any_bytes_give_bounded_entries(data: bytes) -> None:
    for family, address, number, name, cookie in xauthority._authority_entries(data):
        assert len(entry(family, address, number, cookie, name)) <= len(data)


def test_a_server_without_auth_option_names_no_file() -> None:
    assert xauthority.server_authority(os.getpid()) is None
    assert xauthority.server_authority(1 << 22) is None
