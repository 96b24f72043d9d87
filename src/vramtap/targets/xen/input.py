"""Keyboard and pointer of a Xen domain, which may be another domain from one key to the next."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from vramtap.errors import TargetGone

if TYPE_CHECKING:
    from vramtap.keyboard.events import Input, KeyEvent, PointerEvent

log = logging.getLogger(__name__)


class XenInput:
    """Hands events to the device model there is; while there is none they are lost."""

    def __init__(self) -> None:
        self._model: Input | None = None

    def use(self, model: Input | None) -> None:
        """Send to this one from now on."""
        self._model = model

    async def key(self, event: KeyEvent) -> None:
        """Press or release a key; see `Input`."""
        if self._model is not None:
            try:
                await self._model.key(event)
            except TargetGone as error:
                log.debug("a key is lost: %s", error)

    async def pointer(self, event: PointerEvent, width: int, height: int) -> None:
        """Move the pointer and set the buttons; see `Input`."""
        if self._model is not None:
            try:
                await self._model.pointer(event, width, height)
            except TargetGone as error:
                log.debug("a motion is lost: %s", error)

    async def release_all(self) -> None:
        """Let go of every key and button; see `Input`."""
        if self._model is not None:
            try:
                await self._model.release_all()
            except TargetGone as error:
                log.debug("nothing is held any more: %s", error)
