"""What serve makes of its options, before anything is attached."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vramtap.cli.serve import PASSWORD_VARIABLE, Address, _address, _password
from vramtap.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (None, Address("127.0.0.1", 5900, False)),
        ("127.0.0.1:0", Address("127.0.0.1", 0, True)),
        ("localhost:65535", Address("localhost", 65535, True)),
        ("[::1]:5901", Address("::1", 5901, True)),
        ("::1:5901", Address("::1", 5901, True)),
        ("0.0.0.0:80", Address("0.0.0.0", 80, True)),
    ],
)
def test_addresses(text: str | None, address: Address) -> None:
    assert _address("--vnc", text, "127.0.0.1:5900") == address


@pytest.mark.parametrize(
    "text", ["foo", ":5900", "host:", "host:x", "host:-1", "host:65536", "host:٣", "host:1 "]
)
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--web .*: not HOST:PORT \(for example 127.0.0.1:8080,"):
        _address("--web", text, "127.0.0.1:8080")


def test_the_password_is_the_first_line_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "another")
    file = tmp_path / "password"
    file.write_text("geheim \nsecond line\n")
    assert _password(file) == "geheim "


@pytest.mark.parametrize(("value", "password"), [("geheim", "geheim"), ("", None), (None, None)])
def test_without_a_file_it_is_the_variable(
    value: str | None, password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(PASSWORD_VARIABLE, value)
    assert _password(None) == password


@pytest.mark.parametrize("content", [b"", b"\nsecond line", b"\xff\xfe\n"])
def test_a_file_without_a_password_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"^--password-file .*/password: "):
        _password(file)


def test_a_missing_password_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--password-file .*/none: .*No such file"):
        _password(tmp_path / "none")
