"""AbstractLock: one holder at a time, and release when the holder ends."""

from __future__ import annotations

import subprocess
import sys
import uuid

import pytest

from support.testbed.supervise import spawn
from vramtap.errors import Refused
from vramtap.linux.abstract_lock import AbstractLock

HOLD = """
import sys
from vramtap.linux.abstract_lock import AbstractLock
held = AbstractLock(sys.argv[1], "it")
print("HELD", flush=True)
sys.stdin.read()
"""


def test_second_holder_is_refused_until_close() -> None:
    name = f"test/{uuid.uuid4()}"
    held = AbstractLock(name, "the log of domain 3")
    with pytest.raises(
        Refused, match=r"lock the log of domain 3: another vramtap holds it \(end the other vramtap"
    ):
        AbstractLock(name, "the log of domain 3")
    other = AbstractLock(name + "x", "another")
    held.close()
    held.close()
    AbstractLock(name, "the same").close()
    other.close()


@pytest.mark.parametrize("end", ["killed", "ended"])
def test_lock_is_released_when_holder_ends(end: str) -> None:
    name = f"test/{uuid.uuid4()}"
    process = spawn([sys.executable, "-c", HOLD, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline() == b"HELD\n"
        with pytest.raises(Refused):
            AbstractLock(name, "it")
        if end == "killed":
            process.kill()
        else:
            process.stdin.close()
        process.wait()
    AbstractLock(name, "it").close()


@pytest.mark.parametrize("name", ["x" * 99, "x" * 100, "x" * 5000, "n\u00e4me \u202e", "\udcff", ""])
def test_any_name_can_be_locked(name: str) -> None:
    name = f"{uuid.uuid4()}{name}"
    held, other = AbstractLock(name, "it"), AbstractLock(name + "y", "another")
    with pytest.raises(Refused):
        AbstractLock(name, "it")
    held.close()
    other.close()
