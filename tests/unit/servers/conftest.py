"""Fixtures of the servers' tests: an input that records, a tap and a VNC server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.pictures import picture
from support.synthetic_tap import RecordingInput, SyntheticTap
from vramtap.servers.vnc.server import VncServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
def received_input() -> RecordingInput:
    """The input of the `tap`'s target."""
    return RecordingInput()


@pytest.fixture
def tap(received_input: RecordingInput) -> SyntheticTap:
    """A tap of 320x200 pixels."""
    return SyntheticTap(picture("patches", 320, 200), received_input)


@pytest.fixture
async def server(tap: SyntheticTap) -> AsyncIterator[VncServer]:
    """A VNC server of the `tap` on a free port of loopback."""
    async with VncServer(tap, port=0) as server:
        yield server
