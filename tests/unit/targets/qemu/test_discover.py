"""QEMU guests found by the arguments of their processes."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from vramtap.errors import Refused
from vramtap.targets.discovered import Discovered
from vramtap.targets.qemu.discover import target_of_process
from vramtap.targets.url import parse

if TYPE_CHECKING:
    from pathlib import Path

ME = os.getpid()


@pytest.fixture
def sock(tmp_path: Path) -> Path:
    path = tmp_path / "vm.qmp"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return path


def found(*arguments: str) -> Discovered:
    target = target_of_process(ME, ["/usr/bin/qemu-system-x86_64", *arguments])
    assert target is not None
    return target


@pytest.mark.parametrize(
    "arguments",
    [
        ["-qmp", "unix:{},server=on,wait=off"],
        ["--qmp", "unix:{},server,nowait"],
        ["-qmp-pretty", "unix:{},server=on"],
        ["-chardev", "socket,id=mon0,path={},server=on,wait=off", "-mon", "chardev=mon0,mode=control"],
        ["-chardev", "socket,id=m,path={},server=on", "-mon", "m,mode=control"],
        ["-qmp", "unix:/nowhere/a,server=on", "-qmp", "unix:{},server=on"],
    ],
)
def test_a_qmp_socket_is_found(sock: Path, arguments: list[str]) -> None:
    one = found(*(argument.format(sock) for argument in arguments))
    assert one == Discovered(url=f"qemu:{sock}", kind="qemu", description="QEMU qemu-system-x86_64", pid=ME)
    assert one.tappable


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("debian", "debian"),
        ("guest=debian,debug-threads=on", "debian"),
        ("debian,process=x", "debian"),
        ("debug-threads=on", "qemu-system-x86_64"),
    ],
)
def test_description_contains_the_guest_name(value: str, name: str) -> None:
    assert found("-name", value).description == f"QEMU {name}"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-qmp"],
        ["-qmp", "tcp:127.0.0.1:4444,server=on"],
        ["-chardev", "socket,id=mon0,path=/x,server=on", "-mon", "chardev=mon0,mode=readline"],
        ["-monitor", "unix:/x,server=on"],
        ["-chardev", "stdio,id=mon0", "-mon", "chardev=mon0,mode=control"],
    ],
)
def test_a_guest_without_a_qmp_socket_is_listed_with_a_remedy(arguments: list[str]) -> None:
    one = found(*arguments)
    assert not one.tappable
    assert "start it with -qmp unix:PATH" in one.reason


def test_a_missing_socket_is_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("none", "file"):
        one = found("-qmp", f"unix:{tmp_path / name},server=on")
        assert not one.tappable
        assert f"its QMP socket {tmp_path / name} does not exist" in one.reason


@pytest.mark.parametrize("where", ["linux.procfs.read_maps", "targets.qemu.discover.ProcessSpace.read_runs"])
def test_a_guest_of_another_user_is_not_tappable(
    sock: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def refuse(*_: object) -> None:
        raise Refused("open", f"/proc/{ME}/maps", "permission denied", "needs ptrace rights")

    monkeypatch.setattr(f"vramtap.{where}", refuse)
    one = found("-qmp", f"unix:{sock},server=on")
    assert not one.tappable
    assert one.url == f"qemu:{sock}"
    assert one.reason == "permission denied: needs ptrace rights"


def test_a_relative_path_starts_at_qemus_working_directory(
    sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sock.parent)
    assert found("-qmp", "unix:vm.qmp,server=on").url == f"qemu:{sock}"


def test_a_path_with_special_characters_is_encoded(tmp_path: Path) -> None:
    path = tmp_path / "a,b? 5%.qmp"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    one = found("-qmp", f"unix:{str(path).replace(',', ',,')},server=on")
    assert one.tappable
    assert parse(one.url).rest == str(path)


@pytest.mark.parametrize("arguments", [[], ["/usr/bin/python3", "-qmp", "unix:/x"], ["qemu-img", "info"]])
def test_other_programs_are_not_listed(arguments: list[str]) -> None:
    assert target_of_process(ME, arguments) is None


@pytest.mark.parametrize("program", ["qemu-system-aarch64", "/usr/libexec/qemu-kvm", "kvm", "/usr/bin/qemu"])
def test_every_name_of_qemu_is_recognised(program: str) -> None:
    assert target_of_process(ME, [program]) is not None


def test_the_device_model_of_a_xen_domain_is_not_listed() -> None:
    arguments = ["/usr/bin/qemu-system-i386", "-xen-domid", "3", "-chardev", "socket,id=libxl-cmd,fd=19"]
    assert target_of_process(1, arguments) is None
