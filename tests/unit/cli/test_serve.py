"""The options of `vramtap serve`, before anything is attached."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vramtap.cli.serve import PASSWORD_VARIABLE, _address, _password
from vramtap.errors import UsageError
from vramtap.servers.listen import ListenAddress

if TYPE_CHECKING:
    from pathlib import Path


def test_default_address_may_take_any_port_and_a_chosen_one_may_not() -> None:
    default = "127.0.0.1:5900"
    assert _address("--vnc", None, default) == ListenAddress("127.0.0.1", 5900, or_any_port=True)
    assert _address("--vnc", default, default) == ListenAddress("127.0.0.1", 5900, or_any_port=False)


def test_password_is_the_first_line_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "another")
    file = tmp_path / "password"
    file.write_text("geheim \nsecond line\n")
    assert _password(file) == "geheim "


@pytest.mark.parametrize(("value", "password"), [("geheim", "geheim"), ("", None), (None, None)])
def test_password_without_a_file_is_the_variable(
    value: str | None, password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(PASSWORD_VARIABLE, value)
    assert _password(None) == password


@pytest.mark.parametrize("content", [b"", b"\nsecond line", b"\xff\xfe\n"])
def test_file_without_a_password_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"^--password-file .*/password: "):
        _password(file)


def test_missing_password_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--password-file .*/none: .*No such file"):
        _password(tmp_path / "none")
