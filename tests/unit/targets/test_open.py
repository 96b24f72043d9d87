"""Which target a TARGET string opens."""

from __future__ import annotations

import pytest

from vramtap.errors import UsageError
from vramtap.targets.machine.demo import DemoTarget
from vramtap.targets.open import open_target
from vramtap.targets.process import ProcessTarget
from vramtap.targets.qemu.target import QemuTarget
from vramtap.targets.shm import FileTarget
from vramtap.targets.x11.target import X11Target
from vramtap.targets.xen.target import XenTarget


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("qemu:/run/vm.qmp", QemuTarget),
        ("x11::99", X11Target),
        ("xen:debian", XenTarget),
        ("pid:1?address=0x1000&mode=8x8", ProcessTarget),
        ("shm:/dev/shm/x?mode=8x8", FileTarget),
        ("demo:", DemoTarget),
    ],
)
def test_each_kind_opens_its_target(url: str, kind: type) -> None:
    target = open_target(url)
    assert isinstance(target, kind)
    assert target.url == url


def test_only_qemu_does_not_announce_its_mode() -> None:
    announcing = ("pid:1?address=0x1000&mode=8x8", "shm:/dev/shm/x?mode=8x8", "demo:")
    assert all(open_target(url).announces_mode for url in announcing)
    assert not open_target("qemu:/run/vm.qmp").announces_mode


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("vbox:1", "not a kind of target"),
        ("x11:99", r"'99' is not a display \(x11::99 for DISPLAY=:99\)"),
        ("x11::99999", "is not a display"),
        ("x11:far.example:0", "cannot be reached from here"),
        ("x11:localhost:10.0", r"for a local display write x11::10"),
    ],
)
def test_an_invalid_string_is_refused(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_target(url)


def test_unix_means_this_machine() -> None:
    target = open_target("x11:unix:7.1")
    assert isinstance(target, X11Target)
    assert str(target.display) == ":7.1"
