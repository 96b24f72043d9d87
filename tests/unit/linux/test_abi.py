"""Compare vramtap.linux.abi with a C program compiled with the kernel's headers."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

from vramtap.linux import abi


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    program = tmp_path_factory.mktemp("abi") / "probe"
    source = Path(__file__).with_name("abi_probe.c")
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", program, source], check=True)
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return [line.split() for line in output.splitlines()]


def test_sizes_and_offsets_match_c_compiler(probe: list[list[str]]) -> None:
    checked = set()
    for kind, name, value in probe:
        struct, _, field = name.partition(".")
        if kind == "sizeof":
            assert ctypes.sizeof(getattr(abi, struct)) == int(value), name
        elif kind == "offsetof":
            assert getattr(getattr(abi, struct), field).offset == int(value), name
            checked.add((struct, field))
    ours = {
        (name, field[0])
        for name, struct in vars(abi).items()
        if isinstance(struct, type) and issubclass(struct, ctypes.Structure)
        for field in struct._fields_
    }
    assert checked == ours


def test_numbers_match_kernel_headers(probe: list[list[str]]) -> None:
    numbers = {name: int(value) for kind, name, value in probe if kind == "number"}
    assert len(numbers) >= 22
    assert numbers == {name: getattr(abi, name) for name in numbers}
