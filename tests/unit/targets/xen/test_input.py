"""Keys and motions go to the device model there is, and nowhere while there is none."""

from __future__ import annotations

import pytest

from vramtap.errors import TargetGone, VramtapError
from vramtap.keyboard.events import KeyEvent, PointerEvent
from vramtap.targets.xen.input import XenInput

KEY = KeyEvent(keysym=0x61, down=True, scancode=0x1E)
POINTER = PointerEvent(3, 4, 1)


class Model:
    """A device model's keyboard and pointer, that may have gone."""

    def __init__(self, error: VramtapError | None = None) -> None:
        self.heard: list[object] = []
        self.error = error

    def _hear(self, *what: object) -> None:
        self.heard.append(what)
        if self.error is not None:
            raise self.error

    async def key(self, event: KeyEvent) -> None:
        self._hear(event)

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        self._hear(event, width, height)

    async def release_all(self) -> None:
        self._hear("release")


async def use(given: XenInput) -> None:
    await given.key(KEY)
    await given.pointer(POINTER, 800, 600)
    await given.release_all()


ALL = [(KEY,), (POINTER, 800, 600), ("release",)]


async def test_events_go_to_the_model_there_is_now() -> None:
    given, first, second = XenInput(), Model(), Model()
    await use(given)
    given.use(first)
    await use(given)
    given.use(second)
    await use(given)
    given.use(None)
    await use(given)
    assert first.heard == second.heard == ALL


async def test_a_model_that_has_gone_loses_them() -> None:
    given, model = XenInput(), Model(TargetGone("execute", "domain 3", "ended"))
    given.use(model)
    await use(given)
    assert model.heard == ALL


async def test_another_error_is_told() -> None:
    given = XenInput()
    given.use(Model(VramtapError("input-send-event", "domain 3", "refused")))
    with pytest.raises(VramtapError, match="refused"):
        await given.key(KEY)
