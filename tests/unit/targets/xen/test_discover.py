"""The list of Xen domains."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from support.fake_xen.domain import FakeDomain
from support.fake_xen.host import FakeXen, fake_xen
from vramtap.targets.open import open_target
from vramtap.targets.xen import discover as discover_xen
from vramtap.targets.xen.discover import xen_targets
from vramtap.targets.xen.target import XenTarget

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vramtap.targets.discovered import Discovered


@pytest.fixture
def xen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeXen]:
    monkeypatch.setattr(discover_xen, "in_dom0", lambda: True)
    monkeypatch.setattr(discover_xen, "qmp_socket", lambda domid: str(tmp_path / f"qmp-libxl-{domid}"))
    with fake_xen() as xen:
        yield xen


def listed(*domains: FakeDomain) -> list[Discovered]:
    with ExitStack() as stack:
        for domain in domains:
            stack.enter_context(domain)
        return xen_targets()


def test_no_domain_is_listed_outside_dom0() -> None:
    assert xen_targets() == []


def test_a_domain_is_listed_by_its_name(xen: FakeXen, tmp_path: Path) -> None:
    (found,) = listed(FakeDomain(xen, tmp_path, 7, name="my debian?", pid=4711))
    assert (found.pid, found.tappable, found.reason) == (4711, True, "")
    assert "id 7" in found.description
    target = open_target(found.url)
    assert isinstance(target, XenTarget)
    assert found.url == "xen:my debian%3F"


@pytest.mark.parametrize("names", [("12", "x"), ("twin", "twin")])
def test_an_ambiguous_name_is_not_used(xen: FakeXen, tmp_path: Path, names: tuple[str, str]) -> None:
    first, second = names
    found = listed(FakeDomain(xen, tmp_path, 7, name=first), FakeDomain(xen, tmp_path, 8, name=second))
    assert found[0].url == "xen:7"
    assert found[1].url == ("xen:8" if second == first else f"xen:{second}")


def test_a_domain_that_cannot_be_tapped_has_a_reason(
    xen: FakeXen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = FakeDomain(xen, tmp_path, 7)
    with domain:
        xen.store("/local/domain/7/image/device-model-pid", "none")
        (found,) = xen_targets()
    assert not found.tappable
    assert "no device model in dom0" in found.reason
    monkeypatch.setattr(discover_xen, "qmp_socket", lambda domid: str(tmp_path / "nowhere"))
    (found,) = listed(FakeDomain(xen, tmp_path, 8))
    assert not found.tappable
    assert "run as root in dom0" in found.reason


def test_missing_xen_library_names_its_package(xen: FakeXen) -> None:
    xen.absent.add("libxenstore")
    (found,) = xen_targets()
    assert not found.tappable
    assert "apt install libxenstore4" in found.reason
