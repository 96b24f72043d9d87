"""Keys and pointer events of a domain, whose device model may change."""

from __future__ import annotations

import pytest

from vramtap.errors import TargetGone, VramtapError
from vramtap.keyboard.events import KeyEvent, PointerEvent
from vramtap.targets.xen.input import XenInput

KEY = KeyEvent(keysym=0x61, down=True, scancode=0x1E)
POINTER = PointerEvent(3, 4, 1)


class Model:
    """The input of a device model. Records the events, and raises an error if it has one."""

    def __init__(self, error: VramtapError | None = None) -> None:
        self.events: list[object] = []
        self.error = error

    def _record(self, *event: object) -> None:
        self.events.append(event)
        if self.error is not None:
            raise self.error

    async def key(self, event: KeyEvent) -> None:
        self._record(event)

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        self._record(event, width, height)

    async def release_all(self) -> None:
        self._record("release")


async def send_all(given: XenInput) -> None:
    await given.key(KEY)
    await given.pointer(POINTER, 800, 600)
    await given.release_all()


ALL = [(KEY,), (POINTER, 800, 600), ("release",)]


async def test_events_go_to_the_current_device_model() -> None:
    given, first, second = XenInput(), Model(), Model()
    await send_all(given)
    given.use(first)
    await send_all(given)
    given.use(second)
    await send_all(given)
    given.use(None)
    await send_all(given)
    assert first.events == second.events == ALL


async def test_events_to_a_device_model_that_has_ended_are_dropped() -> None:
    given, model = XenInput(), Model(TargetGone("execute", "domain 3", "ended"))
    given.use(model)
    await send_all(given)
    assert model.events == ALL


async def test_other_errors_are_raised() -> None:
    given = XenInput()
    given.use(Model(VramtapError("input-send-event", "domain 3", "refused")))
    with pytest.raises(VramtapError, match="refused"):
        await given.key(KEY)
