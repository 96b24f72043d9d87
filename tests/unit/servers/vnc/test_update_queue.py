"""UpdateQueue: after all updates a client has exactly the screen, whatever it requested."""

from __future__ import annotations

import asyncio
import gc
import struct
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.pictures import Pixels, picture
from support.rfb_decoder import Decoder
from support.synthetic_tap import SyntheticTap
from vramtap.display.region import Rect
from vramtap.errors import TargetGone
from vramtap.rfb.connection import ServerConnection
from vramtap.rfb.events import FramebufferUpdateRequest
from vramtap.rfb.updates import UpdateEncoder
from vramtap.servers.vnc.update_queue import UpdateQueue

WIDTH, HEIGHT = 120, 90
BIG = Rect(0, 0, 1 << 15, 1 << 15)


class Client:
    """A client and its update queue, without a connection between them."""

    def __init__(self, tap: SyntheticTap, *encodings: int) -> None:
        self.tap = tap
        self.rfb = ServerConnection("name", tap.screen.width, tap.screen.height)
        self.rfb.receive(b"RFB 003.008\n\1\1")
        self.rfb.data_to_send()
        self.rfb.receive(struct.pack(f">BxH{len(encodings)}i", 2, len(encodings), *encodings))
        self.viewer = tap.viewer("client").__enter__()
        self.queue = UpdateQueue(self.rfb, tap.screen, self.viewer)
        self._encoder = UpdateEncoder()
        self._data = bytearray()
        self.decoder = Decoder(self._read, tap.screen.width, tap.screen.height)
        self.kinds: list[int] = []
        """Encoding of each rectangle in the last update."""
        self.rects: list[Rect] = []
        """Rectangles with pixels in the last update."""

    @property
    def pixels(self) -> Pixels:
        return self.decoder.pixels

    def request(self, area: Rect = BIG, *, incremental: bool = True) -> None:
        for event in self.rfb.receive(struct.pack(">BB4H", 3, incremental, *area)):
            assert isinstance(event, FramebufferUpdateRequest)
            self.queue.request(event.area, incremental=event.incremental)

    async def answer(self) -> bool:
        """Apply the next update, if there is one; return whether there was."""
        for _ in range(8):
            update = self.queue.next()
            if update is not None:
                self._data += b"".join(self._encoder.encode(update))
                self._apply()
                return True
            await asyncio.sleep(0)  # lets the task that waits for a change run, and then its callback
        return False

    async def first(self) -> None:
        """Get the first picture; leave no request open."""
        self.request()
        assert await self.answer()

    async def catch_up(self) -> None:
        """Request updates until none comes; leave the last request open."""
        for _ in range(100):
            self.request()
            if not await self.answer():
                return
        raise AssertionError("updates without end")

    def _apply(self) -> None:
        kind, count = struct.unpack(">BxH", self._read(4))
        assert kind == 0
        self.kinds, self.rects = [], []
        for _ in range(count):
            x, y, width, height, encoding = struct.unpack(">HHHHi", self._read(12))
            self.kinds.append(encoding)
            if encoding >= 0:
                self.rects.append(Rect(x, y, width, height))
                self.decoder.rectangle(x, y, width, height, encoding)
            elif encoding in (-223, -308):
                if encoding == -308:
                    self._read(20)
                if (height, width) != self.decoder.values.shape:
                    self.decoder.resize(width, height)
        assert not self._data

    def _read(self, size: int) -> bytes:
        taken = bytes(self._data[:size])
        assert len(taken) == size
        del self._data[:size]
        return taken


def new_tap() -> SyntheticTap:
    return SyntheticTap(picture("patches", WIDTH, HEIGHT))


@dataclass(frozen=True)
class Draw:
    rect: Rect
    colour: int

    def on(self, tap: SyntheticTap) -> None:
        rect = self.rect.intersect(Rect(0, 0, tap.screen.width, tap.screen.height))
        if rect is not None:
            tap.draw(rect, self.colour)


@dataclass(frozen=True)
class Scroll:
    rect: Rect
    x: int
    y: int

    def on(self, tap: SyntheticTap) -> None:
        screen = Rect(0, 0, tap.screen.width, tap.screen.height)
        source = self.rect.intersect(screen)
        room = Rect(0, 0, screen.width - self.x, screen.height - self.y)
        if source is not None and room.width > 0 and room.height > 0:
            width, height = min(source.width, room.width), min(source.height, room.height)
            tap.copy_area(Rect(source.x, source.y, width, height), self.x, self.y)


@dataclass(frozen=True)
class Resize:
    width: int
    height: int

    def on(self, tap: SyntheticTap) -> None:
        tap.resize(picture("noise", self.width, self.height))


@dataclass(frozen=True)
class Request:
    incremental: bool
    area: Rect


def rects(side: int) -> st.SearchStrategy[Rect]:
    return st.builds(Rect, *[st.integers(0, side)] * 2, *[st.integers(1, side)] * 2)


STEPS = st.lists(
    st.one_of(
        st.builds(Draw, rects(130), st.integers(0, 0xFFFFFF)),
        st.builds(Scroll, rects(130), st.integers(0, 100), st.integers(0, 80)),
        st.builds(Resize, st.integers(1, 150), st.integers(1, 150)),
        st.builds(Request, st.booleans(), st.one_of(st.just(BIG), rects(130))),
    ),
    max_size=25,
)


async def play(client: Client, steps: list[Draw | Scroll | Resize | Request]) -> None:
    for step in steps:
        if isinstance(step, Request):
            client.request(step.area, incremental=step.incremental)
            await client.answer()
        else:
            step.on(client.tap)


@pytest.mark.parametrize("resizing", [(-223,), (-308,), (-223, -308)], ids=str)
@settings(deadline=None, max_examples=60)
@given(steps=STEPS)
def test_client_ends_with_the_screen_after_any_steps(
    resizing: tuple[int, ...], steps: list[Draw | Scroll | Resize | Request]
) -> None:
    async def run() -> None:
        client = Client(new_tap(), 0, 1, *resizing)
        await play(client, steps)
        await client.catch_up()
        client.queue.stop()
        assert np.array_equal(client.pixels, client.tap.screen.pixels)

    asyncio.run(run())


@settings(deadline=None, max_examples=60)
@given(steps=STEPS)
def test_client_that_cannot_resize_ends_with_what_fits_and_black(
    steps: list[Draw | Scroll | Resize | Request],
) -> None:
    async def run() -> None:
        client = Client(new_tap(), 0, 1)
        await play(client, steps)
        await client.catch_up()
        client.queue.stop()
        expected = np.zeros((HEIGHT, WIDTH), np.uint32)
        shown = client.tap.screen.pixels[:HEIGHT, :WIDTH]
        expected[: shown.shape[0], : shown.shape[1]] = shown
        assert np.array_equal(client.pixels, expected)

    asyncio.run(run())


async def test_update_is_sent_only_after_a_request() -> None:
    client = Client(new_tap(), 0)
    assert not await client.answer()
    client.request()
    assert await client.answer()
    client.tap.draw(Rect(0, 0, 5, 5), 1)
    assert not await client.answer()
    client.request()
    assert await client.answer()
    assert client.rects == [Rect(0, 0, 16, 16)]
    client.request()
    assert not await client.answer()
    client.queue.stop()


async def test_open_request_is_answered_when_the_screen_changes() -> None:
    client = Client(new_tap(), 0)
    await client.catch_up()
    assert not client.queue.wake.is_set()
    client.tap.draw(Rect(100, 80, 1, 1), 1)
    await asyncio.wait_for(client.queue.wake.wait(), 10)
    assert await client.answer()
    assert client.rects == [Rect(96, 80, 16, 10)]
    client.queue.stop()


async def test_full_request_gets_the_black_margins_again() -> None:
    client = Client(new_tap(), 0)
    await client.first()
    client.tap.resize(picture("noise", 64, 32))
    await client.catch_up()
    client.request(Rect(80, 40, 8, 8), incremental=False)
    assert await client.answer()
    assert client.rects == [Rect(64, 0, WIDTH - 64, HEIGHT), Rect(0, 32, 64, HEIGHT - 32)]
    client.queue.stop()


async def test_full_request_gets_unchanged_pixels_again() -> None:
    client = Client(new_tap(), 0)
    await client.catch_up()
    client.request(Rect(0, 0, 16, 16), incremental=False)
    assert await client.answer()
    assert client.rects == [Rect(0, 0, 16, 16)]
    client.queue.stop()


async def test_full_request_is_answered_while_another_request_is_open() -> None:
    client = Client(new_tap(), 0)
    await client.catch_up()
    client.request(incremental=False)
    assert await client.answer()
    assert client.rects == [Rect(0, 0, WIDTH, HEIGHT)]
    client.queue.stop()


async def test_changes_outside_the_area_neither_answer_nor_busy_loop() -> None:
    client = Client(new_tap(), 0)
    await client.first()
    client.request(Rect(0, 0, 32, 32))
    assert not await client.answer()
    waits = client.tap.fresh_calls
    for x in range(40, 100, 4):
        client.tap.draw(Rect(x, 50, 4, 4), x)
        assert not await client.answer()
    assert client.tap.fresh_calls - waits <= 16
    client.tap.draw(Rect(1, 1, 1, 1), 7)
    assert await client.answer()
    assert client.rects == [Rect(0, 0, 16, 16)]
    await client.catch_up()
    assert np.array_equal(client.pixels, client.tap.screen.pixels)
    client.queue.stop()


async def test_moves_go_only_to_clients_that_support_copy_rect() -> None:
    tap = new_tap()
    copying, plain = Client(tap, 0, 1), Client(tap, 0)
    for client in (copying, plain):
        await client.catch_up()
    tap.copy_area(Rect(0, 16, 112, 64), 0, 0)
    for client in (copying, plain):
        assert await client.answer()
        assert np.array_equal(client.pixels, tap.screen.pixels)
        client.queue.stop()
    assert copying.kinds == [1]
    assert plain.kinds == [0]


async def test_no_move_reads_pixels_that_the_client_does_not_have() -> None:
    client = Client(new_tap(), 0, 1)
    await client.first()
    client.request(Rect(64, 0, 32, 32))
    assert not await client.answer()
    client.tap.draw(Rect(0, 0, 32, 32), 0x123456)
    assert not await client.answer()
    client.tap.copy_area(Rect(0, 0, 32, 32), 64, 0)
    assert await client.answer()
    assert client.kinds == [0]
    assert (client.pixels[:32, 64:96] == 0x123456).all()
    client.queue.stop()


async def test_new_size_is_sent_alone_before_the_pixels() -> None:
    client = Client(new_tap(), 0, -223)
    await client.catch_up()
    client.tap.resize(picture("noise", 200, 50))
    assert await client.answer()
    assert client.kinds == [-223]
    client.request()
    assert await client.answer()
    assert client.kinds == [0]
    assert np.array_equal(client.pixels, client.tap.screen.pixels)
    client.queue.stop()


async def test_scancode_offer_is_sent_with_pixels_or_alone() -> None:
    client = Client(new_tap(), 0, -258)
    client.request()
    assert await client.answer()
    assert client.kinds == [-258, 0]
    late = Client(client.tap, 0)
    await late.catch_up()
    late.rfb.receive(struct.pack(">BxH2i", 2, 2, 0, -258))
    assert await late.answer()
    assert late.kinds == [-258]
    for one in (client, late):
        one.queue.stop()


async def test_end_of_the_target_is_raised_by_next() -> None:
    client = Client(new_tap(), 0)
    await client.catch_up()
    client.tap.end("it exited")
    await asyncio.wait_for(client.queue.wake.wait(), 10)
    with pytest.raises(TargetGone, match="it exited"):
        client.queue.next()


async def test_end_of_the_target_after_stop_leaves_no_unretrieved_error() -> None:
    client = Client(new_tap(), 0)
    await client.catch_up()
    stray: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: stray.append(context))
    client.tap.end("it exited")
    await asyncio.wait_for(client.queue.wake.wait(), 10)
    client.queue.stop()
    await asyncio.sleep(0)
    gc.collect()
    assert stray == []
